"""Fails a test during which a client connects to another machine, for example for telemetry or a price list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import loopback_only


@pytest.fixture(autouse=True)
def _no_other_machine() -> Iterator[None]:
    yield
    attempts = loopback_only.take_attempts()
    assert not attempts, f"tried to connect to {', '.join(attempts)}"
