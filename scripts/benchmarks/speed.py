"""Tokens per second and time to the first token, Galago against llama-server, as ratios.

Both serve the same random-weight model with the same context, slots and sampling. Rounds alternate between them.
Several clients send requests at once, each with a different prompt, so that no cache helps. The first rounds are
warm-up. Tokens are counted from `usage`. The ratio is computed within each round, because times drift on a shared
machine; the median and the quartiles are printed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import random_gguf
from .servers import WORDS, Answer, Server, ask, busy_cores, galago, llama_server, random_model, spread

CONTEXT = 8192


@dataclass(frozen=True)
class Sample:
    """One round: median time to the first text, and tokens per second. One client's rate is measured from its first
    text, the total rate of several from their requests."""

    first: float
    rate: float
    prompt_tokens: int


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", nargs="+", choices=random_gguf.SHAPES, default=["135m", "1b"])
    parser.add_argument("--scheme", default="Q4_0")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8], help="number of simultaneous clients")
    parser.add_argument("--rounds", type=int, default=12, help="counted rounds of each server")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--words", type=int, default=100, help="length of the prompts")
    parser.add_argument("--tokens", type=int, default=64, help="length of the answers")
    parser.add_argument("--threads", type=int, help="threads of both servers; by default, each chooses for itself")
    parser.add_argument("--gpu-layers", type=int, default=0, help="layers of both on a GPU; needs a build for a GPU")
    parser.add_argument("--baseline", type=Path, help="another checkout of Galago, in place of llama-server")
    parser.add_argument("--busy", action="store_true", help="measure next to one busy process for each core")


def main(options: argparse.Namespace) -> None:
    for shape in options.shapes:
        model = random_model(shape, options.scheme)
        slots = max(options.clients)
        layers = options.gpu_layers
        ours: list[object] = ["--ctx", CONTEXT, "--slots", slots, "--gpu-layers", layers]
        theirs: list[object] = ["-c", CONTEXT, "-np", slots, "-kvu", "--cache-ram", 0, "-ngl", layers]
        if options.threads is not None:
            ours += ["--threads", options.threads]
            theirs += ["-t", options.threads, "-tb", options.threads]
        with ExitStack() as stack:
            if options.busy:
                stack.enter_context(busy_cores())
            other = galago(model, ours, options.baseline) if options.baseline else llama_server(model, theirs)
            servers = [stack.enter_context(galago(model, ours)), stack.enter_context(other)]
            for clients in options.clients:
                samples = measure(servers, clients, options.rounds, options.words, options.tokens, options.warmup)
                _report(model.name, clients, options, samples)


def measure(
    servers: Sequence[Server], clients: int, rounds: int, words: int, tokens: int, warmup: int = 2, **fields: Any
) -> dict[str, list[Sample]]:
    """Samples of each server; the counted rounds follow `warmup` others. `fields` are added to the requests."""
    samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
    choice = random.Random(0)
    with ThreadPoolExecutor(clients) as pool:
        for turn in range(warmup + rounds):
            prompts = [" ".join(choice.choices(WORDS, k=words)) for _ in range(clients)]
            for server in servers if turn % 2 else servers[::-1]:
                answers = list(pool.map(lambda prompt, to=server: ask(to, prompt, tokens, **fields), prompts))
                if turn >= warmup:
                    samples[server.name].append(_sample(answers))
    return samples


def _sample(answers: list[Answer]) -> Sample:
    if len(answers) == 1:
        rate = (answers[0].tokens - 1) / (answers[0].last - answers[0].first)
    else:
        rate = sum(a.tokens for a in answers) / max(a.last for a in answers)
    return Sample(statistics.median(a.first for a in answers), rate, answers[0].usage["prompt_tokens"])


def _report(model: str, clients: int, options: argparse.Namespace, samples: dict[str, list[Sample]]) -> None:
    (_, ours), (other, theirs) = samples.items()
    tokens = statistics.median(s.prompt_tokens for s in ours)
    print(
        f"{model}, {clients} at once, {options.threads or 'own choice of'} threads, "
        f"{os.cpu_count()} cores{', all busy' if options.busy else ''}, {options.gpu_layers} layers on a GPU, "
        f"prompts of {tokens:.0f} tokens, answers of {options.tokens}, {options.rounds} rounds",
        flush=True,
    )
    for label, unit, scale, name in (
        ("decoding" if clients == 1 else "total", "tokens/s", 1, "rate"),
        ("first token", "ms", 1000, "first"),
    ):
        here, there = ([getattr(sample, name) * scale for sample in side] for side in (ours, theirs))
        ratios = [a / b for a, b in zip(here, there, strict=True)]
        print(
            f"  {label:<12} galago {statistics.median(here):8.1f}  {other} {statistics.median(there):8.1f} "
            f"{unit:<9} ratio {spread(ratios)}",
            flush=True,
        )
