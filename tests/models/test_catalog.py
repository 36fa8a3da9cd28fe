"""The shipped catalog and the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from galago.models.errors import ConfigError
from galago.models.registry import catalog

ROW = '[[model]]\nname = "mine"\nrepository = "me/my-GGUF"\n'


def own(folder: Path, text: str) -> tuple[catalog.CatalogEntry, ...]:
    path = folder / "catalog.toml"
    path.write_text(text)
    return catalog.entries(path)


def test_the_catalog_covers_every_task_and_modality(tmp_path: Path) -> None:
    shipped = catalog.entries(tmp_path / "none.toml")
    assert len(shipped) >= 15
    assert {entry.task for entry in shipped} == set(catalog.TASKS)
    chats = {entry.modalities for entry in shipped if entry.task == "chat"}
    assert chats == {(), ("vision",), ("audio",), ("vision", "audio")}
    assert all(entry.minimum_build and entry.licence and entry.parameters for entry in shipped)


def test_unverified_names_only_existing_fields(tmp_path: Path) -> None:
    for entry in catalog.entries(tmp_path / "none.toml"):
        quants = {f"quants.{quant.name}" for quant in entry.quants}
        assert set(entry.unverified) <= set(catalog.CatalogEntry.__slots__) | quants, entry.name
        assert entry.verified == (not entry.unverified)


def test_user_entries_come_first_and_replace_shipped_ones(tmp_path: Path) -> None:
    found = own(tmp_path, ROW + '[[model]]\nname = "gemma3-4b"\nrepository = "me/gemma"\nsenses = ["vision"]\n')
    assert [entry.name for entry in found[:2]] == ["mine", "gemma3-4b"] and found[0].user_defined
    assert [entry.repository for entry in found if entry.name == "gemma3-4b"] == ["me/gemma"]
    assert found[1].projector == "*.gguf" and found[0].projector is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[model]", "is not TOML"),
        ("models = 3", "may contain only"),
        ('[[model]]\nname = "x"', "model 1: repository is missing"),
        (ROW + ROW, "defines the model mine twice"),
        (ROW + "colour = 3", "unknown field colour"),
        (ROW + 'parameters = "many"', "parameters is not a whole number"),
        (ROW + 'task = "dance"', "'dance' is not a task"),
        (ROW + 'senses = ["smell"]', "senses may be vision and audio"),
        (ROW.replace("me/my", "../../etc/my"), "is not a repository"),
        (ROW.replace('"mine"', '"a b"'), "is not a valid name"),
        (ROW + "quants = [{ weights = 3 }]", "a quantization has no name"),
    ],
)
def test_a_mistake_names_file_and_row(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        catalog.read_user_catalog(path)
    assert "catalog.toml" in caught.value.message


@pytest.mark.parametrize("kind", ["mistake", "zeros", "pipe", "folder", "loop"])
def test_an_unusable_catalog_of_the_user_is_ignored_and_logged_once(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "catalog.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(b"[[model]" if kind == "mistake" else bytes(1000))
    for _ in range(2):
        assert len(catalog.entries(path)) >= 15
    assert capsys.readouterr().err.count("your own catalog was ignored") == 1


def test_similar_names_are_found() -> None:
    assert catalog.similar_names("gema4-e2b")[0] == "gemma4-e2b"
    assert "qwen3.5-0.8b" in catalog.similar_names("qwen3.5")
    assert catalog.similar_names("zzzz") == []
