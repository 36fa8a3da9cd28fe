"""A LoRA adapter: small weights that change what a model says. Knows no strength: contexts apply it in many."""

from __future__ import annotations

from pathlib import Path

from ...models.errors import ModelError
from .library import NO_REASON, llama, take_errors
from .weights import Weights


class LoraAdapter:
    """An adapter loaded for one model, before any context is made. Close it after the contexts, before the weights."""

    def __init__(self, path: Path, weights: Weights) -> None:
        take_errors()
        self.handle = llama.llama_adapter_lora_init(weights.handle, str(path).encode())
        if not self.handle:
            raise ModelError(
                f"the adapter {path.name} does not go with {weights.path.name}: {take_errors() or NO_REASON}", str(path)
            )

    def close(self) -> None:
        if self.handle:
            llama.llama_adapter_lora_free(self.handle)
            self.handle = None
