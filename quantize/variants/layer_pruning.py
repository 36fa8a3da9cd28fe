"""Layer pruning: measures what each layer contributes, and drops the ones that contribute least.

Layers are chosen one after another, because measuring each alone does not show what two layers do together.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...models import units
from ...models.capacity import gpu_offload
from ...models.errors import ConfigError
from ...runtime.process.job import run_job
from ..calibrate.calibration import CalibrationData
from ..jobs import QuantizationJob, VariantSpec
from ..progress import Progress, no_progress
from ..search.divergence import DivergenceMeter, SegmentDivergence, mean_divergence
from .source import SourceModel, open_source

MAX_CHUNKS = 16
DROPPED_LAYERS_KEY = "galago.quantize.dropped_layers"


class DroppedLayer(NamedTuple):
    """A layer that was chosen, and the divergences by which it was chosen.

    `divergences` are those of the model without each remaining layer, and without the layers dropped before.
    """

    layer: int
    divergences: dict[int, list[SegmentDivergence]]


def select_layers(data: CalibrationData, count: int, progress: Progress = no_progress) -> list[DroppedLayer]:
    """Returns the `count` layers to drop, in the order they are chosen. Raises `ConfigError`."""
    layers = gpu_offload.layer_count(data.source.header)
    if layers == 1:
        raise ConfigError("the model has a single layer, which cannot be dropped", "drop_layers")
    if not 1 <= count < layers:
        raise ConfigError(f"1 to {layers - 1} of the {layers} layers can be dropped, not {count}", "drop_layers")
    _check_prunable(data.source)
    meter = DivergenceMeter(data, None, MAX_CHUNKS)
    selected: list[DroppedLayer] = []
    for _ in range(count):
        dropped = [each.layer for each in selected]
        remaining = {f"without layer {i}": i for i in range(layers) if i not in dropped}
        variants = {
            name: VariantSpec(1, copy=True, dropped=tuple(sorted([*dropped, i]))) for name, i in remaining.items()
        }
        divergences = {remaining[name]: segments for name, segments in meter.measure(variants, progress).items()}
        least = min(divergences, key=lambda layer: mean_divergence(divergences[layer]))
        selected.append(DroppedLayer(least, divergences))
    return selected


def _check_prunable(source: SourceModel) -> None:
    """Raises `ConfigError` if metadata has one value per layer: llama.cpp renumbers layers, but not such metadata."""
    count = gpu_offload.layer_count(source.header)
    per_layer = [key for key, value in source.header.metadata.items()
                 if isinstance(value, tuple) and len(value) == count and not key.startswith("tokenizer.")]  # fmt: skip
    if per_layer:
        raise ConfigError(
            f"layers of {source.path.name} cannot be dropped: its metadata has one value per layer ({per_layer[0]})",
            "model",
        )


def write_without_layers(source: SourceModel, dropped: Sequence[int], folder: Path) -> SourceModel:
    """Writes the model without these layers to the folder, otherwise unchanged.

    Raises `ConfigError` if the disk is too full.
    """
    free = shutil.disk_usage(folder).free
    if source.size > free:
        raise ConfigError(
            f"the model without layers needs {units.format_bytes(source.size)}, but only {units.format_bytes(free)} "
            f"are free in {folder.parent}; set TMPDIR to another folder",
            "drop_layers",
        )
    path = folder / source.path.name
    metadata: dict[str, str | int] = {DROPPED_LAYERS_KEY: ", ".join(map(str, sorted(dropped)))}
    job = QuantizationJob(source.path, path, 1, copy=True, dropped=tuple(sorted(dropped)), metadata=metadata)
    run_job("galago.quantize.variants.quantize_job", job, source.path.name)
    return replace(open_source(str(path)), derived_from=source)
