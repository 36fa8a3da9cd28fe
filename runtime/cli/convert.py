"""`galago convert`: from a Hugging Face checkpoint to a GGUF file."""

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
    from ...quantize.convert.convert import Converted


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="folder of a model, or of a PEFT LoRA adapter, in safetensors")],
    output: Annotated[Path, typer.Option("--output", "-o", help="GGUF file to write", metavar="FILE")],
    kind: Annotated[Literal["f16", "bf16", "f32"], typer.Option("--type", help="how matrices are stored")] = "f16",
    check: Annotated[bool, typer.Option("--check", help="compare what it computes with transformers")] = False,
    base: Annotated[
        Path | None, typer.Option(help="folder with the config.json of an adapter's model", metavar="DIR")
    ] = None,
    converter: Annotated[
        Path | None, typer.Option(help="llama.cpp's sources, whose converter does it, for other models", metavar="DIR")
    ] = None,
    mmproj: Annotated[bool, typer.Option("--mmproj", help="the model's projector, by --converter")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the file where it exists")] = False,
    as_json: report.Json = False,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF. Other types: galago quantize, afterwards."""
    from ...quantize.convert.convert import convert as convert_model
    from ...quantize.convert.lora import convert_adapter, is_adapter
    from ...quantize.convert.upstream import convert_with
    from ...quantize.convert.writing import Type

    stored, show = Type[kind.upper()], _progress()
    own = converter is None and not is_adapter(checkpoint)
    for option, given, fits in (("check", check, own), ("mmproj", mmproj, converter), ("base", base, not own)):
        if given and not fits:
            raise ConfigError(f"--{option} does not go with this conversion; see galago convert --help", option)
    if converter is not None:
        made = convert_with(converter, checkpoint, base, output, stored, force, mmproj, show)
    elif own:
        made = convert_model(checkpoint, output, stored, force, check, show)
    else:
        made = convert_adapter(checkpoint, base, output, stored, force, show)
    if as_json:
        report.emit_json(_as_json(made))
        return
    for note in made.notes:
        print(f"galago: {report.printable(note)}", file=sys.stderr)
    told = _told(made) if own else "its header is sound"
    print(f"{output}: {made.architecture}, {made.tensors} tensors, {units.size(made.size)}; {told}")


def _told(made: Converted) -> str:
    tried = made.tried
    said = "it loads and computes"
    if tried.texts:
        same = tried.texts - len(tried.other)
        said += f", and reads {same} of {tried.texts} texts as the tokenizers library does"
    if tried.off is not None:
        said += f"; at most {tried.off:.2g} off transformers, whose numbers spread by {tried.spread:.2g}"
    return said


def _as_json(made: Converted) -> dict[str, object]:
    tried = made.tried
    return {
        "path": made.path,
        "architecture": made.architecture,
        "tensors": made.tensors,
        "size": made.size,
        "notes": list(made.notes),
        "texts": tried.texts,
        "texts_read_otherwise": [text for _, text in tried.other],
        "largest_difference": tried.off,
        "spread": tried.spread,
    }


def _progress() -> Callable[[str, float], None]:
    """One line on the terminal that changes; nothing where there is none."""
    begin, shown = time.monotonic(), [0.0]

    def show(what: str, share: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - begin > 0.3 and (share >= 1 or now - shown[0] > 0.1):
            shown[0] = now
            sys.stderr.write("\r\x1b[K" + ("" if what == "trying" and share >= 1 else f"{what} {share:4.0%}"))
            sys.stderr.flush()

    return show
