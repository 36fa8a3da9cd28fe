"""Estimates the memory that a model takes, from its files and its settings. The arithmetic is in `models/capacity`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...models.capacity import memory
from ...models.capacity.memory import MemoryFootprint, MemorySettings
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..config import ModelConfig
from ..types.placement import Placement

FootprintFunction: TypeAlias = Callable[[int, int], MemoryFootprint]
"""Takes the context in tokens and the number of slots."""


def footprint_function(
    files: ModelFiles, config: ModelConfig, placement: Placement, features: frozenset[str], server: bool
) -> FootprintFunction:
    """Returns a function that estimates the memory for a context size and a number of slots.

    `features` are those of `LlamaBuild`. `server` adds the memory of the process that serves the API.
    """
    projector = read_header(files.projector) if files.projector else None
    adapters = [read_header(adapter.path) for adapter in files.adapters]
    setting = MemorySettings(
        features=features,
        kv_type=config.kv_type,
        flash_attention=config.flash_attention != "off",
        gpu_layers=placement.gpu_layers,
        projector_on_gpu=placement.projector,
        cache_bytes=config.cache_mib << 20,
        server=server,
    )
    return lambda cells, slots: memory.estimate_footprint(files.header, projector, adapters, cells, slots, setting)
