"""Converts a checkpoint to a GGUF file, which is tested before it gets its name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from ...models.errors import ConfigError, ModelError
from ...models.gguf.reader import read_header
from ...models.regular_file import open_regular
from ..output_file import check_target, output_file
from ..progress import Progress
from .architectures import read_content
from .checkpoint import Checkpoint, open_checkpoint
from .gguf_content import GGUFContent, GGUFValue
from .gguf_writer import FloatType, padded_bytes, write
from .model_metadata import read_metadata, read_pooling
from .probe_texts import REQUIRED_SCRIPTS
from .selftest import SelftestResult, run_selftest
from .vocabulary import read_vocabulary

_HEADER_BYTES = 64 << 20  # room for the header, most of which is the vocabulary


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What was written. `notes` describe where the file behaves differently from the checkpoint."""

    path: Path
    architecture: str
    tensors: int
    size: int
    notes: tuple[str, ...]
    selftest: SelftestResult


def convert_checkpoint(
    folder: Path, target: Path, float_type: FloatType, force: bool, check: bool, progress: Progress
) -> ConversionResult:
    """Writes the model in `folder` to `target`; with `check` its outputs are compared with transformers'.

    Takes about 100 MiB of memory besides the vocabulary, whatever the model's size. Raises `ModelError` if the
    checkpoint is damaged or its family is not supported, and `ConfigError` if the target exists (without `force`) or
    the disk is too full.
    """
    check_target(target, force)
    checkpoint = open_checkpoint(folder)
    content = read_content(checkpoint)
    vocabulary = read_vocabulary(checkpoint, encoder=content.architecture == "bert")
    extra_metadata = read_metadata(checkpoint, vocabulary) | _pooling(checkpoint, content)
    notes = [*content.notes, *vocabulary.notes]
    check_disk_space(target, padded_bytes(content.tensors, float_type) + _HEADER_BYTES)
    all_metadata: dict[str, GGUFValue] = {
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.file_type": float_type.ftype,
        "general.quantization_version": 2,
        **content.metadata,
        **vocabulary.all_metadata(),
        **extra_metadata,
        **provenance(checkpoint.files, partial(progress, "hashing")),
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
        target, content.architecture, len(content.tensors), target.stat().st_size, tuple(notes), selftest
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
        content.notes.append("the checkpoint does not say how token vectors are pooled into a text vector (1_Pooling)")
    return {f"{content.architecture}.pooling_type": number} if number is not None else {}


def check_disk_space(target: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes:
        raise ConfigError(
            f"{target.name} needs {needed_bytes / 1e9:.2f} GB, but only {free_bytes / 1e9:.2f} GB are free in "
            f"{target.parent}",
            "output",
        )


def provenance(files: tuple[Path, ...], progress: Callable[[float], None]) -> dict[str, GGUFValue]:
    """Returns what the file was made from and with: names and SHA-256 of the weight files, and versions."""
    total_bytes, done, lines = sum(path.stat().st_size for path in files) or 1, 0, []
    for path in files:
        digest = hashlib.sha256()
        with open_regular(path) as file:
            while block := file.read(1 << 22):
                digest.update(block)
                done += len(block)
                progress(done / total_bytes)
        lines.append(f"{path.name} sha256:{digest.hexdigest()}")
    tool = ", ".join(f"{name} {metadata.version(name)}" for name in ("galago", "gguf"))
    return {"galago.convert.source": lines, "galago.convert.tool": tool}
