"""Loads whatever kind of model some files are. Knows what each kind is called, and nothing of what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..models.ref import ModelFiles
from .config import ModelConfig
from .embedder import Embedder
from .model import Model

Loaded: TypeAlias = Model | Embedder


def open_model(
    files: ModelFiles,
    config: ModelConfig | None = None,
    progress: Callable[[float], None] | None = None,
    isolated: bool = False,
) -> Loaded:
    """A model that answers, or one that makes vectors; arguments and errors as `Model`'s."""
    if files.header.pooling is None:
        return Model(files, config, progress=progress, isolated=isolated)
    return Embedder(files, config, progress, isolated)
