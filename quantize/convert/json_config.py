"""Reads the JSON files of a checkpoint. Their entries are untrusted, and validated when they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.regular_file import read_text
from .safetensors import file_error, quoted

MAX_JSON_BYTES = 256 << 20  # tokenizers of 262,000 tokens take 35 MB


@dataclass(frozen=True, slots=True)
class JSONConfig:
    """A JSON object whose entries are validated when read. Raises `ModelError` that names the file and the entry."""

    path: Path
    entries: Mapping[str, Any]

    def positive_int(self, key: str, default: int | None = None, below: int = 1 << 31) -> int:
        value = self._required(key, default)
        if type(value) is not int or not 0 < value < below:
            raise self.error(f"{key} is {quoted(value)}, not a positive whole number below {below}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"{key} is {quoted(value)}, not a number")
        return float(value)

    def positive_number(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise self.error(f"{key} is {value:g}, not a positive number")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._required(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {quoted(value)}, not true or false")
        return value

    def part(self, key: str) -> JSONConfig:
        """Returns a nested object, empty if it is absent."""
        value = self.entries.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(f"{key} is {quoted(value)}, not an object")
        return JSONConfig(self.path, value or {})

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the entry unvalidated, or the default if it is absent or null."""
        value = self.entries.get(key)
        return default if value is None else value

    def error(self, problem: str) -> ModelError:
        return file_error(self.path, problem)

    def _required(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise self.error(f"{key} is missing")
        return value


def read_json(path: Path) -> JSONConfig:
    """Reads a JSON object. Returns an empty config if the file is absent; raises `ModelError` for anything else."""
    try:
        if not path.exists():
            return JSONConfig(path, {})
        if path.stat().st_size > MAX_JSON_BYTES:
            raise file_error(path, f"is larger than {MAX_JSON_BYTES >> 20} MiB")
        entries = json.loads(read_text(path))
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise file_error(path, f"is not JSON: {_looks_like(path) or str(error) or type(error).__name__}") from None
    if not isinstance(entries, dict):
        raise file_error(path, "is not a JSON object")
    return JSONConfig(path, entries)


def _looks_like(path: Path) -> str:
    is_pointer = path.stat().st_size < 1024 and read_text(path, "replace").startswith("version https://git-lfs")
    return "it is a Git LFS pointer; download the real file with git lfs pull" if is_pointer else ""
