"""The child's part of calibrating: a model reads samples while an observer sums what its weights see."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ...models.errors import ConfigError
from ...models.gguf.reader import read_header
from ...runtime.llamacpp.imatrix_collector import ImatrixCollector
from ...runtime.llamacpp.programs.load_check import cap
from ...runtime.process.job import Arrays, Report
from ..jobs import CalibrationJob
from . import imatrix, samples
from .imatrix import ImatrixEntry, ImportanceMatrix
from .sample_reader import Reader

_SAVED_EVERY = 30.0
_OUTPUT = "output.weight"
"""A table that is the input's too is left to llama.cpp: what rounding anew wins of it as output it loses as input."""
_PRODUCTS = 64 << 20
"""Products of inputs that are added up: 256 MB, and more where a model has more columns than that is for."""
DONE, KEY = "galago.calibrate.done", "galago.calibrate.key"


def work(job: CalibrationJob, _arrays: Arrays, report: Report) -> int:
    """Reads `files` from unit `done` on, but one of `every` units (0: all), and adds to the matrix in `part`, where it
    saves what it has now and then; with `products` also what rounding anew needs (`rounding.py`).

    Reports `[done, count]` after each unit. Returns the number of units read in all, at most `limit`.
    """
    cap([job.file_bytes])
    wanted = _wanted(job.model, job.products) | (_wanted(job.projector, job.products) if job.projector else {})
    observer = ImatrixCollector(wanted, _PRODUCTS if job.products else 0)
    before = imatrix.read(job.part) if job.done else None
    with Reader(job.model, job.projector, job.chunk_tokens, job.threads, observer) as reader:
        units = reader.units(samples.read(job.files))[: job.limit]
        units = [unit for i, unit in enumerate(units, 1) if not job.every or i % job.every]
        if not units:
            raise ConfigError(
                f"the data is too short: not one stretch of {job.chunk_tokens} tokens, and no chat", "data"
            )
        saved = time.monotonic()
        for done, unit in enumerate(units[job.done :], job.done + 1):
            reader.read(unit)
            report([done, len(units)])
            if done == len(units) or time.monotonic() - saved > _SAVED_EVERY:
                _save(observer, before, done, job)
                saved = time.monotonic()
    return len(units)


def _save(observer: ImatrixCollector, before: ImportanceMatrix | None, done: int, job: CalibrationJob) -> None:
    entries = {
        name: ImatrixEntry(
            sums.astype(np.float32), observer.counts[name].astype(np.float32), observer.products.get(name)
        )
        for name, sums in observer.sums.items()
    }
    matrix = ImportanceMatrix(entries, job.datasets, done - job.done, job.chunk_tokens)
    if before is not None:
        matrix = imatrix.merge([before, matrix])
    imatrix.write(job.part, matrix, {DONE: done, KEY: job.key})


def _wanted(path: Path, output: bool) -> dict[str, int]:
    """The columns of matrices that may be quantized: those of the layers, as llama-imatrix takes them, and all of a
    projector; with `output` also the one that makes logits."""
    header = read_header(path)
    return {
        tensor.name: tensor.shape[0]
        for tensor in header.tensors
        if len(tensor.shape) >= 2 and tensor.name.endswith(".weight")
        if header.is_projector or tensor.name.startswith("blk.") or (output and tensor.name == _OUTPUT)
    }
