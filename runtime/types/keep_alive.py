"""How long an idle model stays loaded, in the forms of Ollama: seconds, or texts such as "5m" and "1h30m"."""

from __future__ import annotations

import math
import re

from ...models.errors import ConfigError, GalagoError

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)"
_DURATION = re.compile(rf"(-?)((?:{_PART})+)")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")


def keep_alive_seconds(value: object, field: str = "keep_alive", error: type[GalagoError] = ConfigError) -> float:
    """Returns the seconds that a value means; `math.inf` for a negative one, which keeps the model loaded.

    Raises `error` for anything else.
    """
    seconds = _seconds(value)
    if seconds is None or math.isnan(seconds):
        raise error(f'{field} is {value!r:.60}; use seconds, "5m", "1h30m", 0 or -1 (always loaded)', field)
    return math.inf if seconds < 0 else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    total = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(_PART, match[2]))
    return -total if match[1] else total
