"""Small models with one fault each, with which llama.cpp computes all the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np

from galago.models.files import ModelFiles
from galago.models.gguf.reader import read_header

from . import crafted, experts
from .crafted import STRING, UINT32, Value

SAID_TOKEN = "Z"
"""A token of the built-in vocabulary whose embedding is NaN in the model `nan embedding`."""


@cache
def _content(**settings: Any) -> bytes:
    with TemporaryDirectory() as folder:
        return experts.write(Path(folder) / "model.gguf", **settings).read_bytes()


def _good(path: Path, **settings: Any) -> Path:
    path.write_bytes(_content(**settings))
    return path


def write(fault: str, path: Path) -> Path:
    """Writes the model with a fault of `FAULTS`."""
    return FAULTS[fault](path)


def as_trusted(path: Path, draft: Path | None = None) -> ModelFiles:
    """The files of a model, which is loaded without being tried in a child process first."""
    drafting = as_trusted(draft) if draft else None
    return ModelFiles(path.stem, path, read_header(path), None, True, draft=drafting)


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copies a GGUF file and changes its tensors in place."""
    if source != target:
        shutil.copy(source, target)
    change({tensor.name: tensor.data for tensor in gguf.GGUFReader(target, "r+").tensors})
    return target


def filled(path: Path, begin: str, value: float) -> Path:
    """Fills the weights whose names begin with a text."""

    def fill(tensors: dict[str, Any]) -> None:
        for name, data in tensors.items():
            if name.startswith(begin):
                data[:] = value

    return changed(path, path, fill)


def without_end_token(path: Path, **keys: Value) -> Path:
    """Writes a model whose vocabulary has no token that llama.cpp takes for an end token by its text."""
    model = crafted.read(_good(path))
    tokens = model.keys["tokenizer.ggml.tokens"]
    content = [text.replace(b"<|im_end|>", b"<|x|>").replace(b"<|endoftext|>", b"<|y|>") for text in tokens.content]
    ends = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    kept = {key: value for key, value in model.keys.items() if key not in ends}
    return model.having(keys=kept | {"tokenizer.ggml.tokens": tokens._replace(content=content), **keys}).write(path)


def _nan_embedding(path: Path) -> Path:
    texts = crafted.read(_good(path, tied=False)).keys["tokenizer.ggml.tokens"].content
    token = texts.index(SAID_TOKEN.encode())

    def spoil(tensors: dict[str, Any]) -> None:
        tensors["token_embd.weight"][token] = np.nan

    return changed(path, path, spoil)


FAULTS: dict[str, Callable[[Path], Path]] = {
    "none": _good,
    "nan": lambda path: filled(_good(path), "blk.0.attn_q", np.nan),
    "infinity": lambda path: filled(_good(path), "blk.0.ffn_down", np.inf),
    "nan embedding": _nan_embedding,
    "zeros": lambda path: filled(_good(path), "", 0.0),
    "one expert": lambda path: _good(path, experts=1, used=1),
    "one expert used": lambda path: _good(path, experts=4, used=1),
    "no expert used": lambda path: _good(path, experts=4, used=0),
    "more experts used than there are": lambda path: _good(path, experts=4, used=5),
    "no end token": without_end_token,
    "end token beyond the vocabulary": lambda path: without_end_token(
        path, **{"tokenizer.ggml.eos_token_id": Value(UINT32, 99999)}
    ),
    "end token that is a word": lambda path: without_end_token(
        path, **{"tokenizer.ggml.eos_token_id": Value(UINT32, 40), "general.name": Value(STRING, "ends")}
    ),
}
