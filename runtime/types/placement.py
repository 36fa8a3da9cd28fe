"""How a model is loaded here: what llama.cpp and the GPUs offer, what goes on a GPU, and the settings that follow."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ModelConfig


@dataclass(frozen=True, slots=True)
class Device:
    """A device that ggml can compute on; memory in bytes."""

    name: str
    description: str
    kind: str
    free_memory: int
    total_memory: int


@dataclass(frozen=True, slots=True)
class LlamaBuild:
    """What the installed build of llama.cpp can do on this machine.

    `features` are the CPU features that it was compiled for, in its own words (AVX2, REPACK). `gpu_backends` are
    compiled in, whether there is a GPU or not; `gpus` are the devices that it puts layers on, in its order.
    """

    features: frozenset[str] = frozenset()
    gpu_backends: tuple[str, ...] = ()
    gpus: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """What goes on the GPUs. `gpu_layers` and `split` are as in `gpu_offload`; `warnings` say what stays on the CPU."""

    gpu_layers: int = 0
    split: tuple[int, ...] = ()
    projector: bool = False
    warnings: tuple[str, ...] = ()


ON_CPU = Placement()


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Settings with the number of slots decided, and the context too if a memory budget decides it.

    `notes` tell the user what the budget has decided. `mapped_bytes` are weights that stay in the file's pages, which
    all models of that file share; `private_bytes` is the rest. Both are 0 unless the model shares a memory budget.
    """

    config: ModelConfig
    placement: Placement = ON_CPU
    notes: tuple[str, ...] = ()
    mapped_bytes: int = 0
    private_bytes: int = 0
