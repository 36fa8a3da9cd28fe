"""Counts what an engine has done, for whoever wants to look. Knows no clock."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..types.events import Finished
from ..types.model_info import Stats


class CacheForecast(NamedTuple):
    """What a prompt would find: `cached` cells of it that need not be computed, `idle` ones of others that may be set
    aside, the `most` that were in use at once, `kept` bytes of those set aside; a cell takes `keeping` seconds, unless
    none was."""

    cached: int
    idle: int
    most: int
    kept: int
    keeping: float | None


class EngineMetrics:
    """Written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self._finished = self._failed = self._cancelled = 0
        self._prompt = self._cached = self._completion = 0
        self._first_token = self._busy = 0.0

    def computed(self, seconds: float) -> None:
        self._busy += seconds

    def finished(self, event: Finished) -> None:
        self._finished += 1
        self._prompt += event.usage.prompt_tokens
        self._cached += event.usage.cached_tokens
        self._completion += event.usage.completion_tokens
        self._first_token += event.timings.first_token_seconds

    def failed(self) -> None:
        self._failed += 1

    def cancelled(self) -> None:
        self._cancelled += 1

    def stats(self, **now: Any) -> Stats:
        """What was counted, with what only the engine knows of this moment."""
        return Stats(
            finished=self._finished,
            failed=self._failed,
            cancelled=self._cancelled,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            completion_tokens=self._completion,
            first_token_seconds=self._first_token,
            busy_seconds=self._busy,
            **now,
        )
