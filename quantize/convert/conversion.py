"""Converts a checkpoint to a GGUF file, which is tested before it gets its final name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

from ...models.errors import ConfigError, ModelError
from ...models.gguf.reader import read_header
from ...models.registry.receipt import LEFT_OUT_KEY, MADE_FROM_KEY, VERSION_KEY
from ...models.regular_file import open_regular
from ..output_file import check_target, output_file
from ..progress import Progress
from .architectures import read_content
from .checkpoint import Checkpoint, open_checkpoint
from .gguf_content import GGUFContent, GGUFValue
from .gguf_writer import FloatType, padded_bytes, write
from .model_metadata import note_reading_settings, read_metadata, read_pooling
from .origin import find_origin, snapshot_of
from .probe_texts import REQUIRED_SCRIPTS
from .selftest import SelftestResult, run_selftest
from .vocabulary import read_vocabulary

_HEADER_BYTES = 64 << 20  # room for the header, most of which is the vocabulary


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """The result of a conversion.

    `notes` describe where the file behaves differently from the checkpoint, `left_out` which parts of the checkpoint
    the file lacks. `selftest` is empty for files that were not tested.
    """

    path: Path
    architecture: str
    tensors: int
    size: int
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    selftest: SelftestResult = field(default_factory=SelftestResult)


def convert_checkpoint(
    folder: Path,
    target: Path,
    float_type: FloatType,
    force: bool,
    check: bool,
    progress: Progress,
    strict: bool = False,
) -> ConversionResult:
    """Writes the model in `folder` to `target`; with `check` its outputs are compared with transformers'.

    Takes about 100 MiB of memory besides the vocabulary, whatever the model's size. Raises `ModelError` if the
    checkpoint is damaged or its family is not supported, and `ConfigError` if the target exists (without `force`), the
    disk is too full, or (with `strict`) the file would lack a part of the checkpoint.
    """
    check_target(target, force)
    folder = snapshot_of(folder)
    checkpoint = open_checkpoint(folder)
    content = read_content(checkpoint)
    vocabulary = read_vocabulary(checkpoint, encoder=content.architecture == "bert")
    extra_metadata = read_metadata(checkpoint, vocabulary) | _pooling(checkpoint, content)
    note_reading_settings(checkpoint, vocabulary, content.metadata.get(f"{content.architecture}.context_length"))
    notes = [*checkpoint.notes, *vocabulary.notes]
    check_nothing_left_out(checkpoint.left_out, strict)
    check_disk_space(target, padded_bytes(content.tensors, float_type) + _HEADER_BYTES)
    all_metadata: dict[str, GGUFValue] = {
        "general.type": "model",
        "general.file_type": float_type.ftype,
        "general.quantization_version": 2,
        **content.metadata,
        **vocabulary.all_metadata(),
        **extra_metadata,
        **receipt(folder, checkpoint.files, checkpoint.left_out, partial(progress, "hashing")),
    }
    with output_file(target, force) as part:
        write(
            part, content.architecture, all_metadata, content.tensors, float_type, lambda f: progress("converting", f)
        )
        read_header(part)
        progress("testing", 0.0)
        selftest = run_selftest(part, folder, len(vocabulary.tokens), check)
        notes += _tokenization_notes(selftest)
    progress("testing", 1.0)
    return ConversionResult(
        path=target,
        architecture=content.architecture,
        tensors=len(content.tensors),
        size=target.stat().st_size,
        notes=tuple(notes),
        left_out=tuple(checkpoint.left_out),
        selftest=selftest,
    )


def _tokenization_notes(selftest: SelftestResult) -> list[str]:
    """Names the scripts that are tokenized differently. Raises `ModelError` if a required script is among them."""
    wrong = [text for script, text in selftest.mismatches if script in REQUIRED_SCRIPTS]
    if wrong:
        raise ModelError(
            f"llama.cpp tokenizes {len(selftest.mismatches)} of {selftest.texts} texts differently from the original "
            f"tokenizer, for example {wrong[0]!r}; try llama.cpp's own converter with --converter DIR",
            "checkpoint",
        )
    scripts = ", ".join(sorted({script for script, _ in selftest.mismatches}))
    if not scripts:
        return []
    return [f"llama.cpp tokenizes texts in these scripts differently from the original tokenizer: {scripts}"]


def _pooling(checkpoint: Checkpoint, content: GGUFContent) -> dict[str, GGUFValue]:
    number = read_pooling(checkpoint)
    if number is None and content.architecture == "bert":
        checkpoint.notes.append(
            "the checkpoint does not say how token vectors are pooled into a text vector (1_Pooling)"
        )
    return {f"{content.architecture}.pooling_type": number} if number is not None else {}


def check_disk_space(target: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes:
        raise ConfigError(
            f"{target.name} needs {needed_bytes / 1e9:.2f} GB, but only {free_bytes / 1e9:.2f} GB are free in "
            f"{target.parent}",
            "output",
        )


def check_nothing_left_out(left_out: Sequence[str], strict: bool) -> None:
    if strict and left_out:
        raise ConfigError(
            "nothing was converted, because --strict is set and this would be left out", "strict", left_out
        )


def receipt(
    folder: Path, files: tuple[Path, ...], left_out: Sequence[str], progress: Callable[[float], None]
) -> dict[str, GGUFValue]:
    """Returns metadata about what the file was made from, what was left out, and by which version of Galago.

    `galago.convert.source` lists the names and SHA-256 of the weight files. GGUF has no empty lists.
    """
    total_bytes, done, lines = sum(path.stat().st_size for path in files) or 1, 0, []
    for path in files:
        digest = hashlib.sha256()
        with open_regular(path) as file:
            while block := file.read(1 << 22):
                digest.update(block)
                done += len(block)
                progress(done / total_bytes)
        lines.append(f"{path.name} sha256:{digest.hexdigest()}")
    origin = find_origin(folder)
    return {
        **({"general.name": origin.name} if origin.name else {}),
        MADE_FROM_KEY: origin.text,
        "galago.convert.source": lines,
        **({LEFT_OUT_KEY: list(left_out)} if left_out else {}),
        VERSION_KEY: metadata.version("galago"),
    }
