"""Child job of calibration: a model reads samples while a collector sums the inputs of its weights."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ...models.errors import ConfigError
from ...models.gguf.reader import read_header
from ...models.kept_file import temporary_path
from ...runtime.llamacpp.imatrix_collector import ImatrixCollector
from ...runtime.llamacpp.memory import limit_memory
from ...runtime.process.job import JobArrays, Report
from ..jobs import CalibrationJob
from . import imatrix, samples
from .imatrix import ImatrixEntry, ImportanceMatrix
from .sample_reader import SampleReader

_SAVE_INTERVAL_SECONDS = 30.0
_OUTPUT = "output.weight"
"""If the input shares this table, its rounding is left to llama.cpp: GPTQ would improve the output at the input's
expense."""
_MAX_PRODUCTS = 64 << 20
"""Products of inputs to sum: 256 MB, or more if the model has too many columns for that."""
DONE, KEY, CHECKSUM = "galago.calibrate.done", "galago.calibrate.key", "galago.calibrate.checksum"


def work(job: CalibrationJob, _arrays: JobArrays, report: Report) -> int:
    """Reads the segments after `done_segments` and adds them to the matrix in `part`, which is saved periodically.

    Reports `[done, count]` after each segment. Returns the total number of segments.
    """
    limit_memory([job.file_bytes])
    columns = _columns(job.model, job.products) | (_columns(job.projector, job.products) if job.projector else {})
    collector = ImatrixCollector(columns, _MAX_PRODUCTS if job.products else 0)
    before = imatrix.read(job.part) if job.done_segments else None
    with SampleReader(job.model, job.projector, job.chunk_tokens, job.threads, collector) as reader:
        segments = reader.segments(samples.read(job.files))[: job.max_segments]
        segments = [
            segment for i, segment in enumerate(segments, 1) if not job.held_out_every or i % job.held_out_every
        ]
        if not segments:
            raise ConfigError(
                f"there is too little calibration data: less than {job.chunk_tokens} tokens of text, and no chats",
                "data",
            )
        last_save = time.monotonic()
        for done, segment in enumerate(segments[job.done_segments :], job.done_segments + 1):
            reader.read(segment)
            report([done, len(segments)])
            if done == len(segments) or time.monotonic() - last_save > _SAVE_INTERVAL_SECONDS:
                _save(collector, before, done, job)
                last_save = time.monotonic()
    return len(segments)


def _save(collector: ImatrixCollector, before: ImportanceMatrix | None, done: int, job: CalibrationJob) -> None:
    entries = {
        name: ImatrixEntry(
            sums.astype(np.float32), collector.counts[name].astype(np.float32), collector.products.get(name)
        )
        for name, sums in collector.sums.items()
    }
    matrix = ImportanceMatrix(entries, job.datasets, done - job.done_segments, job.chunk_tokens)
    if before is not None:
        matrix = imatrix.merge([before, matrix])
    with temporary_path(job.part) as part:
        imatrix.write(part, matrix, {DONE: done, KEY: job.key, CHECKSUM: matrix.checksum(done, job.key)})
        part.replace(job.part)


def _columns(path: Path, with_output: bool) -> dict[str, int]:
    """Returns the columns of the matrices that may be quantized.

    They are those of the layers, as in llama-imatrix, and all of a projector; `with_output` adds the output matrix.
    """
    header = read_header(path)
    return {
        tensor.name: tensor.shape[0]
        for tensor in header.tensors
        if len(tensor.shape) >= 2 and tensor.name.endswith(".weight")
        if header.is_projector or tensor.name.startswith("blk.") or (with_output and tensor.name == _OUTPUT)
    }
