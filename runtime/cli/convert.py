"""`galago convert`: converts a Hugging Face checkpoint to a GGUF file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...models import units
from ...models.errors import ConfigError
from .ui import report

if TYPE_CHECKING:
    from ...quantize.convert.conversion import ConversionResult
    from ...quantize.convert.selftest import SelftestResult


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="folder of a checkpoint or PEFT LoRA adapter with safetensors files, or OWNER/NAME in the Hub's cache"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="GGUF file to write", metavar="FILE")],
    kind: Annotated[Literal["f16", "bf16", "f32"], typer.Option("--type", help="number format of matrices")] = "f16",
    check: Annotated[
        bool, typer.Option("--check", help="compare the converted model's outputs with those of transformers")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(help="folder with the config.json of an adapter's model, or OWNER/NAME", metavar="DIR"),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(help="folder of llama.cpp's sources: convert with llama.cpp's own converter", metavar="DIR"),
    ] = None,
    mmproj: Annotated[
        bool, typer.Option("--mmproj", help="convert the model's projector (only with --converter)")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse if the file would lack any part of the checkpoint")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace FILE if it exists")] = False,
    as_json: report.Json = False,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF. To quantize the result, use galago quantize."""
    from ...quantize.convert.conversion import convert_checkpoint
    from ...quantize.convert.gguf_writer import FloatType
    from ...quantize.convert.llamacpp_converter import convert_with_llamacpp
    from ...quantize.convert.lora import convert_adapter, is_adapter
    from ...quantize.convert.origin import snapshot_of

    float_type, progress, checkpoint = FloatType[kind.upper()], _progress_line(), snapshot_of(checkpoint)
    is_model = converter is None and not is_adapter(checkpoint)
    for option, given, allowed in (
        ("check", check, is_model),
        ("mmproj", mmproj, converter is not None),
        ("base", base, not is_model),
        ("strict", strict, converter is None),
    ):
        if given and not allowed:
            raise ConfigError(f"--{option} cannot be used for this conversion; see galago convert --help", option)
    if converter is not None:
        result = convert_with_llamacpp(converter, checkpoint, base, output, float_type, force, mmproj, progress)
    elif is_model:
        result = convert_checkpoint(checkpoint, output, float_type, force, check, progress, strict)
    else:
        result = convert_adapter(checkpoint, base, output, float_type, force, progress, strict)
    if as_json:
        report.emit_json(_as_json(result))
        return
    for note in (*(f"left out: {text}" for text in result.left_out), *result.notes):
        print(f"galago: {report.printable(note)}", file=sys.stderr)
    size = units.format_bytes(result.size)
    print(f"{output}: {result.architecture}, {result.tensors} tensors, {size}")
    print("\n".join(_selftest_lines(result.selftest) if is_model else ["  the file's header is valid"]))


def _selftest_lines(selftest: SelftestResult) -> list[str]:
    lines = ["  loads and computes"]
    if selftest.texts:
        same = selftest.texts - len(selftest.mismatches)
        lines.append(f"  tokenizes {same} of {selftest.texts} texts exactly as the original tokenizer")
    if selftest.largest_difference is not None:
        lines.append(
            f"  differs from transformers by at most {selftest.largest_difference:.2g} "
            f"(standard deviation of its outputs: {selftest.reference_std:.2g})"
        )
    return lines


def _as_json(result: ConversionResult) -> dict[str, object]:
    selftest = result.selftest
    return {
        "path": result.path,
        "architecture": result.architecture,
        "tensors": result.tensors,
        "size": result.size,
        "notes": list(result.notes),
        "left_out": list(result.left_out),
        "texts": selftest.texts,
        "texts_read_otherwise": [text for _, text in selftest.mismatches],
        "largest_difference": selftest.largest_difference,
        "spread": selftest.reference_std,
    }


def _progress_line() -> Callable[[str, float], None]:
    """Returns a function that updates one line on a terminal, and does nothing elsewhere."""
    begin, last_update = time.monotonic(), [0.0]

    def show(step: str, fraction: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - begin > 0.3 and (fraction >= 1 or now - last_update[0] > 0.1):
            last_update[0] = now
            finished = step == "testing" and fraction >= 1
            sys.stderr.write("\r\x1b[K" + ("" if finished else f"{step} {fraction:4.0%}"))
            sys.stderr.flush()

    return show
