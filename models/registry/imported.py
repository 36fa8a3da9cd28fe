"""Models that lie elsewhere on this disk, used where they are: which there are, and finding more.

Knows the folders of LM Studio and Ollama, and the list that Galago keeps of what was imported. Copies nothing, and
never deletes a file that it lists. Manifests and the list are untrusted: what they say is checked before it is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, GalagoError, NotFound
from ..fingerprint import fingerprint
from ..gguf.reader import read_header
from ..hub.cache import write_error
from ..json_file import JsonFile
from ..paths import data_folder
from . import catalog, pairing
from .name import BUILTIN

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_FILES = 100_000
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model used where it lies. `fingerprints` are the fingerprints of its files when it was imported."""

    name: str
    weights: tuple[Path, ...]
    projector: Path | None
    origin: str
    quant: str = ""
    fingerprints: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.weights, *([self.projector] if self.projector else ()))


def default_folders() -> list[Path]:
    """The model folders of other programs that are there."""
    home = Path.home()
    places = [home / ".lmstudio/models", home / ".cache/lm-studio/models", home / ".ollama/models"]
    return [place for place in places if place.is_dir()]


def discover(place: Path) -> list[ImportedModel]:
    """The models in a file, in Ollama's folder, or anywhere below another; none is listed yet.

    Raises `NotFound` where there is none.
    """
    place = place.expanduser().absolute()
    if place.is_file():
        found = list(_models_in_folder(place.parent, [place.name], place.parent))
    elif (place / "manifests").is_dir() and (place / "blobs").is_dir():
        found = list(_models_in_ollama(place))
    else:
        found = [model for folder, names in _gguf_folders(place) for model in _models_in_folder(folder, names, place)]
    if not found:
        raise NotFound(f"there are no GGUF models in {place}", "path")
    return found


def add(models: Sequence[ImportedModel]) -> list[ImportedModel]:
    """Lists models after a look at their headers; those that are listed already, by their files, are left as they are.

    Returns what was added. Raises `ModelError` for a file that is no model.
    """
    listed = {model.weights for model in read_list()}
    checked = [_with_fingerprints(model) for model in models if model.weights not in listed]
    reserved = {entry.name for entry in catalog.entries()} | {BUILTIN}
    if not checked:
        return []
    before: list[ImportedModel] = []

    def append(known: list[ImportedModel]) -> list[ImportedModel]:
        before[:] = known
        return [*known, *_with_free_names(checked, known, reserved)]

    return _update(append)[len(before) :]


def _with_fingerprints(model: ImportedModel) -> ImportedModel:
    header = read_header(model.weights[0])
    pairing.check_parts(header, [str(path) for path in model.weights])
    quant = model.quant or pairing.dominant_type(header)
    return replace(model, quant=quant, fingerprints=tuple(map(fingerprint, model.paths)))


def _with_free_names(
    models: Sequence[ImportedModel], known: Sequence[ImportedModel], reserved: Collection[str]
) -> Iterator[ImportedModel]:
    """Models that are not listed yet, under names that are still free."""
    taken = {model.name for model in known} | {*reserved}
    listed = {model.weights for model in known}
    for model in models:
        if model.weights not in listed:
            name = next(name for name in _name_candidates(model.name) if name not in taken)
            taken.add(name)
            listed.add(model.weights)
            yield replace(model, name=name)


def remove(name: str) -> bool:
    """Takes a model off the list; its files stay where they are. Returns whether it was on it."""
    if all(model.name != name for model in read_list()):
        return False
    _update(lambda models: [model for model in models if model.name != name])
    return True


def read_list() -> list[ImportedModel]:
    """The list. Raises `ConfigError` where it is damaged."""
    file = _file()
    try:
        return file.read()
    except OSError as error:
        raise ConfigError(f"{file.path} cannot be read: {error.strerror}", "import") from error
    except ValueError as error:
        raise ConfigError(f"{file.path} is damaged; delete it, and import again", "import") from error


def _update(change: Callable[[list[ImportedModel]], list[ImportedModel]]) -> list[ImportedModel]:
    file = _file()
    try:
        return file.update(change)
    except OSError as error:
        raise write_error(file.path, error) from error


def _file() -> JsonFile[list[ImportedModel]]:
    return JsonFile(data_folder() / "imported.json", _parse, list, _serialize, durable=True)


def _parse(rows: Any) -> list[ImportedModel]:
    return [_from_row(row) for row in rows]


def _serialize(models: Sequence[ImportedModel]) -> list[dict[str, Any]]:
    return [_row(model) for model in models]


def _row(model: ImportedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "weights": [str(path) for path in model.weights],
        "projector": str(model.projector) if model.projector else None,
        "origin": model.origin,
        "quant": model.quant,
        "marks": list(model.fingerprints),
    }


def _from_row(row: Mapping[str, Any]) -> ImportedModel:
    projector = Path(row["projector"]) if row["projector"] else None
    weights = tuple(Path(path) for path in row["weights"])
    return ImportedModel(
        str(row["name"]), weights, projector, str(row["origin"]), str(row["quant"]), tuple(row["marks"])
    )


def _gguf_folders(place: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with GGUF files, at any depth; links to folders are not followed."""
    seen = 0
    for folder, folders, names in os.walk(place):
        folders.sort()
        seen += len(names)
        if seen > _MAX_FILES:
            raise ConfigError(f"{place} holds more than {_MAX_FILES} files; name a folder within", "path")
        found = sorted(name for name in names if name.lower().endswith(".gguf"))
        if found:
            yield Path(folder), found


def _models_in_folder(folder: Path, names: Sequence[str], top: Path) -> Iterator[ImportedModel]:
    """The models among the files of a folder, each with the projector beside it that fits."""
    beside = sorted(path.name for path in folder.glob("*") if path.suffix.lower() == ".gguf")
    projectors = [folder / name for name in beside if pairing.is_projector_name(name)]
    wanted = {part for name in names for part in pairing.sibling_parts(name, beside)}
    for group in pairing.weight_sets(wanted):
        weights = tuple(folder / part for part in group.parts)
        try:
            header = read_header(weights[0])
            projector = pairing.pick_projector(header, [read_header(path) for path in projectors])
        except GalagoError:
            projector = None
        name = re.sub(r"[^a-z0-9._-]+", "-", group.stem).strip("-._") or "model"
        yield ImportedModel(name, weights, projector.path if projector else None, str(top), group.quant)


def _models_in_ollama(place: Path) -> Iterator[ImportedModel]:
    """The models of Ollama's folder: a manifest names the blobs that are its weights and projector."""
    for path in sorted((place / "manifests").rglob("*")):
        if not path.is_file() or path.stat().st_size > _MAX_MANIFEST_BYTES:
            continue
        try:
            layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
            blobs = {layer["mediaType"].rpartition(".")[2]: _blob_path(place, layer["digest"]) for layer in layers}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # another program's file, or a manifest of another kind
        weights, projector = blobs.get("model"), blobs.get("projector")
        if weights is not None and weights.is_file():
            name = re.sub(r"[^a-z0-9._-]+", "-", f"{path.parent.name}-{path.name}".lower()).strip("-._")
            yield ImportedModel(name, (weights,), projector if projector and projector.is_file() else None, str(place))


def _blob_path(place: Path, digest: str) -> Path | None:
    found = _DIGEST.fullmatch(digest)
    return place / "blobs" / f"sha256-{found[1]}" if found else None


def _name_candidates(name: str) -> Iterator[str]:
    yield name
    for number in range(2, _MAX_FILES):
        yield f"{name}-{number}"
