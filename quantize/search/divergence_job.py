"""Child job that measures how far the predictions of variants diverge from those of the original model.

It computes the Kullback-Leibler divergence of the next token's distribution, in nats, from the source to the variant,
at the positions that `SampleReader.read` scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError
from ...runtime.cache.encoder_cache import EncoderCache
from ...runtime.llamacpp.memory import limit_memory
from ...runtime.llamacpp.quantizer import quantize
from ...runtime.process.job import JobArrays, Report
from ...runtime.sampling.sampler import check_finite
from ...runtime.types.messages import Audio, Image
from ..calibrate import imatrix, samples
from ..calibrate.sample_reader import SampleReader, Segment
from ..jobs import DivergenceJob
from ..variants.gptq import round_with_gptq

_ROWS_PER_BLOCK = 16
"""Rows compared at once."""
_EMBEDDINGS_BYTES = 1 << 30
"""The size of the cache of encoded images and audio, which are the same for all variants of the model."""


def work(job: DivergenceJob, arrays: JobArrays, report: Report) -> None:
    """Reads the held-out segments with `source`, then with each variant, which is written before if it has no `path`.

    If the projector is varied, only segments with images or audio are read. Reports
    `[name, [[kind, positions, nats], ...]]` for each variant, with the sum of nats of each segment.
    """
    source, projector = job.source, job.projector
    vary_projector = job.varied == "projector"
    baseline = job.folder / "baseline.f32"
    limit_memory([job.file_bytes])
    cache = EncoderCache(_EMBEDDINGS_BYTES)
    with SampleReader(source, projector, job.chunk_tokens, job.threads, embeddings=cache) as reader:
        all_segments = reader.segments(samples.read(job.files))[: job.max_segments]
        segments = held_out(all_segments, job.max_chunks, job.held_out_every)
        if vary_projector:
            segments = [segment for segment in segments if kind_of(segment) in ("pictures", "sounds")]
        if not segments:
            what = "chats with images or audio" if vary_projector else "text chunks or chats"
            raise ConfigError(
                f"there is too little data to compare variants on: at least four {what} are needed", "data"
            )
        with baseline.open("wb") as file:

            def write(logits: NDArray[np.float32]) -> None:
                check_finite(logits)
                logits.tofile(file)

            for segment in segments:
                reader.read(segment, write)
    original = projector if vary_projector else source
    assert original is not None
    means, moments = imatrix.split_arrays(arrays)
    for name, spec in job.variants:
        path = spec.path or job.folder / "variant.gguf"
        if spec.path is None:
            quantize(
                original,
                path,
                spec.ftype,
                job.threads,
                types=spec.types,
                pure=spec.pure,
                importance=means,
                dropped=spec.dropped,
                copy=spec.copy,
            )
            if spec.gptq:
                round_with_gptq(original, path, moments, job.threads, lambda _name: None)
        model, model_projector = (source, path) if vary_projector else (path, projector)
        embeddings = None if vary_projector else cache
        with SampleReader(model, model_projector, job.chunk_tokens, job.threads, embeddings=embeddings) as reader:
            report([name, _compare(reader, segments, baseline)])


def held_out(segments: Sequence[Segment], max_chunks: int, every: int) -> list[Segment]:
    """Returns every `every`-th segment: at most `max_chunks` chunks of text, and four times as many chats."""
    selected = segments[every - 1 :: every]
    chunks = [segment for segment in selected if isinstance(segment, tuple)]
    chats = [segment for segment in selected if not isinstance(segment, tuple)]
    return [*chunks[:max_chunks], *chats[: 4 * max_chunks]]


def _compare(reader: SampleReader, segments: Sequence[Segment], baseline: Path) -> list[tuple[str, int, float]]:
    divergences = []
    with baseline.open("rb") as file:
        for segment in segments:
            nats: list[NDArray[np.float64]] = []

            def compare(logits: NDArray[np.float32], nats: list[NDArray[np.float64]] = nats) -> None:
                for begin in range(0, len(logits), _ROWS_PER_BLOCK):
                    block = logits[begin : begin + _ROWS_PER_BLOCK]
                    before = np.fromfile(file, np.float32, block.size).reshape(block.shape)
                    nats.append(kl_divergences(before, block))

            reader.read(segment, compare)
            rows = np.concatenate(nats)
            divergences.append((kind_of(segment), len(rows), float(rows.sum())))
    return divergences


def kind_of(segment: Segment) -> str:
    if isinstance(segment, tuple):
        return "text"
    return "pictures" if segment.has(Image) else "sounds" if segment.has(Audio) else "chats"


def kl_divergences(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the sum of P (log P - log Q) for each row of logits; P is the softmax of `before`, Q that of `after`.

    It is infinite for a row of `after` with NaN or infinity.
    """
    p, q = before.astype(np.float64), after.astype(np.float64)
    is_finite = np.isfinite(q.max(axis=1))
    q[~is_finite] = 0
    p -= p.max(axis=1, keepdims=True)
    q -= q.max(axis=1, keepdims=True)
    weights = np.exp(p)
    total = weights.sum(axis=1)
    expected = (weights * (p - q)).sum(axis=1) / total
    divergences = expected - np.log(total) + np.log(np.exp(q).sum(axis=1))
    return np.where(is_finite, divergences, np.inf)
