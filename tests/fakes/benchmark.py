"""A benchmark of this machine that is already kept, so that no test waits for a real one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from galago.models.capacity.throughput import MachineBenchmark, WeightTypeSpeed
from galago.models.gguf.header import GGML_TYPES
from galago.models.json_file import seal
from galago.runtime.config import default_threads
from galago.runtime.inference import machine_benchmark

RATES = {name: WeightTypeSpeed(1e10, 1e10, 0.0) for name, _, _ in GGML_TYPES.values()}
MACHINE = MachineBenchmark(1, 1e-5, 0.0, 1e-10, 1e-11, 1e-10, 1e-9, RATES)


def keep_benchmark(cache: Path) -> None:
    """Writes it into a cache folder, for one thread and for as many as Galago uses by default."""
    file = cache / "galago" / "benchmark.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        machine_benchmark._key(threads): asdict(replace(MACHINE, threads=threads)) for threads in {1, default_threads()}
    }
    file.write_bytes(seal(json.dumps(rows).encode()))
