"""Registers the Hypothesis profile that runs the fault tests thoroughly."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("thorough", max_examples=10_000, deadline=None)
