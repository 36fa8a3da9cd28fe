"""Fails a test in whose course a client has tried to reach another machine, as for telemetry or a list of prices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import loopback_only


@pytest.fixture(autouse=True)
def _no_other_machine() -> Iterator[None]:
    yield
    tried = loopback_only.tried()
    assert not tried, f"tried to reach {', '.join(tried)}"
