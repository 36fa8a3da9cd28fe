"""Sizes of the built-in model. Every quantizable row is a multiple of 256, so that every weight type applies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """`patches` is the side of the grid of patches, `merge` how many of them make the side of one image token."""

    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 512
    context: int = 2048
    vocabulary: int = 512
    rope_base: float = 10_000.0
    image_size: int = 96
    patch: int = 8
    merge: int = 3
    encoder_layers: int = 3
    encoder_feed_forward: int = 512
    mel_bins: int = 64
    channels: int = 32

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def patches(self) -> int:
        return self.image_size // self.patch

    @property
    def image_tokens(self) -> int:
        return (self.patches // self.merge) ** 2


CHUNK_FRAMES, CHUNK_TOKENS = 100, 13
"""qwen3a's encoder cuts sound into stretches of 100 mel frames (one second), 13 tokens each."""
