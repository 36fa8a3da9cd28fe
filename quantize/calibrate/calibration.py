"""Importance matrices from what a model reads: planned, collected in a child process, gone on with, added up.

Runs no model itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ConfigError, GalagoError, ModelError
from ...models.fingerprint import fingerprint
from ...models.gguf.reader import read_header
from ...runtime.config import default_threads
from ...runtime.process.job import run_job
from ..jobs import CalibrationJob
from ..variants.plan import Source
from . import imatrix, samples
from .collect_job import DONE, KEY
from .imatrix import ImportanceMatrix

Progress = Callable[[int, int], None]
"""Called with how many units are read, and how many there are."""

CHUNK = 512
BUILTIN_UNITS = 32
"""Stretches of the built-in text that are read where nobody gives data: what follows changes importance little."""


@dataclass(frozen=True)
class Data:
    """What is read, by one model: files of samples, in stretches of `chunk` tokens, at most `limit` of them; and
    matrices that were collected before, whose sums are added."""

    source: Source
    projector: Path | None
    files: tuple[Path, ...]
    matrices: tuple[Path, ...] = ()
    chunk: int = CHUNK
    limit: int | None = None
    builtin: bool = False
    every: int = 0
    """One unit of so many is left out, for variants to be compared on; 0: none."""
    products: bool = False
    """Whether the products of inputs are collected too, and what the output's weights see."""

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.files] or ([samples.BUILTIN] if self.builtin else [])

    @property
    def bytes(self) -> int:
        """Of the model and its projector on disk."""
        return self.source.size + (self.projector.stat().st_size if self.projector else 0)

    @property
    def key(self) -> str:
        """Tells apart what may not be added up."""
        paths = [*self.source.parts, *([self.projector] if self.projector else [])]
        read = [samples.digest(self.files), self.chunk, self.limit, self.every, self.products]
        facts = [[fingerprint(path) for path in paths], *read]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def data(
    source: Source,
    projector: Path | None,
    files: Sequence[Path],
    chunk: int = CHUNK,
    limit: int | None = None,
) -> Data:
    """Sorts files into samples and importance matrices. Without any, the built-in text."""
    for path in files:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", "data")
    matrices = tuple(path for path in files if path.suffix == ".gguf" or _begins_like_gguf(path))
    others = tuple(path for path in files if path not in matrices)
    if not 1 <= chunk <= 1 << 16:
        raise ConfigError(f"stretches of {chunk} tokens are not possible", "chunk")
    if limit is not None and limit < 1:
        raise ConfigError(f"{limit} stretches are not possible", "chunks")
    builtin = not files
    return Data(source, projector, others, matrices, chunk, BUILTIN_UNITS if builtin else limit, builtin)


def _begins_like_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def collect(data: Data, part: Path, progress: Progress = lambda *_: None) -> ImportanceMatrix:
    """The importance matrix. What has been read is kept in `part`, and where that is of the same data, gone on with.

    Raises `ConfigError` for data, `ModelError` or `EngineError` where the model cannot read it.
    """
    matrices = [imatrix.read(path) for path in data.matrices]
    if data.files or data.builtin:
        if data.source.header.is_projector:
            raise ConfigError("a projector alone reads nothing: calibrate its model with --mmproj", "model")
        matrices.append(_collect(data, part, progress))
    return imatrix.merge(matrices)


def _collect(data: Data, part: Path, progress: Progress) -> ImportanceMatrix:
    key = data.key
    job = CalibrationJob(
        model=data.source.path,
        projector=data.projector,
        files=data.files,
        datasets=tuple(data.names),
        chunk_tokens=data.chunk,
        limit=data.limit,
        every=data.every,
        products=data.products,
        file_bytes=data.bytes,
        threads=default_threads(),
        part=part,
        done=_done(part, key),
        key=key,
    )
    run_job(
        "galago.quantize.calibrate.collect_job", job, data.source.path.name, on_report=lambda report: progress(*report)
    )
    matrix = imatrix.read(part)
    if not any(name.startswith("blk.") for name in matrix.entries):
        raise ModelError(f"llama.cpp computed {data.source.path.name} and showed no product of a weight", "model")
    return matrix


def _done(part: Path, key: str) -> int:
    """Units that an earlier run has read into `part`."""
    with contextlib.suppress(GalagoError):
        header = read_header(part)
        if header.get(KEY) == key:
            done = header.get(DONE)
            return done if isinstance(done, int) else 0
    return 0
