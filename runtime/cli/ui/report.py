"""Output of commands: tables and sizes for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ....models.errors import GalagoError, MediaError

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def error_summary(error: GalagoError) -> str:
    """The first line about an error, with the name of the media file that caused it."""
    if isinstance(error, MediaError) and error.param and error.param not in error.summary:
        if Path(error.param).is_file():
            return f"{error.param}: {error.summary}"
    return error.summary


def emit_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, below their headings."""
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def quantity(number: int, noun: str) -> str:
    """A number of things: "1 file", "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def wide_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Like `table`, but split into several tables that fit the terminal; each begins with the first column."""
    terminal = shutil.get_terminal_size().columns
    widths = [max(len(line[i]) for line in (columns, *rows)) + 2 for i in range(len(columns))]
    blocks: list[list[int]] = []
    for i in range(1, len(columns)):
        if not blocks or widths[0] + sum(widths[j] for j in blocks[-1]) + widths[i] > terminal + 2:
            blocks.append([])
        blocks[-1].append(i)
    selections = [[0, *block] for block in blocks] or [[0]]
    return "\n\n".join(
        table([columns[i] for i in selection], [[row[i] for i in selection] for row in rows])
        for selection in selections
    )


def count(number: int) -> str:
    """A number of parameters, such as 1.3B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def modalities(vision: bool, audio: bool) -> str:
    """What a model takes as input."""
    return ", ".join(["text", *["images"] * vision, *["audio"] * audio])


def printable(text: str, limit: int = 200) -> str:
    """A text from a file or the Hub, without control characters, and cut off after `limit` characters."""
    cut = f"{text[:limit]}..." if len(text) > limit else text
    return "".join(c if c.isprintable() else "?" for c in cut)


def printable_line(text: str) -> str:
    """A path, command or reason, without control characters, and cut off after 4000 characters."""
    return printable(text, 4000)
