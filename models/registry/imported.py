"""Imports models that other programs stored on this machine, and keeps the list of them.

Imported files stay where they are: they are never copied or deleted. `discovery.py` finds them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import ConfigError, NotFound
from ..fingerprint import fingerprint
from ..gguf.file_name import is_quant
from ..gguf.reader import read_header
from ..hub.cache import write_error
from ..json_file import JsonFile
from ..log import log_once
from ..paths import data_folder
from . import catalog, pairing
from .name import BUILTIN, ModelRef, parse_ref

_MAX_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model that another program stored.

    `fingerprints` are those of its files, in order, when it was imported. `published_as` is the name that the other
    program has for it, or the repository and commit on the Hub; empty if neither is known. `left_out` lists what was
    not imported, and `version` is the version of Galago that imported it.
    """

    name: str
    weights: tuple[Path, ...]
    projector: Path | None
    origin: str
    quant: str = ""
    fingerprints: tuple[str, ...] = ()
    published_as: str = ""
    left_out: tuple[str, ...] = ()
    version: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.weights, *([self.projector] if self.projector else ()))

    def is_called(self, ref: ModelRef) -> bool:
        """Whether a name may mean this model: that of the other program or of its repository, or its own in two parts.

        Its own name usually ends in the quantization, as that of its file does, and in a number if another model had
        that name already. Tag, quantization and commit may be left out.
        """
        own_name = re.sub(rf"-{re.escape(self.quant)}(-\d+)?$", "", self.name)
        if (ref.kind, ref.name, ref.revision) == ("name", own_name, ""):
            return not ref.quant or is_quant(self.quant, ref.quant)
        try:
            published = parse_ref(self.published_as)
        except NotFound:
            return False
        return (
            (published.kind, published.name.lower()) == (ref.kind, ref.name.lower())
            and (not ref.quant or ref.quant == published.quant or is_quant(self.quant, ref.quant))
            and published.revision.startswith(ref.revision)
        )

    def is_same_as(self, other: ImportedModel) -> bool:
        """Whether this is the same model: the same files, under the same name if both have one."""
        names = {self.published_as, other.published_as} - {""}
        return self.weights == other.weights and len(names) < 2


def add(models: Sequence[ImportedModel]) -> list[ImportedModel]:
    """Imports models after checking their headers. Returns those that were not imported already.

    Raises `ModelError` for a file that is not a usable model.
    """
    listed = read_list()
    new = [model for model in models if not any(model.is_same_as(known) for known in listed)]
    checked = [_with_fingerprints(model) for model in new]
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
    fingerprints = tuple(map(fingerprint, model.paths))
    return replace(model, quant=quant, fingerprints=fingerprints, version=metadata.version("galago"))


def _with_free_names(
    models: Sequence[ImportedModel], known: Sequence[ImportedModel], reserved: Collection[str]
) -> Iterator[ImportedModel]:
    """Yields the models that are not in the list yet, under names that are not taken."""
    listed = [*known]
    taken = {model.name for model in known} | {*reserved}
    for model in models:
        if not any(model.is_same_as(other) for other in listed):
            name = next(name for name in _name_candidates(model.name) if name not in taken)
            taken.add(name)
            listed.append(model)
            yield replace(model, name=name)


def remove(name: str) -> bool:
    """Removes a model from the list but keeps its files. Returns whether it was in the list."""
    if all(model.name != name for model in read_list()):
        return False
    _update(lambda models: [model for model in models if model.name != name])
    return True


def read_list() -> list[ImportedModel]:
    """Returns the imported models. If the list cannot be read, logs that and returns none."""
    file = _file()
    try:
        return file.read()
    except OSError as error:
        log_once(f"the list of imported models was ignored, because {file.path} cannot be read: {error.strerror}")
    except ValueError:
        log_once(f"the list of imported models was ignored: {_damaged(file.path)}")
    return []


def files_in_use() -> set[Path]:
    """Returns the files of all imported models, without links: those that the Hub's cache must not lose."""
    return {path.resolve() for model in read_list() for path in model.paths}


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
        "published_as": model.published_as,
        "left_out": list(model.left_out),
        "version": model.version,
    }


def _from_row(row: Mapping[str, Any]) -> ImportedModel:
    projector = Path(row["projector"]) if row["projector"] else None
    weights = tuple(Path(path) for path in row["weights"])
    return ImportedModel(
        str(row["name"]), weights, projector, str(row["origin"]), str(row["quant"]), tuple(row["marks"]),
        str(row.get("published_as", "")), tuple(map(str, row.get("left_out", ()))), str(row.get("version", "")),
    )  # fmt: skip


def _name_candidates(name: str) -> Iterator[str]:
    yield name
    for number in range(2, _MAX_NAMES):
        yield f"{name}-{number}"
