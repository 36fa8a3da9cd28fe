"""How much variants of a model lose on what its data holds back: measured in a child process, once, and kept.

Chooses nothing: `search.py` and `pruning.py` say which variants there are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from ...models import units
from ...models.errors import ConfigError
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from ...runtime.config import default_threads
from ...runtime.process.job import run_job
from ..calibrate import samples
from ..calibrate.calibration import Data
from ..calibrate.imatrix import ImportanceMatrix
from ..jobs import DivergenceJob
from ..variants.gptq import ROUNDING

Progress = Callable[[int, int, str], None]
"""Called with how many variants are measured, how many there will be, and which one it was."""
Units = list[tuple[str, int, float]]
"""Of each stretch or chat: text, pictures, sounds or chats; positions; nats in all."""
Variants = Mapping[str, Mapping[str, Any]]
"""By a name, the arguments of `quantizer.quantize`, and `anew` to round once more; or `path`, a file that is there."""

EVERY = 4
"""One unit of so many is held back."""


def mean(units: Iterable[tuple[str, int, float]]) -> float:
    """Nats a position: of each kind of unit, then of the kinds, so that the few positions of pictures count as much as
    the many of texts."""
    return fmean(by_kind(units).values())


def by_kind(units: Iterable[tuple[str, int, float]]) -> dict[str, float]:
    rows: dict[str, tuple[int, float]] = {}
    for kind, count, nats in units:
        before = rows.get(kind, (0, 0.0))
        rows[kind] = (before[0] + count, before[1] + nats)
    return {kind: nats / count for kind, (count, nats) in rows.items()}


@dataclass(frozen=True)
class Measure:
    """The divergence of variants of a model, or of its projector where `projector`, from what both are made of.

    At most `units` stretches of text are read, and four times as many chats. `matrix` rounds the variants.
    """

    data: Data
    matrix: ImportanceMatrix | None
    units: int
    projector: bool = False

    def __call__(self, variants: Variants, progress: Progress = lambda *_: None) -> dict[str, Units]:
        """Of each by its name, in nats. What was measured under the same arguments before is not measured again."""
        file = _measured(cache_folder() / "sensitivity" / f"{self._key}.json")
        known = file.read()
        names = {name: _told(how) for name, how in variants.items()}
        missing = {told: dict(variants[name]) for name, told in names.items() if told not in known}
        done = len(names) - len(missing)
        shown = {told: name for name, told in names.items()}

        def heard(said: tuple[str, Units]) -> None:
            nonlocal done, known
            known = file.update(lambda rows: {**rows, said[0]: said[1]})
            done += 1
            progress(done, len(names), shown[said[0]])

        if missing:
            with tempfile.TemporaryDirectory(prefix="galago-search-") as folder:
                self._check_room(Path(folder))
                importance = self.matrix.arrays() if self.matrix else {}
                job = self._job(Path(folder), missing)
                run_job("galago.quantize.search.divergence_job", job, self._file.name, importance, heard)
        return {name: known[told] for name, told in names.items()}

    @property
    def _file(self) -> Path:
        return self.data.projector if self.projector and self.data.projector else self.data.source.path

    def _job(self, folder: Path, variants: Variants) -> DivergenceJob:
        data = self.data
        return DivergenceJob(
            source=data.source.path,
            projector=data.projector,
            varied="projector" if self.projector else "model",
            files=data.files,
            chunk_tokens=data.chunk,
            limit=data.limit,
            units=self.units,
            every=EVERY,
            file_bytes=data.bytes,
            threads=default_threads(),
            folder=folder,
            variants=tuple((name, dict(arguments)) for name, arguments in variants.items()),
        )

    def _check_room(self, folder: Path) -> None:
        """A variant is as large as its file at most; logits take the vocabulary for each position."""
        embedding = next((t.shape[-1] for t in self.data.source.tensors if t.name == "token_embd.weight"), 0)
        needed = self.data.source.size + self.units * self.data.chunk // 2 * embedding * 4
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ConfigError(
                f"measuring needs {units.format_bytes(needed)} in {folder.parent}, and {units.format_bytes(free)} are "
                "free; set TMPDIR to another folder",
                "size",
            )

    @property
    def _key(self) -> str:
        versions = [metadata.version("galago"), metadata.version("llama-cpp-python")]
        held_back = replace(self.data, every=EVERY).key
        importance = self.matrix.digest if self.matrix else None
        facts = [held_back, importance, ROUNDING, self.units, self.projector, samples.digest(self.data.files), versions]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _told(how: Mapping[str, Any]) -> str:
    """Tells variants apart, whatever they are called."""
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:32]


def _measured(path: Path) -> JsonFile[dict[str, Units]]:
    """The units of variants that were measured, by `_told`."""
    return JsonFile(path, _parse, dict)


def _parse(rows: Any) -> dict[str, Units]:
    return {name: [(str(k), int(n), float(nats)) for k, n, nats in units] for name, units in rows.items()}
