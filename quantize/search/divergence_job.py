"""The child's part of measuring: how far variants of a model diverge from it, in what they predict.

The measure is the Kullback-Leibler divergence of the next token's distribution, in nats, source against variant, at the
positions that `Reader.read` scores. Chooses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError
from ...runtime.cache.encoder_cache import EmbeddingCache
from ...runtime.llamacpp.programs.load_check import cap
from ...runtime.llamacpp.quantizer import quantize
from ...runtime.process.job import Arrays, Report
from ...runtime.types.messages import Audio, Image
from ..calibrate import imatrix, samples
from ..calibrate.sample_reader import Reader, Unit
from ..jobs import DivergenceJob
from ..variants.gptq import round_anew

_BLOCK = 16
"""Rows compared at once."""
_KEPT = 1 << 30
"""Bytes of encoded pictures and sounds, which all variants read alike."""


def work(job: DivergenceJob, arrays: Arrays, report: Report) -> None:
    """Reads the units of `files` with `source`, then with each of `variants`, which it makes before: a name and the
    arguments of `quantizer.quantize`, and `anew` if it is rounded once more; or a name and `path`, a file that is
    there. They are variants of the `source`, or of its projector, by what is `varied`; then only what it sees and hears
    is read.

    Reports `[name, [[kind, rows, nats], ...]]` for each, unit by unit, `nats` being the sum of the rows.
    """
    source, projector = job.source, job.projector
    vary_projector = job.varied == "projector"
    baseline = job.folder / "baseline.f32"
    cap([job.file_bytes])
    seen = EmbeddingCache(_KEPT)
    with Reader(source, projector, job.chunk_tokens, job.threads, embeddings=seen) as reader:
        units = searched(reader.units(samples.read(job.files))[: job.limit], job.units, job.every)
        if vary_projector:
            units = [unit for unit in units if kind_of(unit) in ("pictures", "sounds")]
        if not units:
            what = "chats with pictures or sounds" if vary_projector else "stretches or chats"
            raise ConfigError(f"the data is too short to compare variants on: four {what} at least", "data")
        with baseline.open("wb") as file:
            for unit in units:
                reader.read(unit, lambda logits: logits.tofile(file))
    original = projector if vary_projector else source
    assert original is not None
    means, moments = imatrix.apart(arrays)
    for name, arguments in job.variants:
        path = Path(arguments["path"]) if "path" in arguments else job.folder / "variant.gguf"
        if "path" not in arguments:
            anew = arguments.get("anew", False)
            settings = {key: value for key, value in arguments.items() if key != "anew"}
            quantize(original, path, threads=job.threads, importance=means, **settings)
            if anew:
                round_anew(original, path, moments, job.threads, lambda _name: None)
        model, eyes = (source, path) if vary_projector else (path, projector)
        with Reader(model, eyes, job.chunk_tokens, job.threads, embeddings=None if vary_projector else seen) as reader:
            report([name, _compare(reader, units, baseline)])


def searched(units: Sequence[Unit], most: int, every: int) -> list[Unit]:
    """Every fourth unit (`every`), which calibration leaves out: at most so many stretches, and four times as many
    chats."""
    held = units[every - 1 :: every]
    stretches = [unit for unit in held if isinstance(unit, tuple)]
    chats = [unit for unit in held if not isinstance(unit, tuple)]
    return [*stretches[:most], *chats[: 4 * most]]


def _compare(reader: Reader, units: Sequence[Unit], baseline: Path) -> list[tuple[str, int, float]]:
    found = []
    with baseline.open("rb") as file:
        for unit in units:
            nats: list[NDArray[np.float64]] = []

            def compare(logits: NDArray[np.float32], nats: list[NDArray[np.float64]] = nats) -> None:
                for begin in range(0, len(logits), _BLOCK):
                    block = logits[begin : begin + _BLOCK]
                    before = np.fromfile(file, np.float32, block.size).reshape(block.shape)
                    nats.append(divergences(before, block))

            reader.read(unit, compare)
            rows = np.concatenate(nats)
            found.append((kind_of(unit), len(rows), float(rows.sum())))
    return found


def kind_of(unit: Unit) -> str:
    if isinstance(unit, tuple):
        return "text"
    return "pictures" if unit.needs(Image) else "sounds" if unit.needs(Audio) else "chats"


def divergences(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each row of logits: the sum of P (log P - log Q), with P the softmax of `before` and Q that of `after`."""
    p, q = before.astype(np.float64), after.astype(np.float64)
    p -= p.max(axis=1, keepdims=True)
    q -= q.max(axis=1, keepdims=True)
    weights = np.exp(p)
    total = weights.sum(axis=1)
    expected = (weights * (p - q)).sum(axis=1) / total
    return np.asarray(expected - np.log(total) + np.log(np.exp(q).sum(axis=1)))
