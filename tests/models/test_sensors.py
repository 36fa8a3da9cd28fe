"""Energy readings from the CPU's counters or a battery."""

from __future__ import annotations

from pathlib import Path

import pytest

from galago.models import sensors


def test_energy_is_read_from_the_processor_or_a_battery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: str, **files: object) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (tmp_path / folder / name).write_text(f"{value}\n")

    monkeypatch.setattr(sensors, "_POWERCAP", tmp_path / "power")
    monkeypatch.setattr(sensors, "_POWER_SUPPLIES", tmp_path / "supply")
    assert sensors.energy_source() is None
    write("supply/AC", type="Mains")
    write("supply/BAT0", type="Battery", status="Charging", power_now=7_000_000)
    assert sensors.energy_source() is None
    write("supply/BAT0", status="Discharging")
    write("supply/BAT1", type="Battery", status="Discharging", current_now=500_000, voltage_now=12_000_000)
    assert sensors.energy_source() == "battery" and sensors.battery_watts() == 7 + 6
    write("power/intel-rapl:0", name="package-0", energy_uj=3_000_000)
    write("power/intel-rapl:1", name="psys", energy_uj=9_000_000)
    assert sensors.energy_source() == "processor" and sensors.processor_joules() == 3
