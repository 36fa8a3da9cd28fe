"""This machine: its processor and cores, and the memory that this process may use."""

from __future__ import annotations

import contextlib
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import units
from .errors import ConfigError

_RELEVANT_FEATURES = (
    "sse3 ssse3 sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16 "
    "neon asimd asimddp i8mm sve sve2 sme"
).split()


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware.

    `features` are the instruction sets that speed up matrix products, as the kernel spells them. Memory is limited to
    what the control groups of this process allow, such as those of a container.
    """

    system: str
    processor: str
    features: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    total_memory_bytes: int
    available_memory_bytes: int


def this_machine() -> Machine:
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit, used in cgroup_limits():
        total, available = min(total, limit), min(available, max(limit - used, 0))
    logical = psutil.cpu_count() or 1
    name, flags = _cpuinfo()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=name or platform.processor() or platform.machine(),
        features=tuple(f for f in _RELEVANT_FEATURES if f in flags),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        total_memory_bytes=total,
        available_memory_bytes=available,
    )


class IdleCores:
    """How many cores were idle between two calls. 0 if the time between them is too short to measure, or too long to
    describe the present."""

    _SHORTEST, _LONGEST = 0.2, 30.0

    def __init__(self) -> None:
        self._last_call, self._last_idle = time.monotonic(), _idle_seconds()

    def __call__(self) -> float:
        now = time.monotonic()
        passed = now - self._last_call
        if passed < self._SHORTEST:
            return 0.0
        idle = _idle_seconds()
        cores = (idle - self._last_idle) / passed
        self._last_call, self._last_idle = now, idle
        return cores if passed <= self._LONGEST else 0.0


def _idle_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))


def parse_memory_size(text: str, total: int) -> int:
    """Parses an amount of memory such as `4GB`, `512 MiB` or `50%` (of `total`) into bytes. Raises `ConfigError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[KMGT]i?B?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text!r} is not an amount of memory; write it as 4GB, 512MiB or 50%", "memory")
    number, unit = float(match[1]), match[2].upper()
    if unit == "%":
        size = total * number / 100
    else:
        size = number * (1024 if "I" in unit else 1000) ** ("KMGT".index(unit[0]) + 1)
    if size <= 0:
        raise ConfigError(f"{text} is zero; write an amount as 4GB, 512MiB or 50%", "memory")
    if size > total:
        raise ConfigError(f"{text} of memory is not possible: this machine has {units.format_bytes(total)}", "memory")
    return int(size)


def cgroup_limits(root: Path = Path("/")) -> list[tuple[int, int]]:
    """Returns (limit, used) in bytes for every control group, version 1 or 2, that limits this process.

    The page cache counts as unused, because the kernel reclaims it before it kills a process.
    """
    limits = []
    files: tuple[str, ...]
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mount, limit, usage, files = root / "sys/fs/cgroup", "memory.max", "memory.current", ("file",)
        elif "memory" in controllers.split(","):
            mount, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            files = ("total_active_file", "total_inactive_file")
        else:
            continue
        parts = Path(path.strip("/")).parts
        for depth in range(len(parts), -1, -1):  # the limits of parent groups apply, too
            group = mount.joinpath(*parts[:depth])
            limit_text, used_text = _text(group / limit).strip(), _text(group / usage).strip()
            if limit_text.isdigit() and used_text.isdigit():
                stat = dict(row.split(" ", 1) for row in _text(group / "memory.stat").splitlines() if " " in row)
                limits.append((int(limit_text), max(int(used_text) - sum(int(stat.get(name, 0)) for name in files), 0)))
    return limits


def _text(path: Path) -> str:
    """Returns the text of a file, or an empty text if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _cpuinfo() -> tuple[str, frozenset[str]]:
    """Returns the processor's name and feature flags on Linux; empty elsewhere."""
    text = _text(Path("/proc/cpuinfo"))
    fields = dict(line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
    values = {key.strip().lower(): value.strip() for key, value in fields.items()}
    flags = values.get("flags") or values.get("features") or ""
    return values.get("model name") or values.get("model", ""), frozenset(flags.split())
