"""The file of presets, `models.toml`: each table gives a model a name and settings of its own.

Knows names and lines of the file, not the settings: `runtime/pool/presets.py` checks those. What is wrong costs the
preset that it is in, and never the others.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import kept_file
from .errors import ConfigError, NotFound
from .paths import presets_path
from .registry.name import is_builtin, parse_ref
from .toml_lines import line_of

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

MAX_FILE_BYTES = 1 << 20
MAX_NAME_CHARS = 100
MAX_PROBLEMS = 100

_HEADER = re.compile(r"\s*\[")
_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_RESERVED = ("default",)


@dataclass(frozen=True, slots=True)
class PresetTable:
    """One table of the file. `values` are as they stand there, except `aliases`, which are checked."""

    name: str
    values: Mapping[str, Any]
    aliases: tuple[str, ...]
    text: str
    """The file, for `line_of`."""

    def line_of(self, *keys: str) -> int:
        """Returns the line, from 1, on which a key of this table is set; without keys, that of its header."""
        return line_of(self.text, (self.name, *keys))


class PresetTables(NamedTuple):
    """The tables of a file, and what is wrong with it. `broken` maps the name of a left-out preset to the reason."""

    tables: tuple[PresetTable, ...] = ()
    problems: tuple[str, ...] = ()
    broken: Mapping[str, str] = {}


def plain_name(name: str) -> str:
    """Returns a name in the form that is compared: without case, and without the tag that Ollama's clients add."""
    return name.casefold().removesuffix(":latest")


def check_name(name: object) -> None:
    """Raises `ConfigError` for what cannot be the name of a preset."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{name!r:.100} is not a name; use a text", "name")
    if is_builtin(name) or plain_name(name) in _RESERVED:
        raise ConfigError(f"{name!r} always means another model; choose another name", "name")
    try:
        is_path = parse_ref(name).kind == "path"
    except NotFound:
        is_path = True
    if is_path or len(name) > MAX_NAME_CHARS:
        raise ConfigError(
            f"{name!r:.100} cannot be the name of a preset; use at most {MAX_NAME_CHARS} letters, digits and . - _ :",
            "name",
        )


def read_tables(path: Path | None = None) -> PresetTables:
    """Reads the user's presets, or those of another file. Never raises: what is wrong is in the result."""
    path = path or presets_path()
    try:
        text = kept_file.read_file(path, MAX_FILE_BYTES).decode()
    except FileNotFoundError:
        return PresetTables()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        return PresetTables((), (f"{path} cannot be read, so there are no presets: {reason}",))
    parsed, text, problems, broken = _parse(text)
    tables: dict[str, PresetTable] = {}
    for name, values in parsed.items():
        if plain_name(name) in broken:  # the rest of a preset with a table that is not TOML
            continue
        try:
            table = _table(name, values, text, tables.values())
        except _Wrong as wrong:
            line = line_of(text, (name, *wrong.keys) if isinstance(values, dict) else (name,))
            broken[plain_name(name)] = f"line {line}: {wrong}"
            problems.append(f"line {line}: {wrong}; the preset {name!r} is left out")
        else:
            tables[name] = table
    return PresetTables(tuple(tables.values()), tuple(f"{path}, {problem}" for problem in problems), broken)


def write_table(name: str, values: Mapping[str, Any], replace: bool = False, path: Path | None = None) -> Path:
    """Adds a preset, keeping comments and the other tables; returns the file's path.

    Raises `ConfigError` if the name is taken, unless `replace`, or if the file is broken.
    """
    check_name(name)
    path = path or presets_path()
    with _editing(path) as document:
        existing = _existing(document, name)
        if existing and not replace:
            raise ConfigError(f"there is a preset {existing!r} already; use --replace to replace it", "name")
        document[existing or name] = _toml_table(values)
    return path


def remove_table(name: str, path: Path | None = None) -> str:
    """Deletes a preset and returns its name as written. Raises `NotFound`, and `ConfigError` if the file is broken."""
    path = path or presets_path()
    with _editing(path) as document:
        existing = _existing(document, name)
        if not existing:
            raise NotFound(f"there is no preset {name!r:.100}; galago preset show lists them", "name")
        del document[existing]
    return existing


class _Wrong(ValueError):
    """What is wrong with a table; `keys` leads to the value."""

    def __init__(self, text: str, *keys: str) -> None:
        super().__init__(text)
        self.keys = keys


def _table(name: str, values: Any, text: str, others: Iterable[PresetTable]) -> PresetTable:
    if not isinstance(values, dict):
        raise _Wrong(f"{name} is not in a table; write [NAME] above it")
    try:
        check_name(name)
    except ConfigError as error:
        raise _Wrong(error.message) from error
    taken = {plain_name(known): table.name for table in others for known in (table.name, *table.aliases)}
    if plain_name(name) in taken:
        raise _Wrong(f"{name!r} is already a name of the preset {taken[plain_name(name)]!r}")
    model = values.get("model")
    if not isinstance(model, str) or not model:
        problem = f"model is {model!r:.60}" if "model" in values else "model is missing"
        raise _Wrong(
            f"{problem}; it must be the name of a model, or the path of a GGUF file", *["model"] * ("model" in values)
        )
    aliases = values.get("aliases", [])
    if not isinstance(aliases, list):
        raise _Wrong("aliases must be a list of texts", "aliases")
    for alias in aliases:
        try:
            check_name(alias)
        except ConfigError as error:
            raise _Wrong(f"aliases: {error.message}", "aliases") from error
        if plain_name(alias) in taken:
            raise _Wrong(f"aliases: {alias!r} is already a name of the preset {taken[plain_name(alias)]!r}", "aliases")
    return PresetTable(name, values, tuple(dict.fromkeys(aliases)), text)


def _parse(text: str) -> tuple[dict[str, Any], str, list[str], dict[str, str]]:
    """Parses a file without the tables that are not TOML.

    Returns the text without them, in which lines keep their numbers, the problems, and those of names.
    """
    problems: list[str] = []
    broken: dict[str, str] = {}
    lines = text.replace("\r\n", "\n").split("\n")
    while True:
        current = "\n".join(lines)
        try:
            return tomllib.loads(current), current, problems, broken
        except RecursionError:
            return {}, "", ["line 1: it is nested too deeply; there are no presets"], broken
        except ValueError as error:  # also for a number of thousands of digits
            if len(problems) == MAX_PROBLEMS:
                return (
                    {},
                    "",
                    [*problems, f"line 1: it has more than {MAX_PROBLEMS} errors; there are no presets"],
                    broken,
                )
            place = _PLACE.search(str(error))
            last = next((i for i in reversed(range(len(lines))) if lines[i].strip()), 0)
            wrong = min(int(place[1]) - 1 if place and place[1] else last, last)
            headers = [i for i, line in enumerate(lines) if _HEADER.match(line)]
            first = max((i for i in headers if i <= wrong), default=0)
            end = min((i for i in headers if i > wrong), default=len(lines))
            problem = f"line {wrong + 1}: {_PLACE.sub('', str(error))}"
            name = _name_in(lines[first])
            if name is not None:
                broken[plain_name(name)] = problem
            left_out = "these lines are left out" if name is None else f"the preset {name!r} is left out"
            problems.append(f"{problem}; {left_out}")
            lines[first:end] = [""] * (end - first)


def _name_in(header: str) -> str | None:
    """The preset that a line begins, or a table of which it begins."""
    try:
        return next(iter(tomllib.loads(header))) if _HEADER.match(header) else None
    except (ValueError, StopIteration):
        return None


def table_text(name: str, values: Mapping[str, Any]) -> str:
    """Returns a preset as it would stand in the file."""
    import tomlkit

    document = tomlkit.document()
    document[name] = _toml_table(values)
    return tomlkit.dumps(document)


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[TOMLDocument]:
    """Yields the file's document, from the library that keeps comments, under a lock; then writes it."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path.parent.mkdir(parents=True, exist_ok=True)
    with kept_file.locked_beside(path, f"another program is writing {path}"):
        try:
            document = tomlkit.parse(kept_file.read_file(path, MAX_FILE_BYTES).decode())
        except FileNotFoundError:
            document = tomlkit.document()
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is broken; correct it first: {error}", "name") from error
        yield document
        text = tomlkit.dumps(document)
        tomllib.loads(text)  # what is written can be read again
        if len(text.encode()) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} would have more than {MAX_FILE_BYTES} bytes; make its texts shorter", "name")
        with kept_file.replacing(path, durable=True) as file:
            file.write(text.encode())


def _existing(document: TOMLDocument, name: str) -> str:
    """The name under which a preset stands in the document; empty if it does not."""
    return next((known for known in document if plain_name(known) == plain_name(name)), "")


def _toml_table(values: Mapping[str, Any]) -> Any:
    import tomlkit

    table = tomlkit.table()
    for key, value in values.items():
        is_long = isinstance(value, str) and "\n" in value
        table[key] = tomlkit.string(value, multiline=True) if is_long else value
    return table
