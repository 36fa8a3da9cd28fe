"""How commands print what they found: tables and sizes for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def emit_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def count(number: int) -> str:
    """A number of weights: 1.3B."""
    for unit, least in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= least:
            return f"{number / least:.3g}{unit}"
    return str(number)


def senses(vision: bool, audio: bool) -> str:
    return ", ".join(["text", *["pictures"] * vision, *["sound"] * audio])


def printable(text: str) -> str:
    """A text from a file or the Hub, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])
