"""Where a model is computed: asks which GPUs there are, lets `gpu_offload` plan, and says what did not go on one."""

from __future__ import annotations

from dataclasses import dataclass

from ...models.capacity import gpu_offload
from ...models.errors import ConfigError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..config import DEFAULT_CONTEXT, DEFAULT_SLOTS, ModelConfig
from ..llamacpp.devices import Device, gpu_backends, gpus

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Placement:
    """What goes on the GPUs; `gpu_layers` and `split` as in `gpu_offload`. `warnings` say what stays on the CPU."""

    gpu_layers: int = 0
    split: tuple[int, ...] = ()
    projector: bool = False
    warnings: tuple[str, ...] = ()


def place(files: ModelFiles, config: ModelConfig) -> Placement:
    """Plans a model. Raises `ConfigError` where a GPU was asked for and there is none."""
    if config.gpu_layers == 0:
        return Placement()
    backends, devices = gpu_backends(), gpus()
    asked = config.gpu_layers > 0
    if not backends:
        if asked:
            raise ConfigError(
                "GPU layers were asked for, but this build of llama.cpp has no GPU backend; "
                "scripts/bootstrap --backend cuda|vulkan|metal makes one that has",
                "gpu-layers",
            )
        return Placement()
    if not devices:
        if asked:
            raise ConfigError(f"GPU layers were asked for, but {', '.join(backends)} finds no GPU here", "gpu-layers")
        warning = f"no GPU was found, though {', '.join(backends)} is compiled in: everything is computed on the CPU"
        return Placement(warnings=(warning,))
    return _planned(files, config, devices)


def _planned(files: ModelFiles, config: ModelConfig, devices: list[Device]) -> Placement:
    if files.header.get("split.count", 1) != 1:
        warning = "the model lies in several files, which are not planned for a GPU: --gpu-layers says how many layers"
        return Placement(max(config.gpu_layers, 0), warnings=(warning,))
    projector = read_header(files.projector) if files.projector else None
    adapters = [read_header(adapter.path) for adapter in files.adapters]
    cells = config.context_length or min(files.header.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    needs = gpu_offload.needs(
        files.header,
        cells,
        config.slots or DEFAULT_SLOTS,
        config.kv_type,
        config.certain_flash_attention,
        projector,
        adapters,
    )
    free = [device.free_memory for device in devices]
    plan = gpu_offload.plan(needs, free)
    most = len(needs.layers) + 1
    where = ", ".join(f"{device.free_memory / GIB:.1f} GiB free on {device.name}" for device in devices)
    warnings = []
    if config.gpu_layers > 0:
        layers = min(config.gpu_layers, most)
        if layers > plan.gpu_layers:
            warning = f"{layers} layers on the GPU were asked for and {plan.gpu_layers} are safe ({where}): it may fail"
            return Placement(layers, warnings=(warning,))
        plan = gpu_offload.plan(needs, free, layers)
    elif plan.gpu_layers == 0:
        warnings.append(f"nothing of the model fits on the GPU ({where}): it is computed on the CPU")
    elif plan.gpu_layers < most:
        warnings.append(f"only {plan.gpu_layers} of {most} layers fit on the GPU ({where}); a smaller --ctx makes room")
    if projector and not plan.projector:
        warnings.append("the projector does not fit on the GPU beside the model: media is encoded on the CPU")
    return Placement(plan.gpu_layers, plan.split, plan.projector, tuple(warnings))
