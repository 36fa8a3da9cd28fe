"""Decides a model's placement, context length and number of slots, within a memory budget if there is one."""

from __future__ import annotations

from dataclasses import replace

from ...models import units
from ...models.capacity import memory
from ...models.capacity.memory import ContextPlan
from ...models.errors import ConfigError, ModelError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..config import DEFAULT_CONTEXT, DEFAULT_SLOTS, ModelConfig
from ..inference.footprint import FootprintFunction, footprint_function
from ..types.placement import LlamaBuild, LoadPlan
from .placement import place
from .smaller_variant import smaller_variant


def plan_load(files: ModelFiles, config: ModelConfig, build: LlamaBuild, server: bool = True) -> LoadPlan:
    """Fills in the context and slots that are not set, and places the model.

    `server` counts the memory of the process that serves the API. Raises `ConfigError` if nothing fits the budget.
    """
    placement = place(files, config, build)
    if config.memory is None:
        return LoadPlan(replace(config, slots=config.slots or DEFAULT_SLOTS), placement)
    choice, note = _choose(files, config, footprint_function(files, config, placement, build.features, server))
    config = replace(config, context_length=choice.context, slots=choice.slots)
    projector = read_header(files.projector) if files.projector else None
    return LoadPlan(config, place(files, config, build), (note, *memory.estimate_caveats(files.header, projector)))


def plan_shared(files: ModelFiles, config: ModelConfig, build: LlamaBuild, budget: int) -> LoadPlan:
    """Plans a model that shares `budget` bytes with others: with its default context and slots, or fewer if need be.

    A memory limit of its own in `config` counts as in `plan_load`. Raises `ConfigError` if the model cannot fit even if
    it is the only one.
    """
    if config.memory is None:
        plan = _with_memory(files, plan_load(files, config, build), build)
        if plan.mapped_bytes + plan.private_bytes <= budget:
            return plan
    budget = min(config.memory or budget, budget)
    plan = _with_memory(files, plan_load(files, replace(config, memory=budget), build, server=False), build)
    needed = plan.mapped_bytes + plan.private_bytes
    if needed > budget:  # with a given context and slots
        raise _too_large(files, needed, plan.config.context_length or default_context(files), budget)
    return plan


def _with_memory(files: ModelFiles, plan: LoadPlan, build: LlamaBuild) -> LoadPlan:
    """Adds the memory that a planned model takes. Counts whole files if their headers do not say what is in memory."""
    context = plan.config.context_length or default_context(files)
    try:
        estimate = footprint_function(files, plan.config, plan.placement, build.features, server=False)
        needed = estimate(context, plan.config.slots or DEFAULT_SLOTS)
    except ModelError:
        size = sum(path.stat().st_size for path in files.paths)
        return replace(plan, mapped_bytes=size, private_bytes=memory.WORKER_BYTES + (plan.config.cache_mib << 20))
    return replace(plan, mapped_bytes=needed.weights, private_bytes=needed.needed - needed.weights)


def default_context(files: ModelFiles) -> int:
    return min(trained_context(files), DEFAULT_CONTEXT)


def trained_context(files: ModelFiles) -> int:
    return files.header.context_length or DEFAULT_CONTEXT


def count_requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _choose(files: ModelFiles, config: ModelConfig, footprint: FootprintFunction) -> tuple[ContextPlan, str]:
    """Returns the context and slots for `config.memory`, and a note for the user."""
    assert config.memory is not None
    trained = trained_context(files)
    choice = memory.plan_context(footprint, config.memory, trained, config.context_length, config.slots)
    if choice is not None:
        used = units.format_bytes(choice.footprint.needed)
        slots = f"{count_requests(choice.slots)} at once"
        return (
            choice,
            f"{used} of {units.format_bytes(config.memory)} of memory: a context of {choice.context} tokens, {slots}",
        )
    if config.context_length is None or config.slots is None:
        context = config.context_length or min(memory.MIN_CONTEXT_TOKENS, trained)
        raise _too_large(files, footprint(context, config.slots or 1).needed, context, config.memory)
    given = ContextPlan(config.context_length, config.slots, footprint(config.context_length, config.slots))
    return given, (
        f"the given --context and --parallel need {units.format_bytes(given.footprint.needed)}, "
        f"more than the {units.format_bytes(config.memory)} of --memory"
    )


def _too_large(files: ModelFiles, needed: int, context: int, budget: int) -> ConfigError:
    variant = smaller_variant(files, needed - budget)
    return ConfigError(
        f"{files.id} needs {units.format_bytes(needed)} for a context of {context} tokens, but may take only "
        f"{units.format_bytes(budget)}; choose a larger --memory, or a smaller model or "
        f"quantization{f', such as {variant}' if variant else ''}",
        "memory",
    )
