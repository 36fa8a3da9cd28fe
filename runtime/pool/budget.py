"""How large a model is made: what it takes here, and the context and slots that a budget of memory has room for.

Brings together the files, the settings and what this build of llama.cpp does; the arithmetic is in `models/capacity`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...models import units
from ...models.capacity import memory
from ...models.capacity.memory import ContextChoice, Footprint, Setting
from ...models.errors import ConfigError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..config import DEFAULT_CONTEXT, DEFAULT_SLOTS, ModelConfig
from ..llamacpp.library import features
from .placement import Placement, place


def measure(
    files: ModelFiles, config: ModelConfig, placement: Placement, server: bool
) -> Callable[[int, int], Footprint]:
    """Tells what the model takes of RAM with a context of so many tokens and so many slots."""
    projector = read_header(files.projector) if files.projector else None
    adapters = [read_header(adapter.path) for adapter in files.adapters]
    setting = Setting(
        features=features(),
        kv_type=config.kv_type,
        flash_attention=config.flash_attention != "off",
        gpu_layers=placement.gpu_layers,
        projector_on_gpu=placement.projector,
        kept=config.cache_mib << 20,
        server=server,
    )
    return lambda cells, slots: memory.footprint(files.header, projector, adapters, cells, slots, setting)


def settle(files: ModelFiles, config: ModelConfig, server: bool = True) -> tuple[ModelConfig, Placement, list[str]]:
    """Fills in the context and slots that were left open, plans the GPUs for them, and says what `memory` has chosen.

    Raises `ConfigError` where nothing fits that memory.
    """
    placement = place(files, config)
    if config.memory is None:
        return replace(config, slots=config.slots or DEFAULT_SLOTS), placement, []
    chosen, said = _chosen(files, config, placement, server)
    config = replace(config, context_length=chosen.context, slots=chosen.slots)
    projector = read_header(files.projector) if files.projector else None
    return config, place(files, config), [said, *memory.unknown(files.header, projector)]


def default_context(files: ModelFiles) -> int:
    return min(trained(files), DEFAULT_CONTEXT)


def trained(files: ModelFiles) -> int:
    return files.header.context_length or DEFAULT_CONTEXT


def _chosen(files: ModelFiles, config: ModelConfig, placement: Placement, server: bool) -> tuple[ContextChoice, str]:
    assert config.memory is not None
    taken = measure(files, config, placement, server)
    budget = f"of {units.size(config.memory)} of memory"
    chosen = memory.choose(taken, config.memory, trained(files), config.context_length, config.slots)
    if chosen is not None:
        used = units.size(chosen.footprint.needed)
        return chosen, f"{used} {budget}: a context of {chosen.context} tokens, {requests(chosen.slots)} at once"
    if config.context_length is None or config.slots is None:
        cells, slots = config.context_length or min(memory.SHORTEST, trained(files)), config.slots or 1
        raise ConfigError(
            f"{files.id} needs {units.size(taken(cells, slots).needed)} for a context of {cells} tokens, and may take "
            f"{units.size(config.memory)}; choose a larger --memory, or a smaller model or quantization",
            "memory",
        )
    given = ContextChoice(config.context_length, config.slots, taken(config.context_length, config.slots))
    return given, f"{units.size(given.footprint.needed)} {budget}, too much for the given --context and --parallel"


def requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"
