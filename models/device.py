"""This machine as far as models care: processor, cores, memory. Knows nothing of llama.cpp."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERESTING = (
    "sse3 ssse3 sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16 "
    "neon asimd asimddp i8mm sve sve2 sme"
).split()


@dataclass(frozen=True, slots=True)
class Machine:
    """`features` are the instruction sets that matter to matrix products, in the kernel's spelling; memory in bytes."""

    system: str
    processor: str
    features: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    total_memory: int
    available_memory: int


def this_machine() -> Machine:
    memory = psutil.virtual_memory()
    logical = psutil.cpu_count() or 1
    name, flags = _cpuinfo()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=name or platform.processor() or platform.machine(),
        features=tuple(f for f in _INTERESTING if f in flags),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        total_memory=memory.total,
        available_memory=memory.available,
    )


def _cpuinfo() -> tuple[str, frozenset[str]]:
    """Model name and feature flags where the kernel lists them (Linux); empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", frozenset()
    fields = dict(line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
    values = {key.strip().lower(): value.strip() for key, value in fields.items()}
    flags = values.get("flags") or values.get("features") or ""
    return values.get("model name") or values.get("model", ""), frozenset(flags.split())
