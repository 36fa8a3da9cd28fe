"""Which files an evaluation compares: those named, and those quantized for it. Knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ConfigError
from ...models.fingerprint import fingerprint, of_pair
from ...models.registry.name import BUILTIN
from ...models.registry.resolve import builtin_folder, resolve
from ..variants import plan as variant
from ..variants import schemes


@dataclass(frozen=True, slots=True)
class File:
    """A text model or projector under the name the report gives it."""

    name: str
    path: Path

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def key(self) -> str:
        return of_pair(self.path, None)


@dataclass(frozen=True, slots=True)
class Combination:
    """A text model and, where it sees or hears, a projector."""

    model: File
    projector: File | None

    @property
    def name(self) -> str:
        return f"{self.model.name} + {self.projector.name}" if self.projector else self.model.name

    @property
    def key(self) -> str:
        return of_pair(self.model.path, self.projector.path if self.projector else None)

    @property
    def bytes(self) -> int:
        return self.model.bytes + (self.projector.bytes if self.projector else 0)


Tell = Callable[[str, float], None]
"""Hears what is made, and how much of it is done."""


def grid(
    model: str,
    mmproj: Path | None,
    variants: Sequence[str],
    projectors: Sequence[str],
    folder: Path,
    tell: Tell = lambda *_: None,
) -> list[Combination]:
    """Every text model with every projector, the largest of both first: the baseline. Others are made in `folder`.

    `variants` and `projectors` are names of schemes, or paths. Beside `builtin` the 16-bit pair is found by itself.
    Raises `GalagoError`.
    """
    own = resolve(model, mmproj)
    weights, eyes = [own.weights], [own.projector] if own.projector else []
    if model == BUILTIN and (variants or projectors):
        weights += [path for path in [builtin_folder() / "text-F16.gguf"] if path.exists()]
        eyes += [path for path in [builtin_folder() / "mmproj-F16.gguf"] if path.exists() and mmproj is None]
    if projectors and not eyes:
        raise ConfigError(f"{own.id} has no projector to make variants of; name one with --mmproj", "projectors")
    models = _files(weights, variants, folder, tell)
    seeing = _files(eyes, projectors, folder, tell)
    for file in models:
        resolve(file.path)
        for projector in seeing:
            resolve(file.path, projector.path)
    return [Combination(file, other) for file in models for other in seeing] or [
        Combination(file, None) for file in models
    ]


def _files(given: Sequence[Path], asked: Sequence[str], folder: Path, tell: Tell) -> list[File]:
    paths = [*given, *(Path(name).expanduser() for name in asked if _is_path(name))]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}, and no quantization scheme of that name", "variants")
    found = {path.resolve(): File(_name(path, paths), path) for path in paths}
    files = sorted(found.values(), key=lambda file: -file.bytes)
    for name in asked:
        if _is_path(name):
            continue
        scheme = schemes.find(name)
        if not any(file.path.stem.upper().endswith(f"-{scheme.name}") for file in files):
            files.append(File(scheme.name, made(files[0].path, scheme, folder, tell)))
    return files[:1] + sorted(files[1:], key=lambda file: -file.bytes)


def _name(path: Path, others: Sequence[Path]) -> str:
    """With as much of its folder as tells it from files of the same name elsewhere."""
    alike = {other.resolve() for other in others if other.stem == path.stem}
    return path.stem if len(alike) < 2 else str(path.with_suffix(""))


def _is_path(name: str) -> bool:
    return name.upper() not in schemes.SCHEMES


def made(source: Path, scheme: schemes.Scheme, folder: Path, tell: Tell = lambda *_: None) -> Path:
    """`source` as `scheme`, quantized without calibration unless it has been. Raises `GalagoError`."""
    target = folder / f"{source.stem}-{fingerprint(source)[:16]}-{scheme.name}.gguf"
    if target.exists():
        return target
    if scheme.needs_calibration:
        raise ConfigError(f"{scheme.name} needs calibration: galago quantize makes it; name that file", "variants")
    folder.mkdir(parents=True, exist_ok=True)
    opened = variant.open_source(str(source))
    plan = variant.plan(opened, variant.Recipe(scheme), requantize=True)
    return variant.make(plan, target, progress=lambda i, n, _: tell(f"making {scheme.name} of {source.name}", i / n))
