"""The files that make up a model. `registry/resolve.py` finds and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .gguf.header import GGUFHeader
from .registry.selection import sibling_parts


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

    @property
    def parts(self) -> tuple[Path, ...]:
        """All files of the weights."""
        return weight_parts(self.weights)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are loaded, those of the draft model too."""
        projector = (self.projector,) if self.projector else ()
        draft = self.draft.paths if self.draft else ()
        return (*self.parts, *projector, *(adapter.path for adapter in self.adapters), *draft)


def weight_parts(weights: Path) -> tuple[Path, ...]:
    """Returns the files of a split model in order, or the one file of any other."""
    names = [path.name for path in weights.parent.iterdir()]
    return tuple(map(weights.with_name, sibling_parts(weights.name, names)))
