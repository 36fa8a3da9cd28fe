"""Plans calibration, runs it in a child process, resumes it, and merges importance matrices."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ConfigError, GalagoError, ModelError
from ...models.fingerprint import fingerprint
from ...models.gguf.reader import read_header
from ...models.kept_file import locked_beside
from ...models.regular_file import open_regular
from ...runtime.config import default_threads
from ...runtime.inference.load_check import check_paths
from ...runtime.process.job import run_job
from ..jobs import CalibrationJob
from ..progress import Progress, no_progress
from ..variants.source import SourceModel
from . import imatrix, old_imatrix, samples
from .collect_job import CHECKSUM, DONE, KEY
from .imatrix import ImportanceMatrix
from .old_imatrix import is_old_format

CHUNK_TOKENS = 512
BUILTIN_SEGMENTS = 32
"""Chunks of the built-in text that are read if the user gives no data. More would change importance little."""


@dataclass(frozen=True)
class CalibrationData:
    """Data for a model to read: files of samples, in chunks of `chunk_tokens`, at most `max_segments` chunks and chats.

    `matrices` were collected before; their sums are added. Every `held_out_every`-th segment is left out, to compare
    variants on (0: none). With `products`, the products of inputs and the inputs of the output matrix are collected.
    """

    source: SourceModel
    projector: Path | None
    files: tuple[Path, ...]
    matrices: tuple[Path, ...] = ()
    chunk_tokens: int = CHUNK_TOKENS
    max_segments: int | None = None
    builtin: bool = False
    held_out_every: int = 0
    products: bool = False

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.files] or ([samples.BUILTIN] if self.builtin else [])

    @property
    def file_bytes(self) -> int:
        """The size of the model and its projector on disk."""
        return self.source.size + (self.projector.stat().st_size if self.projector else 0)

    @property
    def key(self) -> str:
        """Identifies calibrations whose sums may be added."""
        paths = [*self.source.parts, *([self.projector] if self.projector else [])]
        read = [samples.digest(self.files), self.chunk_tokens, self.max_segments, self.held_out_every, self.products]
        facts = [[fingerprint(path) for path in paths], *read]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def select_data(
    source: SourceModel,
    projector: Path | None,
    files: Sequence[Path],
    chunk_tokens: int | None = None,
    max_segments: int | None = None,
) -> CalibrationData:
    """Sorts files into samples and importance matrices. Without files, selects the built-in text.

    By default, chunks have `CHUNK_TOKENS` tokens, or as many as the model's context.
    """
    if chunk_tokens is None:
        chunk_tokens = min(CHUNK_TOKENS, source.header.context_length or CHUNK_TOKENS)
    for path in files:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", "data")
    matrices = tuple(path for path in files if path.suffix == ".gguf" or _has_gguf_magic(path) or is_old_format(path))
    others = tuple(path for path in files if path not in matrices)
    if not 1 <= chunk_tokens <= 1 << 16:
        raise ConfigError(f"chunks must have 1 to {1 << 16} tokens, not {chunk_tokens}", "chunk")
    if max_segments is not None and max_segments < 1:
        raise ConfigError(f"the number of chunks must be at least 1, not {max_segments}", "chunks")
    builtin = not files
    limit = BUILTIN_SEGMENTS if builtin else max_segments
    return CalibrationData(source, projector, others, matrices, chunk_tokens, limit, builtin)


def _has_gguf_magic(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(4) == b"GGUF"


def collect(data: CalibrationData, part: Path, progress: Progress = no_progress) -> ImportanceMatrix:
    """Returns the importance matrix. The state is saved in `part`, from which a run on the same data resumes.

    Waits while another program uses `part`. Raises `ConfigError` for unusable data, and `ModelError` or `EngineError`
    if the model cannot read it.
    """
    matrices = [old_imatrix.read(path) if is_old_format(path) else imatrix.read(path) for path in data.matrices]
    if data.files or data.builtin:
        if data.source.header.is_projector:
            raise ConfigError(
                "a projector cannot be calibrated alone: calibrate its model, and give the projector with --mmproj",
                "model",
            )
        if data.source.header.is_encoder:
            raise ConfigError(
                f"{data.source.path.name} computes embeddings and cannot be calibrated here: give an importance "
                "matrix, or leave calibration out",
                "data",
            )
        with _locked(part):
            matrices.append(_collect(data, part, progress))
    return imatrix.merge(matrices)


def discard(part: Path) -> None:
    """Deletes the saved state of `collect`."""
    with _locked(part):
        part.unlink(missing_ok=True)


def _locked(part: Path) -> AbstractContextManager[None]:
    return locked_beside(part, f"another program is calibrating, and saves its state in {part}")


def _collect(data: CalibrationData, part: Path, progress: Progress) -> ImportanceMatrix:
    key = data.key
    job = CalibrationJob(
        model=data.source.path,
        projector=data.projector,
        files=data.files,
        datasets=tuple(data.names),
        chunk_tokens=data.chunk_tokens,
        max_segments=data.max_segments,
        held_out_every=data.held_out_every,
        products=data.products,
        file_bytes=data.file_bytes,
        threads=default_threads(),
        part=part,
        done_segments=_done_segments(part, key),
        key=key,
    )

    def on_report(report: tuple[int, int]) -> None:
        done, count = report
        progress(f"{done} of {count}", done / count)

    check_paths(data.source.path, data.projector)
    run_job("galago.quantize.calibrate.collect_job", job, data.source.path.name, on_report=on_report)
    matrix = imatrix.read(part)
    if not any(name.startswith("blk.") for name in matrix.entries):
        raise ModelError(
            f"llama.cpp ran {data.source.path.name}, but none of its matrix products could be observed", "model"
        )
    if not any(entry.sums.any() for entry in matrix.entries.values()):
        raise ModelError(
            f"{data.source.path.name} computes only zeros, as if its weights were zeros, so there is nothing to "
            "calibrate; download or convert it again",
            "model",
        )
    return matrix


def _done_segments(part: Path, key: str) -> int:
    """Returns how many segments an earlier run has read into `part`: 0 if it is damaged or from other data."""
    with contextlib.suppress(GalagoError, ValueError, OSError):
        header = read_header(part)
        done = header.get(DONE)
        if header.get(KEY) == key and header.get(CHECKSUM) == imatrix.read(part).checksum(done, key):
            return done if isinstance(done, int) else 0
    return 0
