"""For models whose template knows no tools: a system message explains them, and calls are written as in Hermes."""

from __future__ import annotations

from dataclasses import replace

from .hermes import HERMES

GENERIC = replace(HERMES, name="generic", detects=())
