"""Sizes of the built-in model. Quantizable rows are multiples of 256, so that every weight type can be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """`patches` is the side length of the grid of patches; `merge` is the side length of an image token in patches."""

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
"""qwen3a's encoder splits audio into chunks of 100 mel frames (one second) with 13 tokens each."""
