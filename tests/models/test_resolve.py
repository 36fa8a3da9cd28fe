"""What MODEL may be, and what is refused before llama.cpp sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from galago.models.errors import GGUFError, ModelError, NotFound
from galago.models.registry.resolve import resolve

BUILTIN = resolve("builtin")


def test_the_builtin_model_comes_with_its_projector() -> None:
    assert BUILTIN.id == "builtin" and BUILTIN.projector
    assert BUILTIN.header.context_length == 2048 and BUILTIN.header.chat_template


def test_a_path_is_named_after_its_file_or_as_told() -> None:
    assert resolve(str(BUILTIN.weights)).id == "text-Q8_0"
    assert resolve(BUILTIN.weights, name="mine").id == "mine"
    assert resolve(BUILTIN.weights).projector is None


def test_the_builtin_model_can_be_renamed() -> None:
    assert resolve("builtin", name="gpt-4o-mini").id == "gpt-4o-mini"


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="use `builtin`, the path"):
        resolve("buitlin")


def test_a_projector_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="there is no projector"):
        resolve("builtin", "nowhere.gguf")


def test_a_projector_for_a_model_and_a_model_for_a_projector() -> None:
    with pytest.raises(ModelError, match="--mmproj"):
        resolve(BUILTIN.projector or "")
    with pytest.raises(ModelError, match="is not a projector"):
        resolve("builtin", BUILTIN.weights)


def test_a_cut_off_download_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(BUILTIN.weights.read_bytes()[:1_000_000])
    with pytest.raises(GGUFError, match="half.gguf: file is truncated"):
        resolve(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="directory"):
        resolve(tmp_path)
