"""A LoRA adapter: small weights that change a model's answers. Each context applies it with its own scale."""

from __future__ import annotations

from pathlib import Path

from ...models.errors import ModelError
from .library import NO_REASON, llama, take_errors
from .weights import Weights


class LoraAdapter:
    """An adapter for one model. Load it before any context is made; close it after the contexts, before the weights."""

    def __init__(self, path: Path, weights: Weights) -> None:
        take_errors()
        self.handle = llama.llama_adapter_lora_init(weights.handle, str(path).encode())
        if not self.handle:
            raise ModelError(
                f"the adapter {path.name} does not fit {weights.path.name}: {take_errors() or NO_REASON}", str(path)
            )

    def close(self) -> None:
        if self.handle:
            llama.llama_adapter_lora_free(self.handle)
            self.handle = None
