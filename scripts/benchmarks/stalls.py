"""Measures stalls of a stream while another client sends a long prompt or a new image, and how long that client waits.

Stalls are given as multiples of the stream's usual interval between tokens, measured just before. Rounds alternate
between Galago and llama-server.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .servers import WORDS, Answer, Files, Server, ask, galago, llama_server, picture, random_model, spread

UNDISTURBED_SECONDS = 1.5
"""Time of the stream before the other client sends its request."""


@dataclass
class Stalls:
    """One value per round: the longest interval between tokens, the fraction of the usual rate, and the seconds until
    the other client's first token."""

    longest: list[float] = field(default_factory=list)
    longest_seconds: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--words", type=int, default=2600, help="words in the long prompt, of about 1.5 tokens each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--what", nargs="+", choices=("prompt", "picture"), default=["prompt", "picture"])


def main(options: argparse.Namespace) -> None:
    rng = random.Random(0)
    if "prompt" in options.what:
        model = random_model("135m", "Q4_0")
        _compare(model, "a long prompt", options, lambda: " ".join(rng.choices(WORDS, k=options.words)))
    if "picture" in options.what:
        model = random_model("smolvlm500m", "Q4_0", with_projector=True)
        asked = {"type": "text", "text": "What is this?"}
        _compare(model, "a new picture", options, lambda: [picture(rng.randrange(1 << 30)), asked])


def _compare(model: Files, what: str, options: argparse.Namespace, disturb: Callable[[], object]) -> None:
    stalls = {"galago": Stalls(), "llama-server": Stalls()}
    threads = options.threads
    with (
        galago(model, ["--threads", threads, "--ctx", 16384, "--slots", 2]) as ours,
        llama_server(model, ["-t", threads, "-tb", threads, "-c", 16384, "-np", 2, "-kvu", "--cache-ram", 0]) as theirs,
    ):
        for turn in range(options.rounds + 1):
            for server in (ours, theirs) if turn % 2 else (theirs, ours):
                measured = stalls[server.name] if turn else Stalls()  # the first round is warm-up
                run_round(server, disturb(), measured)
    print(f"{model.name}, {threads} threads: another client sends {what}; {options.rounds} rounds")
    for name, measured in stalls.items():
        print(f"  {name:<13} longest pause, in usual intervals: {spread(measured.longest)}")
        print(f"  {'':<13} share of the usual rate:            {spread(measured.rate)}")
        print(f"  {'':<13} sender's first token, s:            {spread(measured.first)}", flush=True)


def run_round(server: Server, content: object, measured: Stalls) -> None:
    """Streams an answer while another client asks, and adds a round to `measured`."""
    stream = Answer()
    left = threading.Event()
    running = threading.Thread(target=_stream, args=(server, stream, left))
    running.start()
    while not stream.times and stream.error is None:
        time.sleep(0.01)
    time.sleep(UNDISTURBED_SECONDS)
    before = len(stream.times)
    sender = ask(server, content, 2)
    end = time.perf_counter()
    left.set()
    running.join()
    if stream.error or sender.error:
        raise SystemExit(f"{server.name} failed: {stream.error or sender.error}")
    usual = statistics.median(b - a for a, b in itertools.pairwise(stream.times[:before]))
    during = [b - a for a, b in itertools.pairwise([t for t in stream.times[before - 1 :] if t < end] + [end])]
    measured.longest.append(max(during) / usual)
    measured.longest_seconds.append(max(during))
    measured.rate.append(len(during) * usual / (end - sender.asked))
    measured.first.append(sender.first)


def _stream(server: Server, answer: Answer, left: threading.Event) -> None:
    """Streams at temperature 0, where random weights repeat a printable word, so that each token yields text."""
    ask(server, "Tell me a story", 12_000, answer, left, temperature=0, cache=False)
