"""Kills the worker during eight streams, and measures how each stream ends and when the next request succeeds."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from .servers import Answer, Server, ask, builtin, galago

STREAMS = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=20, help="crashes for each signal")
    parser.add_argument("--hang-limit", type=float, default=3.0)


def main(options: argparse.Namespace) -> None:
    flags = ["--slots", STREAMS, "--hang-limit", options.hang_limit, "--cache-ram", 0]
    with galago(builtin(), flags) as server:
        for name, times in (("SIGKILL", options.times), ("SIGSEGV", options.times), ("SIGSTOP", 3)):
            ends = [_crash(server, getattr(signal, name)) for _ in range(times)]
            print(
                f"{name} {times} times under {STREAMS} streams: an error on {sum(e[0] for e in ends)} of "
                f"{times * STREAMS} streams, after {max(e[1] for e in ends):.2f} s at most; the next request "
                f"succeeded {sum(e[2] for e in ends)} times, after {max(e[3] for e in ends):.2f} s at most",
                flush=True,
            )


def _crash(server: Server, number: signal.Signals) -> tuple[int, float, bool, float]:
    """Failed streams, longest time to an error, whether the next request succeeded, and its time."""
    answers = [Answer() for _ in range(STREAMS)]
    ended = [0.0] * STREAMS

    def stream(n: int) -> None:
        ask(server, f"Count on from {n}.", 1500, answers[n])
        ended[n] = time.perf_counter()

    with ThreadPoolExecutor(STREAMS) as pool:
        jobs = [pool.submit(stream, n) for n in range(STREAMS)]
        while not all(answer.times for answer in answers) and not all(job.done() for job in jobs):
            threading.Event().wait(0.01)
        worker = max(server.process.children(recursive=True), key=psutil.Process.create_time)
        killed = time.perf_counter()
        worker.send_signal(number)
    failed = sum(answer.error is not None for answer in answers)
    began = time.perf_counter()
    following = ask(server, "How much is 2 plus 3?", 8)
    return failed, max(ended) - killed, following.error is None and bool(following.text), time.perf_counter() - began
