"""The child's part of calibrating: a model reads samples while an observer sums what its weights see."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import ConfigError
from ...models.gguf.reader import read_header
from ...runtime.llamacpp.imatrix_collector import ImatrixCollector
from ...runtime.llamacpp.programs.load_check import cap
from ..child import Arrays, Say
from . import imatrix, samples
from .imatrix import ImatrixEntry, Matrix
from .reader import Reader

_SAVED_EVERY = 30.0
_OUTPUT = "output.weight"
"""A table that is the input's too is left to llama.cpp: what rounding anew wins of it as output it loses as input."""
_PRODUCTS = 64 << 20
"""Products of inputs that are added up: 256 MB, and more where a model has more columns than that is for."""
DONE, KEY = "galago.calibrate.done", "galago.calibrate.key"


def work(job: dict[str, Any], _arrays: Arrays, say: Say) -> int:
    """Reads `files` from unit `done` on, but one of `every` units (0: all), and adds to the matrix in `part`, where it
    saves what it has now and then; with `products` also what rounding anew needs (`rounding.py`).

    Says `[done, count]` after each unit. Returns the number of units read in all, at most `limit`.
    """
    model, part = Path(job["model"]), Path(job["part"])
    projector = Path(job["projector"]) if job["projector"] else None
    cap([job["bytes"]])
    wanted = _wanted(model, job["products"]) | (_wanted(projector, job["products"]) if projector else {})
    observer = ImatrixCollector(wanted, _PRODUCTS if job["products"] else 0)
    before = imatrix.read(part) if job["done"] else None
    with Reader(model, projector, job["chunk"], job["threads"], observer) as reader:
        units = reader.units(samples.read([Path(file) for file in job["files"]]))[: job["limit"]]
        units = [unit for i, unit in enumerate(units, 1) if not job["every"] or i % job["every"]]
        if not units:
            raise ConfigError(f"the data is too short: not one stretch of {job['chunk']} tokens, and no chat", "data")
        saved = time.monotonic()
        for done, unit in enumerate(units[job["done"] :], job["done"] + 1):
            reader.read(unit)
            say([done, len(units)])
            if done == len(units) or time.monotonic() - saved > _SAVED_EVERY:
                _save(part, observer, before, done, job)
                saved = time.monotonic()
    return len(units)


def _save(part: Path, observer: ImatrixCollector, before: Matrix | None, done: int, job: dict[str, Any]) -> None:
    entries = {
        name: ImatrixEntry(
            sums.astype(np.float32), observer.counts[name].astype(np.float32), observer.products.get(name)
        )
        for name, sums in observer.sums.items()
    }
    matrix = Matrix(entries, tuple(job["datasets"]), done - job["done"], job["chunk"])
    if before is not None:
        matrix = imatrix.merge([before, matrix])
    imatrix.write(part, matrix, {DONE: done, KEY: job["key"]})


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
