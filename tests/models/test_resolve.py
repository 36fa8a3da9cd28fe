"""Finding models by name, and rejecting bad files before llama.cpp reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from galago.models.errors import GGUFError, ModelError, NotFound
from galago.models.registry.resolve import resolve
from galago.runtime.cli.main import main

BUILTIN = resolve("builtin")


def test_the_builtin_model_comes_with_its_projector() -> None:
    assert BUILTIN.id == "builtin" and BUILTIN.projector
    assert BUILTIN.header.context_length == 2048 and BUILTIN.header.chat_template


@pytest.mark.parametrize("name", ["BUILTIN", "builtin/", "builtin:latest", "Builtin:LATEST"])
def test_the_built_in_model_has_its_name_in_other_spellings(name: str) -> None:
    assert resolve(name).id == "builtin"


def test_a_file_is_named_after_its_path_unless_a_name_is_given() -> None:
    assert resolve(str(BUILTIN.weights)).id == "text-Q8_0"
    assert resolve(BUILTIN.weights, name="mine").id == "mine"
    assert resolve(BUILTIN.weights).projector is None


def test_the_builtin_model_can_be_renamed() -> None:
    assert resolve("builtin", name="gpt-4o-mini").id == "gpt-4o-mini"


def test_a_missing_model_is_reported() -> None:
    with pytest.raises(NotFound, match="use `builtin`, the path"):
        resolve("buitlin")


def test_a_missing_projector_is_reported() -> None:
    with pytest.raises(NotFound, match="there is no projector file"):
        resolve("builtin", "nowhere.gguf")


def test_swapped_model_and_projector_are_rejected() -> None:
    with pytest.raises(ModelError, match="--mmproj"):
        resolve(BUILTIN.projector or "")
    with pytest.raises(ModelError, match="is not a projector"):
        resolve("builtin", BUILTIN.weights)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(BUILTIN.weights.read_bytes()[:1_000_000])
    with pytest.raises(GGUFError, match="half.gguf: the file is truncated"):
        resolve(path)


def test_a_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is a folder without GGUF files; give the path of a GGUF file"):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["folder", "my/folder"])
def test_a_folder_without_a_slash_or_like_a_repository_is_rejected_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "x.gguf").touch()
    with pytest.raises(NotFound, match=f"{name} is a folder; give a file in it, such as {name}/x.gguf, or use galago"):
        resolve(name)
    assert main(["show", name]) == main(["show", f"./{name}"]) == 1
    assert capsys.readouterr().err.count("is a folder; give a file in it") == 2


def test_a_folder_does_not_hide_how_to_install_a_model_of_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen3.5-0.8b").mkdir()
    with pytest.raises(NotFound, match="galago pull qwen3.5-0.8b"):
        resolve("qwen3.5-0.8b")
