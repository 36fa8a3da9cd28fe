"""What matrix products take on this machine: measured in a child process, once for each weight type, and kept.

Kept per processor, number of threads and build of llama.cpp, in the cache folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from importlib import util
from pathlib import Path
from typing import Any

from ...models.capacity.throughput import MachineBenchmark, WeightTypeSpeed
from ...models.device import this_machine
from ...models.errors import EngineError
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from ..config import default_threads
from ..process import spawn

_TIMEOUT_SECONDS = 300.0


def measured(types: Collection[str], anew: bool = False, threads: int | None = None) -> MachineBenchmark:
    """What was measured before, and now what of it is missing, or all of it `anew`: a few seconds for each type.

    With so many `threads`, or as many as are the default. Raises `EngineError` where llama.cpp cannot compute here.
    """
    threads = threads or default_threads()
    key = _key(threads)
    found = None if anew else _benchmark(_benchmarks().read().get(key))
    missing = sorted(set(types) - set(found.types if found else ()))
    if found is None or missing:
        new = run(missing, threads)
        found = replace(new, types={**(found.types if found else {}), **new.types})
        row = asdict(found)
        _benchmarks().update(lambda rows: {**rows, key: row})
    return found


def run(types: Collection[str], threads: int) -> MachineBenchmark:
    """Measures now."""
    program = "galago.runtime.llamacpp.programs.benchmark"
    end = spawn.run_module(program, threads, *types, timeout_seconds=_TIMEOUT_SECONDS)
    if end.timed_out:
        raise EngineError(f"this machine could not be measured within {_TIMEOUT_SECONDS:.0f} s")
    found = _benchmark(json.loads(end.stdout)) if end.ok else None
    if found is None:
        raise EngineError("llama.cpp cannot compute here, so its speed cannot be told; see what `galago doctor` says")
    return found


def _benchmark(row: Any) -> MachineBenchmark | None:
    """`None` where it is none."""
    try:
        types = {name: WeightTypeSpeed(**rate) for name, rate in row["types"].items()}
        return MachineBenchmark(**(row | {"types": types}))
    except (TypeError, KeyError, AttributeError):
        return None


def _key(threads: int) -> str:
    library = util.find_spec("llama_cpp")
    built = Path(library.origin).stat().st_mtime_ns if library and library.origin else 0
    return f"{this_machine().processor}, {threads} threads, build {built}"


def _benchmarks() -> JsonFile[dict[str, Any]]:
    """Rows by `_key`; each row is checked when it is used."""
    return JsonFile(cache_folder() / "benchmark.json", _parse_rows, dict)


def _parse_rows(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value
