"""How long a stream pauses while somebody else sends a long prompt, or a new picture, and what that costs the sender.

A pause is counted in the stream's usual intervals between tokens, which are measured just before. Rounds alternate
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

QUIET = 1.5
"""Seconds of the stream before the other client comes."""


@dataclass
class Pauses:
    """One value a round: the longest interval during the disturbance and the share of the usual rate that was left,
    and the seconds until the disturber had its first token."""

    longest: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--words", type=int, default=2600, help="of the long prompt: about 1.5 tokens each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--what", nargs="+", choices=("prompt", "picture"), default=["prompt", "picture"])


def main(options: argparse.Namespace) -> None:
    rng = random.Random(0)
    if "prompt" in options.what:
        model = random_model("135m", "Q4_0")
        _compare(model, "a long prompt", options, lambda: " ".join(rng.choices(WORDS, k=options.words)))
    if "picture" in options.what:
        model = random_model("smolvlm500m", "Q4_0", eyes=True)
        asked = {"type": "text", "text": "What is this?"}
        _compare(model, "a new picture", options, lambda: [picture(rng.randrange(1 << 30)), asked])


def _compare(model: Files, what: str, options: argparse.Namespace, disturb: Callable[[], object]) -> None:
    found = {"galago": Pauses(), "llama-server": Pauses()}
    threads = options.threads
    with (
        galago(model, ["--threads", threads, "--ctx", 16384, "--slots", 2]) as ours,
        llama_server(model, ["-t", threads, "-tb", threads, "-c", 16384, "-np", 2, "-kvu", "--cache-ram", 0]) as theirs,
    ):
        for turn in range(options.rounds + 1):
            for server in (ours, theirs) if turn % 2 else (theirs, ours):
                pauses = found[server.name] if turn else Pauses()  # the first round is warm-up
                _round(server, disturb(), pauses)
    print(f"{model.name}, {threads} threads: another client sends {what}; {options.rounds} rounds")
    for name, pauses in found.items():
        print(f"  {name:<13} longest pause, in usual intervals: {spread(pauses.longest)}")
        print(f"  {'':<13} share of the usual rate:            {spread(pauses.rate)}")
        print(f"  {'':<13} sender's first token, s:            {spread(pauses.first)}", flush=True)


def _round(server: Server, content: object, pauses: Pauses) -> None:
    stream = Answer()
    left = threading.Event()
    running = threading.Thread(target=_stream, args=(server, stream, left))
    running.start()
    while not stream.times and stream.error is None:
        time.sleep(0.01)
    time.sleep(QUIET)
    before = len(stream.times)
    sender = ask(server, content, 2)
    end = time.perf_counter()
    left.set()
    running.join()
    if stream.error or sender.error:
        raise SystemExit(f"{server.name} failed: {stream.error or sender.error}")
    usual = statistics.median(b - a for a, b in itertools.pairwise(stream.times[:before]))
    during = [b - a for a, b in itertools.pairwise([t for t in stream.times[before - 1 :] if t < end] + [end])]
    pauses.longest.append(max(during) / usual)
    pauses.rate.append(len(during) * usual / (end - sender.asked))
    pauses.first.append(sender.first)


def _stream(server: Server, answer: Answer, left: threading.Event) -> None:
    """Random weights at temperature 0 repeat a printable word, so that each token is a piece of text of its own."""
    ask(server, "Tell me a story", 12_000, answer, left, temperature=0, cache=False)
