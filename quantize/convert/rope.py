"""How positions are rotated, from a checkpoint's settings to GGUF's. Knows no tensor but the factors it computes.

The kinds of scaling are those of transformers' `modeling_rope_utils.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Settings
from .safetensors import shown
from .target import Value


@dataclass(frozen=True, slots=True)
class Rope:
    """`metadata` without the architecture's name in front; `factors` divide the frequency of each pair of a head."""

    metadata: dict[str, Value]
    factors: NDArray[np.float32] | None = None
    note: str | None = None


def read_rope(config: Settings, head: int, context: int) -> Rope:
    """For heads of so many values, and the longest context that config.json names. Raises `ModelError` for others.

    Transformers 5 writes one object `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
    """
    scaling = config.part("rope_parameters" if config.get("rope_parameters") else "rope_scaling")
    base = scaling.number("rope_theta", config.number("rope_theta", 10000.0))
    if config.number("partial_rotary_factor", scaling.number("partial_rotary_factor", 1.0)) != 1.0:
        raise config.error("only a part of each head is rotated (partial_rotary_factor), which is not supported")
    metadata: dict[str, Value] = {"rope.dimension_count": head, "rope.freq_base": base}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rope(metadata)
    if kind == "dynamic":  # changes nothing up to the trained context
        return Rope(metadata, note=f"positions beyond {context} are not scaled (dynamic scaling)")
    if kind == "linear":
        return Rope(metadata | {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.number("factor")})
    if kind == "yarn":
        return Rope(metadata | _yarn(scaling, context))
    if kind == "llama3":
        return Rope(metadata, _llama3(scaling, base, head))
    raise config.error(f"positions are scaled by {shown(kind)}; default, linear, dynamic, yarn and llama3 are known")


def _yarn(scaling: Settings, context: int) -> dict[str, Value]:
    if "mscale" in scaling.entries or "mscale_all_dim" in scaling.entries:
        raise scaling.error("yarn with mscale is not supported")
    factor = scaling.number("factor")
    metadata: dict[str, Value] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": scaling.whole("original_max_position_embeddings", context),
        "rope.scaling.yarn_beta_fast": scaling.number("beta_fast", 32.0),
        "rope.scaling.yarn_beta_slow": scaling.number("beta_slow", 1.0),
    }
    if scaling.get("attention_factor") is not None:  # llama.cpp multiplies it with what it reckons from the factor
        usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
        metadata["rope.scaling.attn_factor"] = scaling.number("attention_factor") / usual
    return metadata


def _llama3(scaling: Settings, base: float, head: int) -> NDArray[np.float32]:
    """Llama 3.1's: low frequencies are divided by the factor, high ones kept, those between mixed."""
    factor, low, high = (scaling.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if not high > low > 0 or factor <= 0:
        raise scaling.error(f"rope scaling with impossible factors: {factor:g}, {low:g} to {high:g}")
    turns = scaling.whole("original_max_position_embeddings") / (2 * np.pi) * base ** -(np.arange(0, head, 2) / head)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)
