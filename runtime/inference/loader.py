"""Loads a model with the class for its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ...models.files import ModelFiles
from ..config import ModelConfig
from ..types.placement import ON_CPU, Placement
from .generator import Generator

if TYPE_CHECKING:
    from .embedder import Embedder

LoadedModel: TypeAlias = "Generator | Embedder"


def open_model(
    files: ModelFiles,
    config: ModelConfig | None = None,
    placement: Placement = ON_CPU,
    progress: Callable[[float], None] | None = None,
) -> LoadedModel:
    """Returns a model that answers chats, or one that computes embeddings or scores. Raises `GalagoError`."""
    if files.header.pooling is None:
        return Generator(files, config, placement, progress=progress)
    from .embedder import Embedder

    return Embedder(files, config, placement, progress)
