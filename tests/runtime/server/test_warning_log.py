"""Warnings of answers are logged, each text once."""

from __future__ import annotations

import pytest

from galago.runtime.server.http import warning_log


def test_a_warning_is_logged_once_in_printable_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warning_log, "_logged", {})
    for _ in range(2):
        warning_log.log_new(["the field x\x1b[2J is unknown and was ignored", "other"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "warning (logged once): the field x?[2J is unknown" in lines[0]


def test_only_a_limited_number_of_warnings_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warning_log, "_logged", {})
    warning_log.log_new(str(i) for i in range(10_000))
    assert len(warning_log._logged) <= 256
