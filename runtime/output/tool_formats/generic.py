"""For chat templates without tools: a system message explains the tools, and calls are written as in Hermes."""

from __future__ import annotations

from dataclasses import replace

from .hermes import HERMES

GENERIC = replace(HERMES, name="generic", template_markers=())
