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


@pytest.mark.parametrize(
    ("warning", "logged"),
    [
        ("max_tokens is 'secret'; it is ignored", "max_tokens is ...; it is ignored"),
        ("role is 'it\\'s secret", "role is ..."),
        ('content is {"a": ["secret"]}, not a text', "content is ..., not a text"),
        ('content is [{"a": "secret', "content is ..."),
        ("messages[0].content: the model's template has no place for it", None),
    ],
)
def test_values_that_a_warning_quotes_are_not_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, warning: str, logged: str | None
) -> None:
    monkeypatch.setattr(warning_log, "_logged", {})
    warning_log.log_new([warning])
    assert capsys.readouterr().err == f"galago: warning (logged once): {logged or warning}\n"
