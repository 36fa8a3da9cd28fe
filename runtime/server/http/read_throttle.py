"""Shares the event loop's time between connections whose bytes take long to parse."""

from __future__ import annotations

QUICK_SECONDS = 0.001
"""Processor time of one read that counts as quick. A read of ordinary content takes a tenth of it."""

_SHARE = 0.2
"""Share of the loop's time that all slow reads together may take."""


class ReadThrottle:
    """Says how long a connection is not read after a slow read. Slow connections wait for each other."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def pause_seconds(self, spent_seconds: float, now: float) -> float:
        """The pause after a read that took `spent_seconds` of processor time and ended at `now`."""
        self._free_at = max(self._free_at, now) + spent_seconds / _SHARE
        return self._free_at - now
