"""Measures what guessed tokens gain, as ratios of rounds with and without them that take turns.

`"cache": false` also means no guesses; with one slot and no cache, and the speed taken from the first token on, nothing
else differs.
An answer at temperature 0 repeats itself before long where the weights are random; one at temperature 2 never does.
The median of the rounds' ratios is shown, and the quartiles.
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
                    f"{Path(name).stem} {kind}: {rates[0]:.1f} tokens/s with guesses, {rates[1]:.1f} without, "
                    f"ratio {spread([a / b for a, b in pairs])}"
                )


def _rates(model: LocalModel, temperature: float, turn: int, tokens: int) -> tuple[float, float]:
    """Tokens per second with guesses and without, in an order that changes from turn to turn."""
    found = {}
    for guesses in (True, False) if turn % 2 else (False, True):
        reply = model.chat(
            PROMPT, temperature=temperature, seed=turn, max_tokens=tokens, ignore_eos=True, cache=guesses
        )
        found[guesses] = reply.timings.tokens_per_second(reply.usage.completion_tokens) or 0.0
    return found[True], found[False]
