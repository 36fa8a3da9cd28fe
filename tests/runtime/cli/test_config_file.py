"""The configuration file of `galago serve`: what wins, what is shown, and how mistakes are told."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from galago.runtime.cli import serve
from galago.runtime.cli.main import main
from galago.runtime.cli.ui import config_file


@pytest.fixture(autouse=True)
def settings_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("GALAGO_API_KEY", raising=False)
    (tmp_path / "galago").mkdir()
    monkeypatch.setattr(config_file, "config_folder", lambda: tmp_path / "galago")
    return tmp_path / "galago"


def command() -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(serve.serve)
    return typer.main.get_command(app)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", "--show-config", *arguments]) == 0
    return capsys.readouterr().out


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 1
    return capsys.readouterr().err


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    settings_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings_folder / "config.toml").write_text(
        'port = 1234\nhost = "::1"\nalias = ["a", "b"]\nstrict = true\napi-key-file = "k"\n'
        'limit = ["parts=7", "body_bytes=1MiB"]\n'
    )
    monkeypatch.setenv("GALAGO_API_KEY", "secret")
    monkeypatch.setenv("GALAGO_LIMIT_PARTS", "9")
    text = shown(capsys, "--port", "99", "--alias", "c")
    assert "port = 99  # the command line\n" in text
    assert 'host = "::1"  # line 2 of the file\n' in text
    assert 'alias = ["c"]  # the command line\n' in text
    assert "strict = true  # line 4 of the file\n" in text
    assert "# api-key is set  # the environment\n" in text and "# api-key-file is not set\n" in text
    assert 'limit = ["body_bytes=1MiB"]  # line 6 of the file\n' in text
    assert "queue = 512  # the default\n" in text or "# queue is not set\n" in text
    assert "secret" not in text and str(settings_folder / "config.toml") in text
    assert tomllib.loads(text)["port"] == 99  # what is shown can be used as a file


def test_a_key_on_the_command_line_is_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--api-key", "secret")
    assert "secret" not in text and "# api-key is set  # the command line\n" in text and "(there is none)" in text


def test_every_option_may_stand_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = {"port": 1, "context": 512, "kv-type": "q8_0", "flash-attention": "on", "memory": "2GiB"}
    lines, names = [], []
    for option in command().params:
        name = option.opts[0].removeprefix("--")
        if name in ("config", "show-config"):
            continue
        value = examples.get(name, True if option.is_flag else ["1"] if option.multiple else 1)
        lines.append(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
        names.append(name)
    (tmp_path / "all.toml").write_text("\n".join(lines))
    text = shown(capsys, "--config", str(tmp_path / "all.toml"))
    assert text.count(" of the file\n") == len(names) > 25
    assert 'kv-type = "q8_0"  # line' in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prot = 1", "line 1: prot: there is no such option; did you mean port?"),
        ("\n\nzzz = 1", "line 3: zzz: there is no such option; known are model, name"),
        ("config = 'x'", "line 1: config: there is no such option"),
        ("# first\nport = 'many'", "line 2: port: "),
        ("port = [1, 2]", "line 1: port: must be one text or number; it means: port to listen on"),
        ("port = true", "line 1: port: must be one text or number"),
        ("strict = 'yes'", "line 1: strict: must be true or false"),
        ("kv-type = 'q3'", "line 1: kv-type: "),
        ("[server]\nport = 1", "line 1: server: there is no such option"),
        ("alias = [['x']]", "line 1: alias: must be one text or number, or a list of them"),
        ("port = ", "is not TOML: "),
        ("strict = true\nport = 70000", "line 2: port: port 70000 is not valid; use 0 to 65535"),
        ("host = '0.0.0.0'", "line 1: host: 0.0.0.0 can be reached from other machines"),
        ("limit = 'parts=many'", "line 1: limit: the limit parts is 'many'"),
    ],
)
def test_a_mistake_names_the_file_the_line_and_the_key(
    settings_folder: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    (settings_folder / "config.toml").write_text(text)
    message = error(capsys)
    assert str(settings_folder / "config.toml") in message and problem in message


def test_accepted_values_are_named(settings_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (settings_folder / "config.toml").write_text("kv-type = 'q3'")
    assert all(name in error(capsys) for name in ("f16", "q8_0", "q4_0"))


def test_a_mistake_of_the_command_line_is_not_blamed_on_the_file(
    settings_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings_folder / "config.toml").write_text("port = 1")
    assert error(capsys, "--port", "70000").startswith("galago: port 70000 is not valid")


def test_a_file_that_is_named_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read" in error(capsys, "--config", str(tmp_path / "none.toml"))


def test_paths_may_begin_with_the_home_folder(
    settings_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    (settings_folder / "config.toml").write_text("store = '~/kept'")
    assert 'store = "/home/someone/kept"' in shown(capsys)
