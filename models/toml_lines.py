"""Reads TOML files that people write, and finds the line on which a value is set, for errors about it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .kept_file import read_file

MAX_FILE_BYTES = 1 << 20


def read_toml(path: Path, param: str) -> tuple[dict[str, Any], str]:
    """Returns a file's content, and its text for `line_of`.

    Raises `ConfigError`, which names the file and the line; `param` is the option that gave the file.
    """
    try:
        text = read_file(path, MAX_FILE_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", param) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8", param) from error
    try:
        return tomllib.loads(text), text
    except ValueError as error:  # also for a number of thousands of digits
        place = f"(at line {len(text.splitlines()) or 1})"
        problem = str(error).replace("(at end of document)", place)
        raise ConfigError(f"{path} is not TOML: {problem}", param) from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply", param) from error


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Returns the line, from 1, on which a value is set. Each step parses the text up to the end of a statement."""
    lines = text.split("\n")
    low, high = 0, len(lines)  # the statement begins at line `low` or later, and before `high`
    while low + 1 < high:
        middle = (low + high) // 2
        ends = ((end, _lacks(lines[:end], keys)) for end in range(middle, high))
        end, lacks = next((pair for pair in ends if pair[1] is not None), (high, False))
        low, high = (end, high) if lacks else (low, middle)
    statements = (n for n in range(low, len(lines)) if lines[n].strip() and not lines[n].strip().startswith("#"))
    return next(statements, low) + 1


def _lacks(lines: list[str], keys: tuple[str, ...]) -> bool | None:
    """Whether lines do not set a value; `None` if they end within a statement."""
    try:
        value: Any = tomllib.loads("\n".join(lines))
    except ValueError:
        return None
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return True
        value = value[key]
    return False
