"""Where `galago serve` takes its API key from."""

from __future__ import annotations

from pathlib import Path

import pytest

from galago.models.errors import ConfigError
from galago.runtime.cli.serve import _api_key


def test_a_key_is_read_from_the_only_line_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_API_KEY", "other")
    (tmp_path / "key").write_text("  secret\r\n")
    assert _api_key(None, tmp_path / "key") == "secret"
    assert _api_key(None, None) == "other"


def test_a_key_on_the_command_line_warns_once_that_it_shows(capfd: pytest.CaptureFixture[str]) -> None:
    assert _api_key("secret", None) == "secret"
    errors = capfd.readouterr().err
    assert errors.count("--api-key shows in the list of processes") == 1 and "secret" not in errors


@pytest.mark.parametrize("content", [b"", b"\n \n", b"one\ntwo", b"\xff\xfe", b"k" * 4097, None])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        _api_key(None, tmp_path / "key")
    assert refused.value.param == "api-key-file"


def test_two_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        _api_key("a", tmp_path / "key")
