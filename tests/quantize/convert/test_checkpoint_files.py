"""Which files of a folder a checkpoint consists of, where it came from, and what is named as left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes import checkpoints
from galago.models.errors import ModelError
from galago.quantize.convert import origin
from galago.quantize.convert.json_config import read_json
from galago.quantize.convert.origin import find_origin, snapshot_of
from galago.quantize.convert.weight_files import read_weight_files

COMMIT = "ab12" * 10
RIGHT, WRONG = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)


def layout(folder: Path, files: dict[str, dict[str, bool]], index: dict[str, str] | None = None) -> Path:
    """Writes safetensors files: name -> {tensor: whether it holds the right values}, and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        checkpoints.safetensors(folder / name, {t: RIGHT if right else WRONG for t, right in tensors.items()})
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SINGLE = "model.safetensors"

READ: dict[str, tuple[dict[str, dict[str, bool]], dict[str, str] | None, str]] = {
    "one file": ({SINGLE: {"a": True, "b": True}}, None, ""),
    "parts": ({A: {"a": True}, B: {"b": True}}, {"a": A, "b": B}, ""),
    "parts of other names": (
        {"first.safetensors": {"a": True}, "rest.safetensors": {"b": True}},
        {"a": "first.safetensors", "b": "rest.safetensors"},
        "",
    ),
    "a stray single file": (
        {SINGLE: {"a": False, "b": False}, A: {"a": True}, B: {"b": True}},
        {"a": A, "b": B},
        "the file model.safetensors: model.safetensors.index.json does not name it",
    ),
    "an index that names the single file": ({SINGLE: {"a": True, "b": True}}, {"a": SINGLE, "b": SINGLE}, ""),
    "an index whose parts are not there": (
        {SINGLE: {"a": True, "b": True}},
        {"a": A, "b": B},
        "none of the files that it names exists; model.safetensors was read instead",
    ),
    "parts without an index": ({A: {"a": True}, B: {"b": True}}, None, ""),
    "a file of another name": ({"pytorch_model.safetensors": {"a": True, "b": True}}, None, ""),
    "another file beside it": (
        {SINGLE: {"a": True, "b": True}, "value_head.safetensors": {"a": False}},
        None,
        "the file value_head.safetensors: the weights are in model.safetensors",
    ),
    "Mistral's own form beside it": (
        {SINGLE: {"a": True, "b": True}, "consolidated.safetensors": {"x": False}},
        None,
        "",
    ),
}


@pytest.mark.parametrize("case", READ)
def test_the_right_files_are_read_and_the_others_named(tmp_path: Path, case: str) -> None:
    files, index, left_out = READ[case]
    weights = read_weight_files(layout(tmp_path / "c", files, index))
    assert {name: bool(tensor.rows(0, 2).all()) for name, tensor in weights.tensors.items()} == {"a": True, "b": True}
    assert left_out in " ".join(weights.left_out) and bool(left_out) == bool(weights.left_out)


REFUSED: dict[str, tuple[dict[str, dict[str, bool]], dict[str, str] | None, str]] = {
    "a part is missing": ({B: {"b": True}}, {"a": A, "b": B}, f"{A} is missing; download the rest"),
    "a part is missing beside a stray file": (
        {SINGLE: {"a": False}, B: {"b": True}},
        {"a": A, "b": B},
        f"{A} is missing",
    ),
    "a part without an index is missing": ({B: {"b": True}}, None, f"lacks {A}, 1 of 2 parts"),
    "two files, no index": (
        {"x.safetensors": {"a": True}, "y.safetensors": {"b": True}},
        None,
        "x.safetensors, y.safetensors and no index",
    ),
    "two parts with one tensor": ({A: {"a": True}, B: {"a": True}}, None, "both contain 'a'"),
    "Mistral's own form alone": ({"consolidated.safetensors": {"x": True}}, None, "Mistral's own form; download"),
    "nothing": ({}, None, "has no model.safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_without_all_weights_are_refused(tmp_path: Path, case: str) -> None:
    files, index, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        read_weight_files(layout(tmp_path / "c", files, index))


def plain(root: Path) -> Path:
    return root / "Tiny-Chat"


def snapshot(root: Path) -> Path:
    return root / "hub" / "models--acme--Tiny-Chat" / "snapshots" / COMMIT


def without_owner(root: Path) -> Path:
    return root / "models--gpt2" / "snapshots" / COMMIT


def inside(root: Path) -> Path:
    return snapshot(root) / "text_model"


def digits(root: Path) -> Path:
    return root / COMMIT


def downloaded(root: Path) -> Path:
    notes = root / "Tiny-Chat" / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text(f"{COMMIT}\n{'0' * 40}\n1790000000.0\n")
    return root / "Tiny-Chat"


ORIGINS: dict[str, tuple[Callable[[Path], Path], str | None, str]] = {
    "a folder": (plain, "Tiny-Chat", "Tiny-Chat"),
    "a snapshot in the Hub's cache": (snapshot, "Tiny-Chat", f"acme/Tiny-Chat at commit {COMMIT}"),
    "a snapshot of a repository without an owner": (without_owner, "gpt2", f"gpt2 at commit {COMMIT}"),
    "a folder in a snapshot": (inside, "text_model", f"acme/Tiny-Chat/text_model at commit {COMMIT}"),
    "a copied snapshot": (digits, None, "a folder"),
    "a folder that files were downloaded into": (downloaded, "Tiny-Chat", f"Tiny-Chat at commit {COMMIT}"),
}


@pytest.mark.parametrize("case", ORIGINS)
def test_the_origin_is_the_repository_and_commit_as_far_as_they_are_known(tmp_path: Path, case: str) -> None:
    make, name, text = ORIGINS[case]
    folder = make(tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    found = find_origin(folder)
    assert (found.name, found.text) == (name, text)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert find_origin(link) == found and find_origin(folder / ".." / folder.name) == found


def test_a_repository_folder_of_the_cache_stands_for_its_main_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = snapshot(tmp_path).parent.parent
    for commit in (COMMIT, "cd34" * 10):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert snapshot_of(repository) == snapshot(tmp_path)
    monkeypatch.setattr(origin, "cache_root", lambda: tmp_path / "hub")
    assert snapshot_of(Path("acme/Tiny-Chat")) == snapshot(tmp_path)
    with pytest.raises(ModelError, match="no folder acme/other, and the Hub's cache has no snapshot of acme/other"):
        snapshot_of(Path("acme/other"))
    assert snapshot_of(tmp_path) == tmp_path and snapshot_of(snapshot(tmp_path)) == snapshot(tmp_path)


def test_a_git_lfs_pointer_in_place_of_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 123\n")
    with pytest.raises(ModelError, match="it is a Git LFS pointer; download the real file"):
        read_json(path)
