"""Options that several commands share, and the progress line they show. Loads no model code by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="builtin, or the path of a GGUF file")]
Projector = Annotated[
    Path | None, typer.Option("--mmproj", help="projector that gives the model eyes or ears", metavar="FILE")
]
ContextLength = Annotated[
    int | None, typer.Option("--ctx", help="context in tokens  [default: the model's, at most 8192]", metavar="N")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads  [default: physical cores]", metavar="N")]
GpuLayers = Annotated[int, typer.Option(help="layers on the GPU, where the build has one; -1: all", metavar="N")]
System = Annotated[str | None, typer.Option(help="system message", metavar="TEXT")]
MaxTokens = Annotated[int | None, typer.Option(help="longest answer, in tokens", metavar="N")]
Temperature = Annotated[float | None, typer.Option(help="0: always the likeliest token", metavar="X")]
TopP = Annotated[float | None, typer.Option(help="likeliest tokens that make up this share", metavar="X")]
TopK = Annotated[int | None, typer.Option(help="this many likeliest tokens; 0: all", metavar="N")]
MinP = Annotated[float | None, typer.Option(help="tokens at least this share as likely as the best", metavar="X")]
Seed = Annotated[int | None, typer.Option(help="makes a sampled answer repeatable", metavar="N")]
Stop = Annotated[
    list[str] | None, typer.Option(help="end the answer before this text; may be repeated", metavar="TEXT")
]


def progress_line(label: str) -> Callable[[float], None] | None:
    """A line on the terminal that shows the fraction done and vanishes at the end; nothing where there is none."""
    if not sys.stderr.isatty():
        return None

    begin = time.monotonic()

    def show(fraction: float) -> None:
        if time.monotonic() - begin < 0.3:  # what is done at once needs no progress
            return
        text = "" if fraction >= 1 else f"{label} {fraction:4.0%}"
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return show
