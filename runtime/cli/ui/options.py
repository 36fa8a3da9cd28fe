"""Options that several commands share, and how they load a model. Imports no model code by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import FlashAttention, KVType

if TYPE_CHECKING:
    from ...python_api import LocalModel

ModelArgument = Annotated[str, typer.Argument(help="builtin, an installed model, or the path of a GGUF file")]
ProjectorOption = Annotated[
    Path | None, typer.Option("--mmproj", help="projector that gives the model eyes or ears", metavar="FILE")
]
ContextLength = Annotated[
    int | None,
    typer.Option("--context", "--ctx", help="context in tokens  [default: the model's, at most 8192]", metavar="N"),
]
Parallel = Annotated[
    int | None, typer.Option("--parallel", "--slots", help="requests answered at once  [default: 4]", metavar="N")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(help="memory it may take, 4GB or 50%; decides --context and --parallel", metavar="SIZE"),
]
Threads = Annotated[
    int | None, typer.Option(help="always so many CPU threads  [default: chosen while it runs]", metavar="N")
]
GpuLayers = Annotated[int, typer.Option(help="layers on the GPU; -1: all that fit, where there is one", metavar="N")]
KVTypeOption = Annotated[KVType, typer.Option("--kv-type", help="how the context is stored: smaller or more exact")]
FlashAttentionOption = Annotated[FlashAttention, typer.Option("--flash-attention", help="auto: where it works")]
Lora = Annotated[
    list[str] | None, typer.Option(help="LoRA adapter and its strength; may be repeated", metavar="FILE[:SCALE]")
]
Draft = Annotated[
    str | None, typer.Option(help="smaller model of the same vocabulary that guesses ahead", metavar="MODEL")
]
JSONSchema = Annotated[
    Path | None, typer.Option(help="answer with JSON that follows the schema in this file", metavar="FILE")
]
LarkGrammar = Annotated[
    Path | None, typer.Option(help="answer with what the Lark grammar in this file allows", metavar="FILE")
]
Regex = Annotated[str | None, typer.Option(help="answer with what this expression matches", metavar="TEXT")]
System = Annotated[str | None, typer.Option(help="system message", metavar="TEXT")]
MaxTokens = Annotated[int | None, typer.Option(help="longest answer, in tokens", metavar="N")]
Temperature = Annotated[float | None, typer.Option(help="0: always the likeliest token", metavar="X")]
TopP = Annotated[float | None, typer.Option(help="likeliest tokens that make up this share", metavar="X")]
TopK = Annotated[int | None, typer.Option(help="this many likeliest tokens; 0: all", metavar="N")]
MinP = Annotated[float | None, typer.Option(help="tokens at least this share as likely as the best", metavar="X")]
Seed = Annotated[int | None, typer.Option(help="makes a sampled answer repeatable", metavar="N")]
StopOption = Annotated[
    list[str] | None, typer.Option(help="end the answer before this text; may be repeated", metavar="TEXT")
]


def load(
    model: str,
    mmproj: Path | None,
    ctx: int | None,
    threads: int | None,
    gpu_layers: int,
    kv_type: KVType = "f16",
    flash_attention: FlashAttention = "auto",
    lora: Sequence[str] | None = None,
    memory: str | None = None,
    draft: str | None = None,
) -> LocalModel:
    """The model for a command that asks one question at a time; says on standard error what is amiss with it."""
    from ...python_api import load as load_model

    loaded = load_model(
        model,
        mmproj=mmproj,
        ctx=ctx,
        threads=threads,
        slots=1,
        gpu_layers=gpu_layers,
        kv_type=kv_type,
        flash_attention=flash_attention,
        lora=lora or (),
        memory=memory,
        draft=draft,
        progress=progress_line("loading"),
    )
    for warning in loaded.info.warnings:
        print(f"galago: {warning}", file=sys.stderr)
    return loaded


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
