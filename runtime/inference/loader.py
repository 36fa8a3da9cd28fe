"""Loads whatever kind of model some files are. Knows what each kind is called, and nothing of what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ...models.files import ModelFiles
from ..config import ModelConfig
from .generator import Generator

if TYPE_CHECKING:
    from .embedder import Embedder

LoadedModel: TypeAlias = "Generator | Embedder"


def open_model(
    files: ModelFiles,
    config: ModelConfig | None = None,
    progress: Callable[[float], None] | None = None,
    isolated: bool = False,
) -> LoadedModel:
    """A model that answers, or one that makes vectors; arguments and errors as `Model`'s."""
    if files.header.pooling is None:
        return Generator(files, config, progress=progress, isolated=isolated)
    from .embedder import Embedder

    return Embedder(files, config, progress, isolated)
