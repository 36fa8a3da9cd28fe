"""The files that make up a model, as values. Does not know how they are found or what is checked of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .gguf.header import Header


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A LoRA adapter on disk, and how strongly it applies to requests that do not say."""

    path: Path
    scale: float


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk: its name in the API, its weights, the projector that gives it eyes or ears, and its adapters.

    `trusted` files came with Galago; any other may be damaged or malicious.
    """

    id: str
    weights: Path
    header: Header
    projector: Path | None
    trusted: bool = False
    adapters: tuple[AdapterFile, ...] = ()
    draft: ModelFiles | None = None
