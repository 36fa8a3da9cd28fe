"""The files that make up a model. `registry/resolve.py` finds and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .gguf.header import GGUFHeader


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A LoRA adapter on disk. `scale` applies to requests that set none."""

    path: Path
    scale: float


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk.

    `id` is its name in the API. The `projector` lets it take images or audio. The `draft` model proposes tokens for
    speculative decoding. `trusted` files came with Galago; any other may be damaged or malicious.
    """

    id: str
    weights: Path
    header: GGUFHeader
    projector: Path | None
    trusted: bool = False
    adapters: tuple[AdapterFile, ...] = ()
    draft: ModelFiles | None = None
