"""Tiny random-weight LoRA adapters for the built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from fakes.gguf_writing import write_and_close

RANK = 4
WIDTH = 256
LAYERS = 4


def write(path: Path, seed: int = 0, strength: float = 3.0, width: int = WIDTH, **keys: Any) -> Path:
    """Writes an adapter for every layer's attention output; `keys` replace metadata."""
    described: dict[str, Any] = {"type": "adapter", "architecture": "llama", "adapter": "lora", "alpha": float(RANK)}
    described |= keys
    writer = gguf.GGUFWriter(str(path), described["architecture"])
    writer.add_string("general.type", described["type"])
    writer.add_string("adapter.type", described["adapter"])
    if isinstance(described["alpha"], float):
        writer.add_float32("adapter.lora.alpha", described["alpha"])
    else:
        writer.add_uint32("adapter.lora.alpha", described["alpha"])
    if "invocation_tokens" in described:
        writer.add_array("adapter.alora.invocation_tokens", described["invocation_tokens"])
    random = np.random.default_rng(seed)
    for layer in range(LAYERS):
        name = f"blk.{layer}.attn_output.weight"
        a = random.standard_normal((RANK, width), np.float32) / np.sqrt(width)
        b = random.standard_normal((width, RANK), np.float32) * strength
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float32))
    write_and_close(writer)
    return path
