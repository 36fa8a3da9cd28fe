"""Imports models that other programs stored on this machine, and keeps the list of them.

Imported files stay where they are: they are never copied or deleted. Finds models in the folders of LM Studio and
Ollama and in any other folder. Manifests of other programs are untrusted.
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
from ..kept_file import read_file
from ..log import log_once
from ..paths import data_folder
from . import catalog, pairing, selection
from .name import BUILTIN

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_FILES = 100_000
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model that another program stored. `fingerprints` are those of its files, in order, when it was imported."""

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
    """Returns the model folders of LM Studio and Ollama that exist."""
    home = Path.home()
    places = [home / ".lmstudio/models", home / ".cache/lm-studio/models", home / ".ollama/models"]
    return [place for place in places if place.is_dir()]


def discover(place: Path) -> list[ImportedModel]:
    """Finds the models in a file, in Ollama's folder, or anywhere below another folder. Does not import them.

    Raises `NotFound` if there are none.
    """
    place = place.expanduser().absolute()
    if place.is_file():
        models = list(_models_in_folder(place.parent, [place.name], place.parent))
    elif (place / "manifests").is_dir() and (place / "blobs").is_dir():
        models = list(_models_in_ollama(place))
    else:
        models = [model for folder, names in _gguf_folders(place) for model in _models_in_folder(folder, names, place)]
    if not models:
        raise NotFound(f"there are no GGUF models in {place}", "path")
    return models


def add(models: Sequence[ImportedModel]) -> list[ImportedModel]:
    """Imports models after checking their headers. Returns those that were not imported already.

    Raises `ModelError` for a file that is not a usable model.
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
    header, *_ = [read_header(path) for path in model.paths]
    pairing.check_parts(header, model.weights)
    quant = model.quant or pairing.dominant_type(header)
    return replace(model, quant=quant, fingerprints=tuple(map(fingerprint, model.paths)))


def _with_free_names(
    models: Sequence[ImportedModel], known: Sequence[ImportedModel], reserved: Collection[str]
) -> Iterator[ImportedModel]:
    """Yields the models that are not in the list yet, under names that are not taken."""
    taken = {model.name for model in known} | {*reserved}
    listed = {model.weights for model in known}
    for model in models:
        if model.weights not in listed:
            name = next(name for name in _name_candidates(model.name) if name not in taken)
            taken.add(name)
            listed.add(model.weights)
            yield replace(model, name=name)


def remove(name: str) -> bool:
    """Removes a model from the list but keeps its files. Returns whether it was in the list."""
    if all(model.name != name for model in read_list()):
        return False
    _update(lambda models: [model for model in models if model.name != name])
    return True


def read_list() -> list[ImportedModel]:
    """Returns the imported models: none, after a line in the log, if the list cannot be read."""
    file = _file()
    try:
        return file.read()
    except OSError as error:
        log_once(f"the list of imported models was ignored, because {file.path} cannot be read: {error.strerror}")
    except ValueError:
        log_once(f"the list of imported models was ignored: {_damaged(file.path)}")
    return []


def _update(change: Callable[[list[ImportedModel]], list[ImportedModel]]) -> list[ImportedModel]:
    """Raises `ConfigError` if the list is damaged or cannot be written, and does not overwrite it."""
    file = _file()
    try:
        return file.update(change)
    except OSError as error:
        raise write_error(file.path, error) from error
    except ValueError as error:
        raise ConfigError(f"the list of imported models cannot be changed: {_damaged(file.path)}", "import") from error


def _damaged(path: Path) -> str:
    return f"{path} is damaged; delete it, and import the models again"


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
    """Yields folders with GGUF files, at any depth. Follows no links to folders."""
    seen = 0
    for folder, folders, names in os.walk(place):
        folders.sort()
        seen += len(names)
        if seen > _MAX_FILES:
            raise ConfigError(f"{place} has more than {_MAX_FILES} files; name one of its subfolders", "path")
        gguf_names = sorted(name for name in names if name.lower().endswith(".gguf"))
        if gguf_names:
            yield Path(folder), gguf_names


def _models_in_folder(folder: Path, names: Sequence[str], top: Path) -> Iterator[ImportedModel]:
    """Yields the models among files of a folder, each with a matching projector from the same folder."""
    siblings = sorted(path.name for path in folder.glob("*") if path.suffix.lower() == ".gguf")
    projectors = [folder / name for name in siblings if selection.is_projector_name(name)]
    wanted = {part for name in names for part in selection.sibling_parts(name, siblings)}
    for group in selection.weight_sets(wanted):
        weights = tuple(folder / part for part in group.parts)
        try:
            header = read_header(weights[0])
            projector = pairing.pick_projector(header, [read_header(path) for path in projectors])
        except GalagoError:
            projector = None
        name = re.sub(r"[^a-z0-9._-]+", "-", group.stem).strip("-._") or "model"
        yield ImportedModel(name, weights, projector.path if projector else None, str(top), group.quant)


def _models_in_ollama(place: Path) -> Iterator[ImportedModel]:
    """Yields the models in Ollama's folder. A manifest lists the blobs of weights and projector."""
    for path in sorted((place / "manifests").rglob("*")):
        try:
            layers = json.loads(read_file(path, _MAX_MANIFEST_BYTES))["layers"]
            blobs = {layer["mediaType"].rpartition(".")[2]: _blob_path(place, layer["digest"]) for layer in layers}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # not a manifest, or of an unknown kind
        weights, projector = blobs.get("model"), blobs.get("projector")
        if weights is not None and weights.is_file():
            name = re.sub(r"[^a-z0-9._-]+", "-", f"{path.parent.name}-{path.name}".lower()).strip("-._")
            yield ImportedModel(name, (weights,), projector if projector and projector.is_file() else None, str(place))


def _blob_path(place: Path, digest: str) -> Path | None:
    match = _DIGEST.fullmatch(digest)
    return place / "blobs" / f"sha256-{match[1]}" if match else None


def _name_candidates(name: str) -> Iterator[str]:
    yield name
    for number in range(2, _MAX_FILES):
        yield f"{name}-{number}"
