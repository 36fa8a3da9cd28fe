"""Failures that cost no answer are counted, and the first of each kind is logged."""

from __future__ import annotations

import pytest

from galago.runtime.log import RecoveredErrors


def test_the_first_recovered_error_of_each_kind_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    errors = RecoveredErrors()
    for _ in range(3):
        errors.record("write a prefix to the cache folder", OSError("no space left"))
    errors.record("draft tokens", RuntimeError())
    lines = capsys.readouterr().err.splitlines()
    assert errors.count == 4
    assert len(lines) == 2
    assert "could not write a prefix to the cache folder: no space left" in lines[0]
    assert "could not draft tokens: RuntimeError" in lines[1]
