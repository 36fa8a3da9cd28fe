"""Reads how much energy this device uses: the processor's counters on Linux, or a discharging battery."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

_POWERCAP, _POWER_SUPPLIES = Path("/sys/class/powercap"), Path("/sys/class/power_supply")


def energy_source() -> str | None:
    """Returns the source of energy readings: "processor" (RAPL counters of Intel and AMD), "battery", or `None`.

    A battery counts only while it discharges, and includes everything else that draws on it.
    """
    if processor_joules() is not None:
        return "processor"
    return None if battery_watts() is None else "battery"


def processor_joules() -> float | None:
    """Returns the joules the processor packages have used so far, or `None` if their counters cannot be read."""
    try:
        zones = [zone for zone in _POWERCAP.glob("intel-rapl:?") if _read(zone / "name").startswith("package")]
        return sum(int(_read(zone / "energy_uj")) for zone in zones) / 1e6 if zones else None
    except (OSError, ValueError):
        return None


def battery_watts() -> float | None:
    """Returns the power drawn from discharging batteries, or `None` if there are none."""
    watts = 0.0
    for battery in _POWER_SUPPLIES.glob("*"):
        with contextlib.suppress(OSError, ValueError):
            if _read(battery / "type") == "Battery" and _read(battery / "status") == "Discharging":
                if (battery / "power_now").exists():
                    watts += abs(int(_read(battery / "power_now"))) / 1e6
                else:
                    current, voltage = (int(_read(battery / f"{name}_now")) for name in ("current", "voltage"))
                    watts += abs(current) * voltage / 1e12
    return watts or None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


class EnergyMeter:
    """Measures the energy used since its creation."""

    def __init__(self) -> None:
        self._joules, self._watts, self._begin = processor_joules(), battery_watts(), time.perf_counter()

    def joules(self) -> float | None:
        """Returns the joules from counters, unless they wrapped around, or else from the mean battery power."""
        joules, watts = processor_joules(), battery_watts()
        if self._joules is not None and joules is not None:
            return joules - self._joules if joules >= self._joules else None
        if self._watts is None or watts is None:
            return None
        return (self._watts + watts) / 2 * (time.perf_counter() - self._begin)
