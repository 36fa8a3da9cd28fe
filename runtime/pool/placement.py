"""Decides where a model is computed: lets `gpu_offload` plan for the GPUs, and warns about what stays on the CPU."""

from __future__ import annotations

from dataclasses import replace

from ...models.capacity import gpu_offload
from ...models.errors import ConfigError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..config import DEFAULT_CONTEXT, DEFAULT_SLOTS, ModelConfig
from ..types.placement import ON_CPU, Device, LlamaBuild, Placement

_GIB = 1 << 30


def place(files: ModelFiles, config: ModelConfig, build: LlamaBuild) -> Placement:
    """Places a model. Raises `ConfigError` if a GPU was asked for and there is none."""
    placement = _place(files, config, build)
    if config.kv_type == "f16" or placement.gpu_layers:
        return placement
    warning = (
        f"a KV cache of {config.kv_type} makes long prompts and conversations slower on a CPU; leave --kv-type at f16 "
        "unless memory is short"
    )
    return replace(placement, warnings=(*placement.warnings, warning))


def _place(files: ModelFiles, config: ModelConfig, build: LlamaBuild) -> Placement:
    if config.gpu_layers == 0:
        return ON_CPU
    backends = ", ".join(build.gpu_backends)
    required = config.gpu_layers > 0
    if not build.gpu_backends:
        if required:
            raise ConfigError(
                "GPU layers were asked for, but this build of llama.cpp has no GPU backend; build one that has: "
                "scripts/bootstrap --backend cuda|vulkan|metal",
                "gpu-layers",
            )
        return ON_CPU
    if not build.gpus:
        if required:
            raise ConfigError(f"GPU layers were asked for, but {backends} finds no GPU on this machine", "gpu-layers")
        warning = f"no GPU was found, though {backends} is compiled in: everything is computed on the CPU"
        return Placement(warnings=(warning,))
    return _place_on_gpus(files, config, build.gpus)


def _place_on_gpus(files: ModelFiles, config: ModelConfig, gpus: tuple[Device, ...]) -> Placement:
    if files.header.get("split.count", 1) != 1:
        warning = "a model in several files is placed on a GPU only as far as --gpu-layers says"
        return Placement(max(config.gpu_layers, 0), warnings=(warning,))
    projector = read_header(files.projector) if files.projector else None
    adapters = [read_header(adapter.path) for adapter in files.adapters]
    cells = config.context_length or min(files.header.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    needs = gpu_offload.offload_needs(
        files.header,
        cells,
        config.slots or DEFAULT_SLOTS,
        config.kv_type,
        config.certain_flash_attention,
        projector,
        adapters,
    )
    free = [gpu.free_memory for gpu in gpus]
    plan = gpu_offload.plan_offload(needs, free)
    all_layers = len(needs.layers) + 1
    where = ", ".join(f"{gpu.free_memory / _GIB:.1f} GiB free on {gpu.name}" for gpu in gpus)
    warnings = []
    if config.gpu_layers > 0:
        layers = min(config.gpu_layers, all_layers)
        if layers > plan.gpu_layers:
            warning = (
                f"{layers} layers on the GPU were asked for, but only {plan.gpu_layers} are safe ({where}): "
                "loading may fail"
            )
            return Placement(layers, warnings=(warning,))
        plan = gpu_offload.plan_offload(needs, free, layers)
    elif plan.gpu_layers == 0:
        warnings.append(f"nothing of the model fits on the GPU ({where}): it is computed on the CPU")
    elif plan.gpu_layers < all_layers:
        warnings.append(
            f"only {plan.gpu_layers} of {all_layers} layers fit on the GPU ({where}); a smaller --context makes room"
        )
    if projector and not plan.projector:
        warnings.append("the projector does not fit on the GPU together with the model: media is encoded on the CPU")
    return Placement(plan.gpu_layers, plan.split, plan.projector, tuple(warnings))
