"""Compares the KL divergence of a model's variants on your own data.

    scripts/check variants MODEL VARIANT... --data FILE... [--mmproj FILE] [--projectors]

Prints the mean divergence in nats for each kind of data, and the ratio of the first variant's divergence to that of
each other variant. The 95 % interval of the ratio comes from 10,000 bootstrap samples. Do not use calibration or
search data.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from galago.quantize.calibrate.calibration import CHUNK_TOKENS
from galago.quantize.jobs import DivergenceJob, VariantSpec
from galago.quantize.search.divergence import SegmentDivergence
from galago.quantize.variants.source import open_source, projector_of
from galago.runtime.config import default_threads
from galago.runtime.process.job import run_job


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("variants", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--mmproj", type=Path)
    parser.add_argument("--projectors", action="store_true", help="the variants are projectors")
    parser.add_argument("--units", type=int, default=60, help="text chunks at most; four times as many chats")
    given = parser.parse_args(arguments)
    projector = given.mmproj or projector_of(given.model)
    measured = divergences(given.model, projector, given.variants, given.data, given.units, given.projectors)
    print("\n".join(compared(measured)))
    return 0


def divergences(
    model: str,
    projector: Path | None,
    variants: Sequence[Path],
    data: Sequence[Path],
    units: int,
    projectors: bool = False,
) -> dict[str, list[SegmentDivergence]]:
    """Measures all variants in one child process; returns their units by path."""
    measured: dict[str, list[SegmentDivergence]] = {}
    source = open_source(model)
    with tempfile.TemporaryDirectory() as folder:
        job = DivergenceJob(
            source=source.path,
            projector=projector,
            varied="projector" if projectors else "model",
            files=tuple(data),
            chunk_tokens=CHUNK_TOKENS,
            max_segments=None,
            max_chunks=units,
            held_out_every=1,
            file_bytes=source.size + (projector.stat().st_size if projector else 0),
            threads=default_threads(),
            folder=Path(folder),
            variants=tuple((str(path), VariantSpec(path=path.absolute())) for path in variants),
        )
        module, name = "galago.quantize.search.divergence_job", source.path.name
        run_job(module, job, name, on_report=lambda report: measured.update({report[0]: report[1]}))
    return measured


def compared(measured: dict[str, list[SegmentDivergence]]) -> list[str]:
    """Formats the comparison of the first variant with each other one, as lines."""
    lines = []
    first, *others = measured.values()
    for kind in dict.fromkeys(kind for kind, _, _ in first):
        rows = np.array([[count for k, count, _ in units if k == kind] for units in (first, *others)])
        nats = np.array([[total for k, _, total in units if k == kind] for units in (first, *others)])
        lines.append(f"{kind}: {rows.shape[1]} chunks or chats, {rows[0].sum()} positions")
        means = nats.sum(axis=1) / rows.sum(axis=1)
        picks = np.random.default_rng(0).integers(0, rows.shape[1], (10_000, rows.shape[1]))
        for i, (path, mean) in enumerate(zip(measured, means, strict=True)):
            ratios = nats[0][picks].sum(axis=1) / nats[i][picks].sum(axis=1)
            low, high = np.quantile(ratios, (0.025, 0.975))
            ratio = f", ratio of the first {means[0] / mean:.3f} ({low:.3f} to {high:.3f})" if i else ""
            lines.append(f"  {path}: {mean:.6f} nats{ratio}")
    return lines
