"""Converts a checkpoint's rotary position settings (RoPE) to GGUF's.

The kinds of scaling are those of transformers' `modeling_rope_utils.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gguf_content import GGUFValue
from .json_config import JSONConfig
from .safetensors import quoted


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`metadata` keys lack the architecture prefix. `factors` divide the frequency of each pair of a head's values.

    `left_out` says which part of the scaling llama.cpp does not support."""

    metadata: dict[str, GGUFValue]
    factors: NDArray[np.float32] | None = None
    left_out: str | None = None


def read_rope(config: JSONConfig, head_size: int, context_tokens: int) -> RopeConfig:
    """Reads the scaling for heads of `head_size` values. Raises `ModelError` for kinds that are not supported.

    `context_tokens` is the longest context in config.json. Transformers 5 writes one object `rope_parameters`; earlier
    versions write `rope_theta` and `rope_scaling`.
    """
    scaling = _scaling(config)
    base = scaling.positive_number("rope_theta", config.positive_number("rope_theta", 10000.0))
    if config.number("partial_rotary_factor", scaling.number("partial_rotary_factor", 1.0)) != 1.0:
        raise config.error("only a part of each head is rotated (partial_rotary_factor), which is not supported")
    metadata: dict[str, GGUFValue] = {"rope.dimension_count": head_size, "rope.freq_base": base}
    kind = _kind(scaling)
    if kind == "default":
        return RopeConfig(metadata)
    if kind == "dynamic":  # changes nothing up to the trained context
        text = f"the scaling of positions beyond {context_tokens} (dynamic RoPE scaling)"
        return RopeConfig(metadata, left_out=text)
    if kind == "linear":
        return RopeConfig(
            metadata | {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.positive_number("factor")}
        )
    if kind == "yarn":
        return RopeConfig(metadata | _yarn(scaling, context_tokens))
    if kind == "llama3":
        return RopeConfig(metadata, _llama3_factors(scaling, base, head_size))
    raise config.error(
        f"the RoPE scaling {quoted(kind)} is not supported; default, linear, dynamic, yarn and llama3 are"
    )


def _scaling(config: JSONConfig) -> JSONConfig:
    """Returns the object with the scaling; the one of full-attention layers if there are several.

    Raises `ModelError` if the two names of the object have different content: versions of transformers, and other
    programs, disagree on which of them applies.
    """
    named = [config.part(name) for name in ("rope_parameters", "rope_scaling")]
    parameters, scaling = (each.part("full_attention") if "full_attention" in each.entries else each for each in named)
    if not parameters.entries or not scaling.entries:
        return parameters if parameters.entries else scaling
    stated = [(name, value) for name, value in scaling.entries.items() if name not in ("rope_type", "type")]
    if _kind(parameters) != _kind(scaling) or any(parameters.get(name) != value for name, value in stated):
        raise config.error("rope_parameters and rope_scaling contradict each other; remove the wrong one")
    return parameters


def _kind(scaling: JSONConfig) -> Any:
    return scaling.get("rope_type", scaling.get("type", "default"))


def _yarn(scaling: JSONConfig, context_tokens: int) -> dict[str, GGUFValue]:
    if "mscale" in scaling.entries or "mscale_all_dim" in scaling.entries:
        raise scaling.error("yarn with mscale is not supported")
    if not scaling.flag("truncate", True):
        raise scaling.error("yarn without rounding of its range (truncate) is not supported")
    factor = scaling.positive_number("factor")
    metadata: dict[str, GGUFValue] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": scaling.positive_int(
            "original_max_position_embeddings", context_tokens
        ),
        "rope.scaling.yarn_beta_fast": scaling.number("beta_fast", 32.0),
        "rope.scaling.yarn_beta_slow": scaling.number("beta_slow", 1.0),
    }
    if scaling.get("attention_factor") is not None:  # llama.cpp multiplies it by the value it computes from the factor
        usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
        metadata["rope.scaling.attn_factor"] = scaling.positive_number("attention_factor") / usual
    return metadata


def _llama3_factors(scaling: JSONConfig, base: float, head_size: int) -> NDArray[np.float32]:
    """Llama 3.1: divides low frequencies by the factor, keeps high ones, and blends those in between."""
    factor, low, high = (scaling.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if not high > low > 0 or factor <= 0:
        raise scaling.error(f"impossible RoPE scaling factors: {factor:g}, {low:g} to {high:g}")
    original = scaling.positive_int("original_max_position_embeddings")
    turns = original / (2 * np.pi) * base ** -(np.arange(0, head_size, 2) / head_size)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)
