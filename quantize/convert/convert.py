"""Converts a checkpoint to a GGUF file: planned, written beside its place, tried, and only then given its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ...models.errors import ConfigError, ModelError
from ...models.gguf.reader import read_header
from .architectures import content
from .checkpoint import Checkpoint, open_checkpoint
from .probes import LATIN
from .selftest import Tried, try_out
from .special import describe, pooling
from .target import Content, Value
from .vocabulary import read_vocabulary
from .writing import Type, size, write

_SPARE = 64 << 20  # bytes for the header, of which the vocabulary is most

Report = Callable[[str, float], None]
"""Told what is being done, and which share of it is."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was made: `notes` say what it does otherwise than the checkpoint."""

    path: Path
    architecture: str
    tensors: int
    size: int
    notes: tuple[str, ...]
    tried: Tried


def convert(folder: Path, target: Path, kind: Type, force: bool, check: bool, report: Report) -> Converted:
    """Writes the model in `folder` to `target`; `check` compares its numbers with transformers'.

    Takes some 100 MiB beside the vocabulary, whatever the model's size. Raises `ModelError` for a checkpoint that is
    damaged or of no known family, `ConfigError` where the target exists (unless `force`) or the disk is too full.
    """
    check_target(target, force)
    checkpoint = open_checkpoint(folder)
    made = content(checkpoint)
    vocabulary = read_vocabulary(checkpoint, encoder=made.architecture == "bert")
    described = describe(checkpoint, vocabulary) | _pooled(checkpoint, made)
    notes = [*made.notes, *vocabulary.notes]
    total = size(made.targets, kind)
    check_disk(target, total + _SPARE)
    stated: dict[str, Value] = {
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.file_type": kind.number,
        "general.quantization_version": 2,
        **made.metadata,
        **vocabulary.all_metadata(),
        **described,
        **provenance(checkpoint.files, lambda share: report("hashing", share)),
    }
    with publishing(target, force) as part:
        write(part, made.architecture, stated, made.targets, kind, lambda share: report("converting", share))
        read_header(part)
        report("trying", 0.0)
        tried = try_out(part, folder, len(vocabulary.tokens), check)
        notes += _misread(tried)
    report("trying", 1.0)
    return Converted(target, made.architecture, len(made.targets), target.stat().st_size, tuple(notes), tried)


def _misread(tried: Tried) -> list[str]:
    """Scripts that the file reads otherwise. Raises `ModelError` where Latin is among them: the tokenizer is wrong."""
    wrong = [text for script, text in tried.other if script in LATIN]
    if wrong:
        raise ModelError(
            f"llama.cpp reads {len(tried.other)} of {tried.texts} texts otherwise than the tokenizer, such as "
            f"{wrong[0]!r}; --converter DIR lets llama.cpp's own converter try",
            "checkpoint",
        )
    scripts = ", ".join(sorted({script for script, _ in tried.other}))
    return [f"llama.cpp cuts texts in these scripts otherwise than the tokenizer: {scripts}"] if scripts else []


def _pooled(checkpoint: Checkpoint, made: Content) -> dict[str, Value]:
    number = pooling(checkpoint)
    if number is None and made.architecture == "bert":
        made.notes.append("it does not say how the vectors of tokens become one of the text (1_Pooling)")
    return {f"{made.architecture}.pooling_type": number} if number is not None else {}


def check_target(target: Path, force: bool) -> None:
    """Raises `ConfigError` where nothing can be written there, or something is that may not be replaced."""
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent} for {target.name}", "output")
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file", "output")
    if target.exists() and not force:
        raise ConfigError(f"{target} exists; --force replaces it", "output")


def check_disk(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ConfigError(
            f"{target.name} takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there", "output"
        )


@contextlib.contextmanager
def publishing(target: Path, force: bool) -> Iterator[Path]:
    """A path beside the target to write to. It gets the target's name where all went well, else it is deleted.

    What a killed run has left has the same name, and is replaced by the next one.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        check_target(target, force)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def provenance(files: tuple[Path, ...], report: Callable[[float], None]) -> dict[str, Value]:
    """What the file was made from and by: names and SHA-256 of the weights, versions."""
    total, done, lines = sum(path.stat().st_size for path in files) or 1, 0, []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
                done += len(block)
                report(done / total)
        lines.append(f"{path.name} sha256:{digest.hexdigest()}")
    made_by = ", ".join(f"{name} {metadata.version(name)}" for name in ("galago", "gguf"))
    return {"galago.convert.source": lines, "galago.convert.tool": made_by}
