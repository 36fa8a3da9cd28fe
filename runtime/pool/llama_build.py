"""Finds out what the installed build of llama.cpp can do, in a child process that loads it once.

The result is kept in the cache folder. With GPU backends the child runs each time, because free memory changes.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ...models.errors import EngineError
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from ..process import spawn
from ..types.placement import Device, LlamaBuild

_TIMEOUT_SECONDS = 120.0


def installed_build() -> LlamaBuild:
    """Raises `EngineError` if llama.cpp cannot be loaded."""
    key = _key()
    build = _builds().read().get(key)
    if build is None or build.gpu_backends:
        asked = build = _ask()
        _builds().update(lambda _others: {key: asked})  # only the installed build is kept
    return build


def _ask() -> LlamaBuild:
    end = spawn.run_module("galago.runtime.llamacpp.programs.describe_build", timeout_seconds=_TIMEOUT_SECONDS)
    build = _parse(end.stdout) if end.ok else None
    if build is None:
        reason = end.last_line if end.code > 0 else f"the process that loaded it {end.ending}"
        raise EngineError(f"llama.cpp cannot be used here ({reason}); run `galago doctor` to find out why")
    return build


def _parse(text: bytes) -> LlamaBuild | None:
    try:
        return _from_json(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _from_json(row: Any) -> LlamaBuild:
    gpus = tuple(Device(**gpu) for gpu in row["gpus"])
    return LlamaBuild(frozenset(map(str, row["features"])), tuple(map(str, row["gpu_backends"])), gpus)


def _to_json(build: LlamaBuild) -> dict[str, Any]:
    return asdict(build) | {"features": sorted(build.features)}


def _key() -> str:
    """Identifies the build: an installation that replaces it changes its version or its file's time."""
    library = util.find_spec("llama_cpp")
    built = Path(library.origin).stat().st_mtime_ns if library and library.origin else 0
    with contextlib.suppress(metadata.PackageNotFoundError):
        return f"llama-cpp-python {metadata.version('llama-cpp-python')}, built {built}"
    return f"built {built}"


def _builds() -> JsonFile[dict[str, LlamaBuild]]:
    return JsonFile(
        cache_folder() / "llama_build.json",
        lambda rows: {key: _from_json(row) for key, row in rows.items()},
        dict,
        lambda builds: {key: _to_json(build) for key, build in builds.items()},
    )
