"""The table of limits: values from variables and `--limit`, and errors that say how to raise a limit."""

from __future__ import annotations

import pytest

from galago.models.errors import ConfigError, MediaError
from galago.runtime.types.limits import LIMITS, check_limits, limit, limit_error, set_limits


@pytest.mark.parametrize(
    ("text", "value"),
    [("1000", 1000), ("64MiB", 64 << 20), ("64 MB", 64_000_000), ("1.5g", 1_500_000_000), ("2ki", 2048), ("7B", 7)],
)
def test_a_variable_changes_a_limit(text: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit("media_bytes") == 64 << 20
    monkeypatch.setenv("GALAGO_LIMIT_MEDIA_BYTES", text)
    assert limit("media_bytes") == value


@pytest.mark.parametrize("text", ["", "x", "-1", "64 parsecs", "1e9", "0x10", "9" * 16])
def test_a_malformed_limit_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_MEDIA_BYTES", text)
    with pytest.raises(ConfigError, match="media_bytes is .* use a number such as 64MiB"):
        check_limits()


def test_a_count_has_no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_PARTS", "2MB")
    with pytest.raises(ConfigError, match="use a number such as 1000"):
        check_limits()


def test_assignments_set_limits_and_name_unknown_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_PARTS", "5")  # restored after the test
    set_limits(["parts=12"])
    assert limit("parts") == 12
    with pytest.raises(ConfigError, match="no limit 'part'; use one of body_bytes, json_values, parts"):
        set_limits(["part=12"])
    with pytest.raises(ConfigError, match="parts is ''"):
        set_limits(["parts"])


def test_an_error_says_how_to_raise_the_limit() -> None:
    error = limit_error("media_bytes", "the picture is too large", "image")
    assert isinstance(error, MediaError) and error.param == "image"
    assert error.message == ("the picture is too large; the limit is 64 MiB (change it with --limit media_bytes=VALUE)")


def test_every_limit_can_be_formatted_and_parsed_again() -> None:
    assert len({one.name for one in LIMITS}) == len(LIMITS)
    for one in LIMITS:
        assert one.parse(str(one.default)) == one.default > 0
        assert one.format(one.default)
