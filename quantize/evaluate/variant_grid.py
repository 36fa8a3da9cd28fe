"""Selects the variants of an evaluation: files the user names, and files quantized for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ConfigError
from ...models.files import weight_parts
from ...models.fingerprint import fingerprint, pair_fingerprint
from ...models.gguf.header import GGUFHeader
from ...models.json_file import JsonFile
from ...models.registry.name import is_builtin
from ...models.registry.resolve import builtin_folder, resolve
from ...models.regular_file import open_regular
from ..progress import Progress, no_progress
from ..variants import schemes, variant
from ..variants.source import check_not_quantized, open_source


@dataclass(frozen=True, slots=True)
class VariantFile:
    """A text model or projector, with its name in reports."""

    name: str
    path: Path

    @property
    def bytes(self) -> int:
        return sum(part.stat().st_size for part in weight_parts(self.path))

    @property
    def key(self) -> str:
        return pair_fingerprint(self.path, None)


@dataclass(frozen=True, slots=True)
class ModelVariant:
    """A text model, and the projector it is used with, if any."""

    model: VariantFile
    projector: VariantFile | None

    @property
    def name(self) -> str:
        return f"{self.model.name} + {self.projector.name}" if self.projector else self.model.name

    @property
    def key(self) -> str:
        return pair_fingerprint(self.model.path, self.projector.path if self.projector else None)

    @property
    def bytes(self) -> int:
        return self.model.bytes + (self.projector.bytes if self.projector else 0)


def variant_grid(
    model: str,
    mmproj: Path | None,
    variants: Sequence[str],
    projectors: Sequence[str],
    folder: Path,
    progress: Progress = no_progress,
    requantize: bool = False,
    with_original: bool = False,
) -> list[ModelVariant]:
    """Returns every text model with every projector. The pair of the largest files comes first: the baseline.

    `variants` and `projectors` are names of schemes, which are quantized into `folder`, or paths. For `builtin` the
    16-bit file of those that vary is added, or both `with_original`. Raises `GalagoError`, also if schemes are to be
    made of files that are quantized already, unless `requantize`.
    """
    own = resolve(model, mmproj)
    _check_generates(own.header)
    model_paths, projector_paths = [own.weights], [own.projector] if own.projector else []
    if is_builtin(model) and (variants or with_original):
        model_paths += [path for path in [builtin_folder() / "text-F16.gguf"] if path.exists()]
    if is_builtin(model) and (projectors or with_original) and mmproj is None:
        projector_paths += [path for path in [builtin_folder() / "mmproj-F16.gguf"] if path.exists()]
    if projectors and not projector_paths:
        raise ConfigError(f"{own.id} has no projector to make variants of; give one with --mmproj", "projectors")
    models = _files(model_paths, variants, folder, progress, requantize)
    projector_files = _files(projector_paths, projectors, folder, progress, requantize)
    for file in models:
        _check_generates(resolve(file.path).header)
        for projector in projector_files:
            resolve(file.path, projector.path)
    return [ModelVariant(file, projector) for file in models for projector in projector_files] or [
        ModelVariant(file, None) for file in models
    ]


def _check_generates(header: GGUFHeader) -> None:
    if header.pooling is not None:
        use = "scores documents" if header.pooling == "rank" else "computes embeddings"
        raise ConfigError(f"{header.path.name} {use}; galago evaluate compares models that answer questions", "model")


def _files(
    own: Sequence[Path], requested: Sequence[str], folder: Path, progress: Progress, requantize: bool
) -> list[VariantFile]:
    paths = [*own, *(Path(name).expanduser() for name in requested if not schemes.is_scheme(name))]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path} is neither a file nor a quantization scheme", "variants")
    unique = {path.resolve(): VariantFile(_unique_name(path, paths), path) for path in paths}
    files = sorted(unique.values(), key=lambda file: -file.bytes)
    for name in requested:
        if not schemes.is_scheme(name):
            continue
        scheme = schemes.find(name)
        if not any(file.path.stem.upper().endswith(f"-{scheme.name}") for file in files):
            path = quantized_file(files[0].path, scheme, folder, progress, requantize)
            files.append(VariantFile(scheme.name, path))
    return files[:1] + sorted(files[1:], key=lambda file: -file.bytes)


def _unique_name(path: Path, others: Sequence[Path]) -> str:
    """Returns the file name, with its folder if another folder has a file of the same name."""
    same_name = {other.resolve() for other in others if other.stem == path.stem}
    return path.stem if len(same_name) < 2 else str(path.with_suffix(""))


def quantized_file(
    source: Path,
    scheme: schemes.Scheme,
    folder: Path,
    progress: Progress = no_progress,
    requantize: bool = False,
) -> Path:
    """Returns `source` quantized as `scheme` without calibration. Reuses an intact file.

    Raises `GalagoError`, also if the source is quantized already, unless `requantize`.
    """
    opened = open_source(str(source))
    check_not_quantized(opened, requantize)
    target = folder / f"{source.stem}-{fingerprint(source)[:16]}-{scheme.name}.gguf"
    digests: JsonFile[dict[str, str]] = JsonFile(folder / "digests.json", dict, dict)
    if target.exists() and _digest(target) == digests.read().get(target.name):
        return target
    if scheme.needs_calibration:
        raise ConfigError(
            f"{scheme.name} needs calibration: create the file with galago quantize, and give its path", "variants"
        )
    folder.mkdir(parents=True, exist_ok=True)
    plan = variant.plan(opened, variant.Recipe(scheme), requantize=True)
    step = f"quantizing {source.name} as {scheme.name}"
    variant.write(plan, target, force=True, progress=lambda _tensor, fraction: progress(step, fraction))
    digest = _digest(target)
    digests.update(lambda known: {**known, target.name: digest})
    return target


def _digest(path: Path) -> str:
    """Returns "" for a file that cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
