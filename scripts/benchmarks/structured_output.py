"""Measures what holding an answer to a form costs: tokens per second with a schema, a pattern or tools, and without.

Rounds with and without take turns, in this process, at a vocabulary of 128,256 tokens. The median of the rounds' ratios
is shown, and the quartiles.
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
FORMS: dict[str, dict[str, Any]] = {
    "schema": {"json_schema": _PEOPLE},
    "regular expression": {"regex": r"(?:[A-Za-zÄÖÜäöü]+[,;.]? )+\."},
    "tools": {"tools": [_TOOL], "tool_choice": "required"},
}
"""All of them go on beyond the longest answer that is measured."""
_ASKED = "Who comes to the party?"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=96, help="length of the answers")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)


def main(options: argparse.Namespace) -> None:
    files = random_model("135m", "Q4_0")
    with load(files.weights, threads=options.threads, slots=1, cache_mib=0) as model:
        for name, form in FORMS.items():
            pairs = [_rates(model, form, turn, options.tokens) for turn in range(options.rounds + 1)][1:]
            held, free = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = spread([a / b for a, b in pairs])
            print(f"{files.name}, {name}: {held:.1f} tokens/s, {free:.1f} without, ratio {ratio}", flush=True)


def _rates(model: LocalModel, form: dict[str, Any], turn: int, tokens: int) -> tuple[float, float]:
    """Tokens per second with the form and without, in an order that changes from turn to turn."""
    found = {}
    for held in (True, False) if turn % 2 else (False, True):
        # without them, what is said of tools stands in the prompt all the same
        told = {"system": GENERIC.instructions(chat_input.tools(form["tools"]))} if "tools" in form and not held else {}
        options: Any = {"temperature": 0.8, "seed": turn, "max_tokens": tokens, "cache": False}
        reply = model.chat(_ASKED, ignore_eos=not held, **options, **(form if held else told))
        assert reply.usage.completion_tokens == tokens, reply
        found[held] = reply.timings.tokens_per_second(tokens) or 0.0
    return found[True], found[False]
