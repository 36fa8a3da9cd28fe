"""Measures the cost of constrained decoding: tokens per second with a schema, a pattern or tools, and without.

Rounds with and without constraints alternate, in this process, with a vocabulary of 128,256 tokens. Prints the median
and the quartiles of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from galago.runtime import LocalModel, chat_input, load
from galago.runtime.output.tool_formats.generic import GENERIC

from .servers import random_model, spread

_PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "minimum": 0, "maximum": 3},
        "likes": {"type": "array", "items": {"enum": ["tea", "coffee", "water"]}},
    },
    "required": ["name", "born", "height", "likes"],
    "additionalProperties": False,
}
_PEOPLE = {"type": "array", "items": _PERSON, "minItems": 100}
_TOOL = {"name": "invite", "parameters": {"type": "object", "properties": {"people": _PEOPLE}, "required": ["people"]}}
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "schema": {"json_schema": _PEOPLE},
    "regular expression": {"regex": r"(?:[A-Za-zÄÖÜäöü]+[,;.]? )+\."},
    "tools": {"tools": [_TOOL], "tool_choice": "required"},
}
"""The measured constraints. Each allows answers that are longer than the measured ones."""
_ASKED = "Who comes to the party?"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=96, help="length of the answers")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)


def main(options: argparse.Namespace) -> None:
    files = random_model("135m", "Q4_0")
    with load(files.weights, threads=options.threads, slots=1, cache_mib=0) as model:
        for name, constraint in CONSTRAINTS.items():
            pairs = [_rates(model, constraint, turn, options.tokens) for turn in range(options.rounds + 1)][1:]
            constrained, free = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = spread([a / b for a, b in pairs])
            print(f"{files.name}, {name}: {constrained:.1f} tokens/s, {free:.1f} without, ratio {ratio}", flush=True)


def _rates(model: LocalModel, constraint: dict[str, Any], turn: int, tokens: int) -> tuple[float, float]:
    """Tokens per second with and without the constraint; the order alternates between turns."""
    rates = {}
    for constrained in (True, False) if turn % 2 else (False, True):
        # without the constraint, the prompt still contains the description of the tools
        unconstrained = (
            {"system": GENERIC.instructions(chat_input.tools(constraint["tools"]))}
            if "tools" in constraint and not constrained
            else {}
        )
        options: Any = {"temperature": 0.8, "seed": turn, "max_tokens": tokens, "cache": False}
        reply = model.chat(
            _ASKED, ignore_eos=not constrained, **options, **(constraint if constrained else unconstrained)
        )
        assert reply.usage.completion_tokens == tokens, reply
        rates[constrained] = reply.timings.tokens_per_second(tokens) or 0.0
    return rates[True], rates[False]
