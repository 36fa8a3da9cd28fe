"""The catalog: small models under short names, from `catalog.toml` and a user's own file in the same format.

Describes each model before it is downloaded, and marks the facts that no download has confirmed yet.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..kept_file import read_file
from ..log import log_once
from ..paths import user_catalog_path

TASKS = ("chat", "transcription", "speech", "embedding", "test")
MODALITIES = ("vision", "audio")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FIELDS: Mapping[str, type] = {
    "name": str, "repository": str, "weights": str, "projector": str, "task": str, "senses": list, "parameters": int,
    "licence": str, "conditions": str, "minimum_build": str, "notes": str, "unverified": list, "quants": list,
}  # fmt: skip
_QUANT_FIELDS: Mapping[str, type] = {"name": str, "weights": int, "total": int}
_TYPE_NAMES = {str: "a text", int: "a whole number", list: "a list"}


@dataclass(frozen=True, slots=True)
class CatalogQuant:
    """A quantization in a repository. `weights` are bytes, `total` includes the projector; None if unknown."""

    name: str
    weights: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model.

    `weights` and `projector` are patterns of file names in the repository; `projector` is None for a model without
    one. `parameters` is the number of weights. `quants` begins with the default. `unverified` names the fields, or
    `quants.NAME`, that no download has confirmed. `user_defined` entries come from the user's own file.
    """

    name: str
    repository: str
    parameters: int
    licence: str
    minimum_build: str
    weights: str = "*.gguf"
    projector: str | None = None
    task: str = "chat"
    modalities: tuple[str, ...] = ()
    conditions: str = ""
    notes: str = ""
    quants: tuple[CatalogQuant, ...] = ()
    unverified: tuple[str, ...] = ()
    user_defined: bool = False

    @property
    def verified(self) -> bool:
        """Whether every fact is confirmed."""
        return not self.unverified

    @property
    def is_recommended(self) -> bool:
        """Whether the model is for real use, so that it may be recommended if it fits."""
        return self.task != "test"


def entries(user_path: Path | None = None) -> tuple[CatalogEntry, ...]:
    """Returns all models in the order of the files. Entries of the user's file come first and replace shipped ones.

    If the user's file has a mistake, logs it and returns the shipped entries.
    """
    shipped = _read(
        resources.files(__package__).joinpath("catalog.toml").read_bytes(), "catalog.toml", user_defined=False
    )
    try:
        own = read_user_catalog(user_path or user_catalog_path())
    except ConfigError as error:
        log_once(f"your own catalog was ignored: {error.message}")
        return shipped
    names = {entry.name for entry in own}
    return (*own, *(entry for entry in shipped if entry.name not in names))


def read_user_catalog(path: Path) -> tuple[CatalogEntry, ...]:
    """Raises `ConfigError` with the file and row that are wrong."""
    try:
        return _read(read_file(path), str(path), user_defined=True)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", str(path)) from error


def find(name: str) -> CatalogEntry | None:
    return next((entry for entry in entries() if entry.name == name.lower()), None)


def similar_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """Returns names in the catalog, or `others`, that `name` may have meant, likeliest first."""
    names = [*others, *(entry.name for entry in entries())]
    within = [known for known in names if len(name) > 2 and name.lower() in known]
    return list(dict.fromkeys([*difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6), *within]))[:3]


def _read(data: bytes, source: str, user_defined: bool) -> tuple[CatalogEntry, ...]:
    try:
        content = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source} is not TOML: {error}", source) from error
    rows = content.get("model", [])
    build = content.get("minimum_build", "")
    if set(content) - {"model", "minimum_build"} or not isinstance(rows, list) or not isinstance(build, str):
        raise ConfigError(f"{source} may contain only [[model]] tables and minimum_build", source)
    entries_by_name: dict[str, CatalogEntry] = {}
    for number, row in enumerate(rows, 1):
        entry = _entry(row, f"{source}, model {number}", build, user_defined)
        if entries_by_name.setdefault(entry.name, entry) is not entry:
            raise ConfigError(f"{source} defines the model {entry.name} twice", source)
    return tuple(entries_by_name.values())


def _entry(row: Any, where: str, build: str, user_defined: bool) -> CatalogEntry:
    _check_fields(row, _FIELDS, where)
    for needed in ("name", "repository", "parameters", "licence"):
        if needed not in row and not (user_defined and needed in ("parameters", "licence")):
            raise ConfigError(f"{where}: {needed} is missing", where)
    name, repository = row["name"], row["repository"]
    modalities, task = tuple(row.get("senses", ())), row.get("task", "chat")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is not a valid name; use lower-case letters, digits, dots and hyphens", where
        )
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"{where}: {repository!r} is not a repository; write it as owner/name", where)
    if task not in TASKS:
        raise ConfigError(f"{where}: {task!r} is not a task; use {', '.join(TASKS)}", where)
    if set(modalities) - set(MODALITIES):
        raise ConfigError(
            f"{where}: senses may be {' and '.join(MODALITIES)}, not {', '.join(map(str, modalities))}", where
        )
    return CatalogEntry(
        name=name,
        repository=repository,
        parameters=row.get("parameters", 0),
        licence=row.get("licence", ""),
        minimum_build=row.get("minimum_build", build),
        weights=row.get("weights", "*.gguf"),
        projector=row.get("projector", "*.gguf" if modalities else None),
        task=task,
        modalities=modalities,
        conditions=row.get("conditions", ""),
        notes=row.get("notes", ""),
        quants=tuple(_quant(quant, where) for quant in row.get("quants", ())),
        unverified=tuple(map(str, row.get("unverified", ()))),
        user_defined=user_defined,
    )


def _quant(row: Any, where: str) -> CatalogQuant:
    _check_fields(row, _QUANT_FIELDS, f"{where}, quants")
    if "name" not in row:
        raise ConfigError(f"{where}: a quantization has no name", where)
    return CatalogQuant(**row)


def _check_fields(row: Any, fields: Mapping[str, type], where: str) -> None:
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is not a table", where)
    for key, value in row.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown field {key}; the fields are {', '.join(fields)}", where)
        if not isinstance(value, fields[key]) or isinstance(value, bool):
            raise ConfigError(f"{where}: {key} is not {_TYPE_NAMES[fields[key]]}", where)
