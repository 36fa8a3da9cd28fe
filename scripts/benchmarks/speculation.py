"""Measures the speedup of n-gram speculative decoding, in alternating rounds with and without it.

`"cache": false` disables speculation too. With one slot, no cache, and the speed measured from the first token on,
nothing else differs. With random weights, an answer at temperature 0 soon repeats itself, and one at temperature 2
never does. Prints the median and the quartiles of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from galago.runtime import LocalModel, load

from .servers import ROOT, spread

PROMPT = "Write this again, but with Jane instead of John: " + (ROOT / "LICENSE").read_text()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", default=["builtin"])
    parser.add_argument("--tokens", type=int, default=128, help="length of the answers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)


def main(options: argparse.Namespace) -> None:
    for name in options.models:
        with load(name, threads=options.threads, slots=1, cache_mib=0) as model:
            for kind, temperature in (("repeating", 0.0), ("never repeating", 2.0)):
                pairs = [_rates(model, temperature, turn, options.tokens) for turn in range(options.rounds + 1)][1:]
                rates = [statistics.median(side) for side in zip(*pairs, strict=True)]
                print(
                    f"{Path(name).stem} {kind}: {rates[0]:.1f} tokens/s with speculation, {rates[1]:.1f} without, "
                    f"ratio {spread([a / b for a, b in pairs])}"
                )


def _rates(model: LocalModel, temperature: float, turn: int, tokens: int) -> tuple[float, float]:
    """Tokens per second with and without speculation; the order alternates between turns."""
    rates = {}
    for speculate in (True, False) if turn % 2 else (False, True):
        reply = model.chat(
            PROMPT, temperature=temperature, seed=turn, max_tokens=tokens, ignore_eos=True, cache=speculate
        )
        rates[speculate] = reply.timings.tokens_per_second(reply.usage.completion_tokens) or 0.0
    return rates[True], rates[False]
