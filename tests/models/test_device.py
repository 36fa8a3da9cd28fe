"""Amounts of memory as users write them, and the limits of control groups."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from galago.models import device
from galago.models.device import cgroup_limits, parse_memory_size, this_machine
from galago.models.errors import ConfigError

TOTAL = 16_000_000_000


def test_amounts_of_memory_are_parsed() -> None:
    written = ("4GB", "4 gb", "4G", "0.5GiB", "512MiB", "1.5gb", "50%", "100%", "800 MB")
    meant = (4e9, 4e9, 4e9, 2**29, 2**29, 1.5e9, 8e9, 16e9, 8e8)
    assert [parse_memory_size(text, TOTAL) for text in written] == list(meant)


@pytest.mark.parametrize("text", ["", "4", "GB", "-1GB", "4XB", "101%", "17GB", "nan%", "1e3MB", "4GB!"])
def test_invalid_amounts_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_memory_size(text, TOTAL)


def test_no_memory_at_all_is_not_blamed_on_the_machine() -> None:
    with pytest.raises(ConfigError, match="^0% is zero"):
        parse_memory_size("0%", TOTAL)


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def machine(root: Path, cgroup: str) -> Path:
    group(root / "proc/self", cgroup=cgroup)
    return root


def test_version_2_limits_include_parents_and_exclude_the_page_cache(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/user/app")
    mount = root / "sys/fs/cgroup"
    group(mount / "user/app", memory__max="max", memory__current="300")
    group(mount / "user", memory__max="1000", memory__current="700", memory__stat="anon 200\nfile 500\n")
    assert cgroup_limits(root) == [(1000, 200)]
    group(mount / "user/app", memory__max="400", memory__current="300", memory__stat="file 100")
    assert cgroup_limits(root) == [(400, 200), (1000, 200)]


def test_version_1_limits(tmp_path: Path) -> None:
    root = machine(tmp_path, "4:cpu,cpuacct:/box\n3:memory:/box\n")
    stat = "total_inactive_file 10\ntotal_active_file 20"
    files = {"memory__limit_in_bytes": "500", "memory__usage_in_bytes": "130", "memory__stat": stat}
    group(root / "sys/fs/cgroup/memory/box", **files)
    assert cgroup_limits(root) == [(500, 100)]


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path) == []
    assert cgroup_limits(machine(tmp_path, "nonsense\n0::/gone\n")) == []


def test_this_machine_has_plausible_memory() -> None:
    found = this_machine()
    assert 0 < found.available_memory_bytes <= found.total_memory_bytes


def test_idle_cores_are_those_between_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now, idle = 100.0, 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(device, "_idle_seconds", lambda: idle)
    cores = device.IdleCores()
    now, idle = 102.0, 53.0
    assert cores() == 1.5
    now = 102.1
    assert cores() == 0, "too soon to tell"
    now, idle = 104.0, 53.0
    assert cores() == 0
    now, idle = 1000.0, 2000.0
    assert cores() == 0, "too long ago"
