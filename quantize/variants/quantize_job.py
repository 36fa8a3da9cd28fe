"""Child job of quantization: llama.cpp writes the file, then every block is read back and checked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...models.errors import GGUFError, ModelError
from ...models.gguf.header import GGUFHeader
from ...models.gguf.reader import read_header
from ...runtime.llamacpp.ggml import is_valid
from ...runtime.llamacpp.memory import limit_memory
from ...runtime.llamacpp.quantizer import quantize
from ...runtime.process.job import JobArrays, Report
from ..calibrate import imatrix
from ..jobs import QuantizationJob
from . import invalid_values
from .gptq import round_with_gptq

_NO_IMPORTANCE = re.compile(r"Missing importance matrix for tensor (\S+) in a very low-bit quantization")

_INVALID_DATA = re.compile(r"tensor '([^']+)' has invalid data")


def work(job: QuantizationJob, arrays: JobArrays, report: Report) -> list[list[str | None]]:
    """Quantizes; `arrays` are the importance matrix.

    Reports `[number, count, name]` when a tensor begins. Returns the names of all tensors in the order of the file,
    each with its new type, or `None` if it keeps its own. With `dry_run` nothing is written.
    """
    limit_memory(())
    means, moments = imatrix.split_arrays(arrays)
    tensors: list[list[str | None]] = []

    def started(number: int, count: int, name: str) -> None:
        tensors.append([name, None])
        report([number, count, name])

    def typed(name: str) -> None:
        tensors[-1][1] = name

    try:
        quantize(
            job.source,
            job.target,
            job.ftype,
            job.threads,
            types=job.types,
            pure=job.pure,
            importance=means,
            metadata=job.metadata,
            dry_run=job.dry_run,
            dropped=job.dropped,
            copy=job.copy,
            started=started,
            typed=typed,
        )
    except ModelError as error:
        raise ModelError(_explain(error.message, tensors, job.source), error.param) from None
    if job.gptq and not job.dry_run:
        numbers = {name: number for number, (name, _) in enumerate(tensors, 1)}

        def on_gptq_tensor(name: str) -> None:
            report([numbers[name], len(tensors), f"{name} (GPTQ)"])

        round_with_gptq(job.source, job.target, moments, job.threads, on_gptq_tensor)
    if not job.dry_run:
        _check_blocks(read_header(job.target))
    return tensors


def _explain(message: str, tensors: list[list[str | None]], source: Path) -> str:
    """Rewords llama.cpp's error message and names the tensor."""
    name, kind = tensors[-1] if tensors else ("", None)
    if missing := _NO_IMPORTANCE.search(message):
        return f"the importance matrix has no data for {missing[1]}, without which its type is useless; calibrate again"
    if "quantized data validation failed" in message:
        counts = invalid_values.describe(source, name or "", kind) or "infinite, NaN, or too large"
        return f"tensor {name} contains values that {kind} cannot represent: {counts} (try BF16)"
    if "invalid data" in message and (damaged := _INVALID_DATA.search(message)):
        counts = invalid_values.describe(source, damaged[1], None) or "a weight is infinite or NaN"
        return f"{message}: {counts}, so the file is damaged"
    if "iostream error" in message:
        return f"{message}: the file could not be written" + (f" at tensor {name}" if name else "")
    return f"{message} (at tensor {name})" if name and name not in message else message


def _check_blocks(header: GGUFHeader) -> None:
    for tensor in header.tensors:
        data = np.memmap(header.path, np.uint8, "r", header.data_offset + tensor.offset, (tensor.nbytes or 0,))
        if not is_valid(tensor.type, data):
            raise GGUFError(f"{header.path.name}: tensor {tensor.name} is damaged after writing")
