"""Leaves out the layers that a model misses least, each one's loss measured.

The least missed layer goes first, then the one that the rest misses least, and so on: what two layers do together no
measurement of each alone tells.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...models import units
from ...models.capacity import gpu_offload
from ...models.errors import ConfigError
from ...runtime.process.job import run_job
from ..calibrate.calibration import Data
from ..jobs import QuantizationJob
from ..search.divergence import Measure, Progress, Units, mean
from . import plan
from .plan import Source

UNITS = 16
DROPPED = "galago.quantize.dropped_layers"

Losses = dict[int, Units]
"""Of each layer that could go next: how far the model without it, and without those that went before, diverges."""


def rounds(data: Data, count: int, progress: Progress = lambda *_: None) -> list[tuple[int, Losses]]:
    """The layers to drop, in that order, and what was measured to choose each. Raises `ConfigError`."""
    layers = gpu_offload.layer_count(data.source.header)
    if not 1 <= count < layers:
        raise ConfigError(f"of {layers} layers, 1 to {layers - 1} can be dropped, not {count}", "drop_layers")
    _check_alike(data.source)
    measure = Measure(data, None, UNITS)
    chosen: list[tuple[int, Losses]] = []
    for _ in range(count):
        gone = [layer for layer, _ in chosen]
        left = {f"without layer {i}": i for i in range(layers) if i not in gone}
        variants = {name: {"ftype": 1, "copy": True, "dropped": sorted([*gone, i])} for name, i in left.items()}
        losses = {left[name]: found for name, found in measure(variants, progress).items()}
        chosen.append((min(losses, key=lambda layer: mean(losses[layer])), losses))
    return chosen


def _check_alike(source: Source) -> None:
    """llama.cpp renumbers layers, and leaves metadata as it is that tells something of each."""
    count = gpu_offload.layer_count(source.header)
    own = [key for key, value in source.header.metadata.items()
           if isinstance(value, tuple) and len(value) == count and not key.startswith("tokenizer.")]  # fmt: skip
    if own:
        raise ConfigError(f"{source.path.name} says something of each layer ({own[0]}): none can be dropped", "model")


def without(source: Source, dropped: Sequence[int], folder: Path) -> Source:
    """The model without these layers, all else as it is, in a file in the folder. Raises `ConfigError` where that is
    too small."""
    free = shutil.disk_usage(folder).free
    if source.size > free:
        needs = f"a model without layers needs {units.format_bytes(source.size)} in {folder.parent}"
        raise ConfigError(
            f"{needs}, and {units.format_bytes(free)} are free; set TMPDIR to another folder", "drop_layers"
        )
    path = folder / source.path.name
    told: dict[str, str | int] = {DROPPED: ", ".join(map(str, sorted(dropped)))}
    job = QuantizationJob(source.path, path, 1, copy=True, dropped=tuple(sorted(dropped)), metadata=told)
    run_job("galago.quantize.variants.quantize_job", job, source.path.name)
    return replace(plan.open_source(str(path)), origin=source)
