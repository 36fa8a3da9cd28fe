"""Measures the KL divergence of variants on held-out data, in a child process, and caches the results."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ...models import units
from ...models.errors import ConfigError
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from ...runtime.config import default_threads
from ...runtime.inference.load_check import check_paths
from ...runtime.process.job import run_job
from ..calibrate import samples
from ..calibrate.calibration import CalibrationData
from ..calibrate.imatrix import ImportanceMatrix
from ..jobs import DivergenceJob, VariantSpec
from ..progress import Progress, no_progress
from ..variants.gptq import ROUNDING

HELD_OUT_EVERY = 4
"""Every fourth segment is held out from calibration, to compare variants on."""


class SegmentDivergence(NamedTuple):
    """The divergence on one segment.

    `kind` is text, pictures, sounds or chats; `nats` is the sum over all scored `positions`.
    """

    kind: str
    positions: int
    nats: float


def mean_divergence(segments: Iterable[SegmentDivergence]) -> float:
    """Returns nats per position: the mean of the kinds, so that the few positions of images count as much as text."""
    return fmean(divergence_by_kind(segments).values())


def divergence_by_kind(segments: Iterable[SegmentDivergence]) -> dict[str, float]:
    """Returns nats per position of each kind of segment."""
    totals: dict[str, tuple[int, float]] = {}
    for kind, positions, nats in segments:
        before = totals.get(kind, (0, 0.0))
        totals[kind] = (before[0] + positions, before[1] + nats)
    return {kind: nats / positions for kind, (positions, nats) in totals.items()}


@dataclass(frozen=True)
class DivergenceMeter:
    """Measures the divergence of variants from a model, or, if `vary_projector`, from its projector.

    At most `max_chunks` chunks of text are read, and four times as many chats. Variants are quantized with `matrix`.
    """

    data: CalibrationData
    matrix: ImportanceMatrix | None
    max_chunks: int
    vary_projector: bool = False

    def measure(
        self, variants: Mapping[str, VariantSpec], progress: Progress = no_progress
    ) -> dict[str, list[SegmentDivergence]]:
        """Returns the divergences of each variant by name. Cached measurements are reused."""
        cache = _cache_file(cache_folder() / "sensitivity" / f"{self._key}.json")
        known = cache.read()
        keys = {name: _variant_key(spec) for name, spec in variants.items()}
        missing = {key: variants[name] for name, key in keys.items() if key not in known}
        done = len(keys) - len(missing)
        names = {key: name for name, key in keys.items()}

        def on_report(report: tuple[str, list[SegmentDivergence]]) -> None:
            nonlocal done, known
            key, segments = report
            known = cache.update(lambda rows: {**rows, key: _parse_segments(segments)})
            done += 1
            progress(names[key], done / len(keys))

        if missing:
            check_paths(self.data.source.path, self.data.projector)
            with tempfile.TemporaryDirectory(prefix="galago-search-") as folder:
                self._check_disk_space(Path(folder))
                arrays = self.matrix.arrays() if self.matrix else {}
                job = self._job(Path(folder), missing)
                run_job("galago.quantize.search.divergence_job", job, self._varied_file.name, arrays, on_report)
        return {name: known[key] for name, key in keys.items()}

    @property
    def _varied_file(self) -> Path:
        return self.data.projector if self.vary_projector and self.data.projector else self.data.source.path

    def _job(self, folder: Path, variants: Mapping[str, VariantSpec]) -> DivergenceJob:
        data = self.data
        return DivergenceJob(
            source=data.source.path,
            projector=data.projector,
            varied="projector" if self.vary_projector else "model",
            files=data.files,
            chunk_tokens=data.chunk_tokens,
            max_segments=data.max_segments,
            max_chunks=self.max_chunks,
            held_out_every=HELD_OUT_EVERY,
            file_bytes=data.file_bytes,
            threads=default_threads(),
            folder=folder,
            variants=tuple(variants.items()),
        )

    def _check_disk_space(self, folder: Path) -> None:
        """Raises `ConfigError` if the disk is too full for a variant and the baseline's logits."""
        vocabulary = next((t.shape[-1] for t in self.data.source.tensors if t.name == "token_embd.weight"), 0)
        needed = self.data.source.size + self.max_chunks * self.data.chunk_tokens // 2 * vocabulary * 4
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ConfigError(
                f"comparing variants needs {units.format_bytes(needed)}, but only {units.format_bytes(free)} are free "
                f"in {folder.parent}; set TMPDIR to another folder",
                "size",
            )

    @property
    def _key(self) -> str:
        versions = [metadata.version("galago"), metadata.version("llama-cpp-python")]
        held_out = replace(self.data, held_out_every=HELD_OUT_EVERY).key
        matrix = self.matrix.digest if self.matrix else None
        data = samples.digest(self.data.files)
        facts = [held_out, matrix, ROUNDING, self.max_chunks, self.vary_projector, data, versions]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _variant_key(spec: VariantSpec) -> str:
    """Identifies a variant independently of its name."""
    return hashlib.sha256(json.dumps(asdict(spec), default=str).encode()).hexdigest()[:32]


def _cache_file(path: Path) -> JsonFile[dict[str, list[SegmentDivergence]]]:
    """The cached divergences, by `_variant_key`."""
    return JsonFile(path, _parse, dict)


def _parse(rows: Any) -> dict[str, list[SegmentDivergence]]:
    return {key: _parse_segments(segments) for key, segments in rows.items()}


def _parse_segments(segments: Any) -> list[SegmentDivergence]:
    return [SegmentDivergence(str(kind), int(positions), float(nats)) for kind, positions, nats in segments]
