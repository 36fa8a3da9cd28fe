"""Measures how fast llama.cpp multiplies matrices on this machine, in a child process, once for each weight type.

The results are kept in the cache folder, by CPU, number of threads and build of llama.cpp.
"""

from __future__ import annotations

import json
import math
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
    """Returns the stored measurements, after measuring the missing types, or all if `anew`.

    A type takes a few seconds. `threads` `None` means the default number. Raises `EngineError` if llama.cpp cannot
    compute here.
    """
    threads = threads or default_threads()
    key = _key(threads)
    known = None if anew else _benchmark(_benchmarks().read().get(key))
    missing = sorted(set(types) - set(known.types if known else ()))
    if known is not None and not missing:
        return known
    new = run(missing, threads)
    benchmark = replace(new, types={**(known.types if known else {}), **new.types})
    row = asdict(benchmark)
    _benchmarks().update(lambda rows: {**rows, key: row})
    return benchmark


def run(types: Collection[str], threads: int) -> MachineBenchmark:
    """Measures the types, in a child process."""
    program = "galago.runtime.llamacpp.programs.benchmark"
    end = spawn.run_module(program, threads, *types, timeout_seconds=_TIMEOUT_SECONDS)
    if end.timed_out:
        raise EngineError(f"this machine could not be measured within {_TIMEOUT_SECONDS:.0f} s")
    benchmark = _benchmark(json.loads(end.stdout)) if end.ok else None
    if benchmark is None:
        raise EngineError(
            f"this machine cannot be measured: the process that computes {end.ending}; run `galago doctor`"
        )
    return benchmark


def _benchmark(row: Any) -> MachineBenchmark | None:
    """Returns `None` if the row is not a benchmark."""
    try:
        types = {str(name): WeightTypeSpeed(**_numbers(rate)) for name, rate in row["types"].items()}
        rest = {name: value for name, value in row.items() if name != "types"}
        return MachineBenchmark(**_numbers(rest), types=types)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _numbers(row: Any) -> dict[str, Any]:
    """Raises `ValueError` if a value is not a finite number."""
    if not all(type(value) in (int, float) and math.isfinite(value) for value in row.values()):
        raise ValueError("not a number")
    return dict(row)


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
