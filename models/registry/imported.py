"""Models that lie elsewhere on this disk, used where they are: which there are, and finding more.

Knows the folders of LM Studio and Ollama, and the list that Galago keeps of what was imported. Copies nothing, and
never deletes a file that it lists. Manifests and the list are untrusted: what they say is checked before it is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, GalagoError, NotFound
from ..fingerprint import fingerprint
from ..gguf.reader import read_header
from ..hub.cache import cannot_write
from ..paths import data_folder
from . import catalog, pairing
from .name import BUILTIN

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_FILES = 100_000
_LONGEST_MANIFEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Import:
    """A model used where it lies. `marks` are the fingerprints of its files when it was imported."""

    name: str
    weights: tuple[Path, ...]
    projector: Path | None
    origin: str
    quant: str = ""
    marks: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.weights, *([self.projector] if self.projector else ()))


def usual_places() -> list[Path]:
    """The model folders of other programs that are there."""
    home = Path.home()
    places = [home / ".lmstudio/models", home / ".cache/lm-studio/models", home / ".ollama/models"]
    return [place for place in places if place.is_dir()]


def discover(place: Path) -> list[Import]:
    """The models in a file, in Ollama's folder, or anywhere below another; none is listed yet.

    Raises `NotFound` where there is none.
    """
    place = place.expanduser().absolute()
    if place.is_file():
        found = list(_of_folder(place.parent, [place.name], place.parent))
    elif (place / "manifests").is_dir() and (place / "blobs").is_dir():
        found = list(_of_ollama(place))
    else:
        found = [model for folder, names in _folders(place) for model in _of_folder(folder, names, place)]
    if not found:
        raise NotFound(f"there are no GGUF models in {place}", "path")
    return found


def add(models: Sequence[Import]) -> list[Import]:
    """Lists models after a look at their headers; those that are listed already, by their files, are left as they are.

    Returns what was added. Raises `ModelError` for a file that is no model.
    """
    known = read()
    taken = {model.name for model in known} | {entry.name for entry in catalog.entries()} | {BUILTIN}
    listed = {model.weights for model in known}
    added = []
    for model in models:
        if model.weights in listed:
            continue
        header = read_header(model.weights[0])
        pairing.check_parts(header, [str(path) for path in model.weights])
        name = next(n for n in _numbered(model.name) if n not in taken)
        taken.add(name)
        quant = model.quant or pairing.main_type(header)
        marks = tuple(map(fingerprint, model.paths))
        added.append(Import(name, model.weights, model.projector, model.origin, quant, marks))
    _write([*known, *added])
    return added


def remove(name: str) -> bool:
    """Takes a model off the list; its files stay where they are."""
    models = read()
    _write([model for model in models if model.name != name])
    return any(model.name == name for model in models)


def read() -> list[Import]:
    """The list. Raises `ConfigError` where it is damaged."""
    try:
        rows = json.loads(_list().read_text(encoding="utf-8"))
        return [_from_row(row) for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{_list()} cannot be read: {error.strerror}", "import") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{_list()} is damaged; delete it, and import again", "import") from error


def _list() -> Path:
    return data_folder() / "imported.json"


def _write(models: Sequence[Import]) -> None:
    path = _list()
    beside = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps([_row(model) for model in models], indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def _row(model: Import) -> dict[str, Any]:
    return {
        "name": model.name,
        "weights": [str(path) for path in model.weights],
        "projector": str(model.projector) if model.projector else None,
        "origin": model.origin,
        "quant": model.quant,
        "marks": list(model.marks),
    }


def _from_row(row: Mapping[str, Any]) -> Import:
    projector = Path(row["projector"]) if row["projector"] else None
    weights = tuple(Path(path) for path in row["weights"])
    return Import(str(row["name"]), weights, projector, str(row["origin"]), str(row["quant"]), tuple(row["marks"]))


def _folders(place: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with GGUF files, at any depth; links to folders are not followed."""
    seen = 0
    for folder, folders, names in os.walk(place):
        folders.sort()
        seen += len(names)
        if seen > _MOST_FILES:
            raise ConfigError(f"{place} holds more than {_MOST_FILES} files; name a folder within", "path")
        found = sorted(name for name in names if name.lower().endswith(".gguf"))
        if found:
            yield Path(folder), found


def _of_folder(folder: Path, names: Sequence[str], top: Path) -> Iterator[Import]:
    """The models among the files of a folder, each with the projector beside it that fits."""
    beside = sorted(path.name for path in folder.glob("*") if path.suffix.lower() == ".gguf")
    projectors = [folder / name for name in beside if pairing.is_projector_name(name)]
    wanted = {part for name in names for part in pairing.parts_beside(name, beside)}
    for group in pairing.groups(wanted):
        weights = tuple(folder / part for part in group.parts)
        try:
            header = read_header(weights[0])
            projector = pairing.pick_projector(header, [read_header(path) for path in projectors])
        except GalagoError:
            projector = None
        name = re.sub(r"[^a-z0-9._-]+", "-", group.stem).strip("-._") or "model"
        yield Import(name, weights, projector.path if projector else None, str(top), group.quant)


def _of_ollama(place: Path) -> Iterator[Import]:
    """The models of Ollama's folder: a manifest names the blobs that are its weights and projector."""
    for path in sorted((place / "manifests").rglob("*")):
        if not path.is_file() or path.stat().st_size > _LONGEST_MANIFEST:
            continue
        try:
            layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
            blobs = {layer["mediaType"].rpartition(".")[2]: _blob(place, layer["digest"]) for layer in layers}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # another program's file, or a manifest of another kind
        weights, projector = blobs.get("model"), blobs.get("projector")
        if weights is not None and weights.is_file():
            name = re.sub(r"[^a-z0-9._-]+", "-", f"{path.parent.name}-{path.name}".lower()).strip("-._")
            yield Import(name, (weights,), projector if projector and projector.is_file() else None, str(place))


def _blob(place: Path, digest: str) -> Path | None:
    found = _DIGEST.fullmatch(digest)
    return place / "blobs" / f"sha256-{found[1]}" if found else None


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in range(2, _MOST_FILES):
        yield f"{name}-{number}"
