"""The callback by which long operations report their progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float], None]
"""Called with what is being done and with the fraction, from 0 to 1, that is complete."""


def no_progress(_step: str, _fraction: float) -> None:
    """Ignores progress."""
