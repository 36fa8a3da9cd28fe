"""Compares the estimates of `/v1/plan` for 50 requests with measurements: tokens, time to first token, memory.

The requests have mixed lengths; some continue earlier chats, some have an image. Each is estimated and then sent, one
at a time, to a server with a random-weight model. The machine is benchmarked again before every tenth request. Memory
is the worker's proportional set size (PSS) after the request (Linux). Exits with 1 if token counts are not exact, or if
fewer than 90 % of the other estimates are close enough.
"""

from __future__ import annotations

import argparse
import random
import statistics
from typing import Any

import httpx
import psutil

from galago.models.capacity.throughput import matrix_types
from galago.models.gguf.reader import read_header
from galago.runtime.inference.machine_benchmark import measured

from .fit import pss
from .servers import WORDS, Files, Server, ask, galago, picture, random_model

MAX_TIME_ERROR = 0.25
MAX_MEMORY_ERROR = 0.10
MIN_SHARE = 0.9
"""The share of estimates that must be within these relative errors."""
REQUESTS_PER_BENCHMARK = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--scheme", default="Q4_0")
    parser.add_argument(
        "--images", action="store_true", help="send images; needs a shape with a projector: smolvlm500m"
    )
    parser.add_argument("--threads", type=int, default=2)


def main(options: argparse.Namespace) -> None:
    files = random_model(options.shape, options.scheme, options.images)
    off: dict[str, list[float]] = {"first token": [], "memory": []}
    exact = True
    print("tokens (cached)   first token: planned  measured     off   memory: planned  measured     off  (s, MB)")
    with galago(files, ["--ctx", "4096", "--threads", options.threads]) as server:
        chats = _Chats(options.images)
        for number in range(options.requests):
            if number % REQUESTS_PER_BENCHMARK == 0:
                _benchmark_machine(files, options.threads)
            exact &= _compare(server, chats.next(), off)
    right = exact
    for (name, values), limit in zip(off.items(), (MAX_TIME_ERROR, MAX_MEMORY_ERROR), strict=True):
        near = statistics.mean(abs(value) <= limit for value in values)
        median = statistics.median(map(abs, values))
        print(f"{name}: {near:.0%} of {len(values)} within {limit:.0%}, median {median:.1%} off")
        right &= near >= MIN_SHARE
    print(f"token counts {'all exact' if exact else 'NOT exact'}")
    if not right:
        raise SystemExit(1)


def _benchmark_machine(files: Files, threads: int) -> None:
    kinds = set(matrix_types(read_header(files.weights)))
    kinds |= set(matrix_types(read_header(files.projector))) if files.projector else set()
    measured(kinds, anew=True, threads=threads)


class _Chats:
    """Generates new requests, some of which continue the previous chat."""

    def __init__(self, images: bool) -> None:
        self._random = random.Random(1)
        self._images = images
        self._last: list[dict[str, Any]] = []

    def next(self) -> list[dict[str, Any]]:
        if self._last and len(self._last) < 6 and self._random.random() < 0.4:
            self._last = [*self._last, {"role": "assistant", "content": "Yes."}]
        else:
            self._last = []
        words = self._random.choices(WORDS, k=self._random.choice((8, 40, 150, 400, 900)))
        content: Any = " ".join(words)
        if self._images and self._random.random() < 0.4:
            content = [picture(self._random.randrange(2**32)), {"type": "text", "text": content}]
        self._last = [*self._last, {"role": "user", "content": content}]
        return self._last


def _compare(server: Server, chat: list[dict[str, Any]], off: dict[str, list[float]]) -> bool:
    """Estimates and sends a request, and prints both; returns whether the token counts are as estimated."""
    body = {"messages": chat, "max_tokens": 8}
    plan = httpx.post(f"{server.url}/v1/plan", json=body, timeout=600).json()
    answer = ask(server, chat, 8)
    assert answer.error is None, answer.error
    [worker] = psutil.Process(server.process.pid).children()
    first, memory = plan["seconds"]["first_token"], plan["peak_memory_bytes"]
    taken = pss(worker.pid)
    pairs = ((first, answer.first), (memory, taken))
    for values, (planned, real) in zip(off.values(), pairs, strict=True):
        values.append(planned / real - 1)
    tokens, usage = plan["tokens"], answer.usage
    counts = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
    exact = (tokens["total"], tokens["cached"]) == counts
    print(
        f"{tokens['total']:6} ({tokens['cached']:5}){' ' if exact else '!'} {first:20.3f} {answer.first:9.3f}"
        f"  {off['first token'][-1]:+6.1%} {memory / 1e6:15.1f} {taken / 1e6:9.1f}  {off['memory'][-1]:+6.1%}",
        flush=True,
    )
    return exact
