"""Logs lines, and failures that the runtime recovered from."""

from __future__ import annotations

from ..models.log import log

__all__ = ["RecoveredErrors", "log"]


class RecoveredErrors:
    """Counts internal failures that cost time but no answer, and logs the first of each kind."""

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[str] = set()

    def record(self, what: str, error: BaseException) -> None:
        """Counts a failure; `what` completes the sentence "could not ..."."""
        self.count += 1
        if what not in self._logged:
            self._logged.add(what)
            reason = str(error) or type(error).__name__
            log(f"could not {what}: {reason}; answers are not affected; later failures of this kind are only counted")
