"""Sends many requests for a long time and cancels some: none may be lost or stuck, and memory must not grow."""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .servers import WORDS, Answer, Server, ask, builtin, galago, picture

STREAMS = 8
STUCK_SECONDS = 60.0
"""A request that takes longer counts as stuck."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--requests", type=int, default=2000, help="number of requests, spread over that time")


def main(options: argparse.Namespace) -> None:
    ends: Counter[str] = Counter()
    memory: list[tuple[float, float, float]] = []
    pause = options.minutes * 60 / options.requests
    begin = time.monotonic()
    with galago(builtin(), ["--slots", STREAMS]) as server, ThreadPoolExecutor(STREAMS) as pool:
        jobs = []
        for number in range(options.requests):
            jobs.append(pool.submit(_request, server, number))
            if number % (options.requests // 20) == 0:
                memory.append((time.monotonic() - begin, *_memory(server)))
            time.sleep(max(0.0, begin + (number + 1) * pause - time.monotonic()))
        ends.update(job.result() for job in jobs)
        memory.append((time.monotonic() - begin, *_memory(server)))
    print(f"{options.requests} requests in {(time.monotonic() - begin) / 60:.1f} minutes: {dict(ends)}")
    for seconds, api, worker in memory:
        print(f"  {seconds / 60:5.1f} min: API process {api:.1f} MiB, worker {worker:.1f} MiB")
    warm = memory[len(memory) // 3 :]
    for column, name in ((1, "API process"), (2, "worker")):
        values = [entry[column] for entry in warm]
        half = len(values) // 2
        growth = statistics.median(values[half:]) / statistics.median(values[:half]) - 1
        spread = max(values) / min(values) - 1
        print(f"{name} after warm-up: {growth:+.1%} from the first to the second half, {spread:.1%} from least to most")


def _request(server: Server, number: int) -> str:
    """Sends a text of random length, sometimes with one of 20 images; cancels one request in four."""
    rng = random.Random(number)
    text = " ".join(rng.choices(WORDS, k=rng.randint(5, 200)))
    content: object = text
    if rng.random() < 0.2:
        content = [picture(rng.randrange(20)), {"type": "text", "text": text}]
    leave = threading.Event()
    timer = threading.Timer(rng.uniform(0, 0.5), leave.set)
    if cancelled := rng.random() < 0.25:
        timer.start()
    answer, begin = Answer(), time.monotonic()
    ask(server, content, rng.randint(1, 200), answer, leave)
    timer.cancel()
    if time.monotonic() - begin > STUCK_SECONDS:
        return "stuck"
    if answer.error:
        return f"failed: {answer.error}"
    if leave.is_set() and cancelled and not answer.usage:
        return "left"
    return "answered" if answer.usage else "lost"


def _memory(server: Server) -> tuple[float, float]:
    """Proportional set size of the API process and of the worker, in MiB."""
    worker = server.process.children(recursive=True)[0]
    return tuple(process.memory_full_info().pss / 2**20 for process in (server.process, worker))
