"""What matrix products take on this machine: measured in a child process, once for each weight type, and kept.

Kept per processor, number of threads and build of llama.cpp, in the cache folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import asdict, replace
from importlib import util
from pathlib import Path
from typing import Any

from ...models.capacity.throughput import Benchmark, Rate
from ...models.device import this_machine
from ...models.errors import EngineError
from ...models.paths import cache_folder
from ..config import default_threads
from ..process import spawn

_TIMEOUT_SECONDS = 300.0


def measured(types: Collection[str], anew: bool = False, threads: int | None = None) -> Benchmark:
    """What was measured before, and now what of it is missing, or all of it `anew`: a few seconds for each type.

    With so many `threads`, or as many as are the default. Raises `EngineError` where llama.cpp cannot compute here.
    """
    kept = _kept()
    threads = threads or default_threads()
    key = _key(threads)
    found = None if anew else _benchmark(kept.get(key))
    missing = sorted(set(types) - set(found.types if found else ()))
    if found is None or missing:
        new = run(missing, threads)
        found = replace(new, types={**(found.types if found else {}), **new.types})
        _keep({**kept, key: asdict(found)})
    return found


def run(types: Collection[str], threads: int) -> Benchmark:
    """Measures now."""
    program = "galago.runtime.llamacpp.programs.benchmark"
    end = spawn.run_module(program, threads, *types, timeout_seconds=_TIMEOUT_SECONDS)
    if end.timed_out:
        raise EngineError(f"this machine could not be measured within {_TIMEOUT_SECONDS:.0f} s")
    found = _benchmark(json.loads(end.stdout)) if end.ok else None
    if found is None:
        raise EngineError("llama.cpp cannot compute here, so its speed cannot be told; see what `galago doctor` says")
    return found


def _benchmark(row: Any) -> Benchmark | None:
    """`None` where it is none."""
    try:
        types = {name: Rate(**rate) for name, rate in row["types"].items()}
        return Benchmark(**(row | {"types": types}))
    except (TypeError, KeyError, AttributeError):
        return None


def _key(threads: int) -> str:
    library = util.find_spec("llama_cpp")
    built = Path(library.origin).stat().st_mtime_ns if library and library.origin else 0
    return f"{this_machine().processor}, {threads} threads, build {built}"


def _file() -> Path:
    return cache_folder() / "benchmark.json"


def _kept() -> dict[str, Any]:
    try:
        rows = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return rows if isinstance(rows, dict) else {}


def _keep(rows: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a cache folder that cannot be written only costs another measurement
        _file().parent.mkdir(parents=True, exist_ok=True)
        part = _file().with_suffix(".part")
        part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        part.replace(_file())
