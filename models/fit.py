"""Memory arithmetic: what a model takes, layer by layer, and how much of it fits on GPUs with so much memory free.

Pure figures from a GGUF header. Knows no llama.cpp and asks no device; every figure is in bytes. Weights and KV cache
are exact for plain transformers and on the safe side for others; `scratch` and `PROJECTOR_SCRATCH` are estimates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .gguf import GGML_TYPES, Header

RESERVE = 512 << 20
"""Left free on every GPU that is used: for the driver's own context, the desktop, and what the estimates miss."""

PROJECTOR_SCRATCH = 256 << 20
"""Working memory of a projector beside its weights: an estimate; libmtmd tells it only once it is loaded."""

_BATCH_ROWS = 512  # rows that llama.cpp computes at once (`BATCH` in runtime/native/context.py)
_GUESSES = 8  # rows with logits beside those of the slots (`MOST` in runtime/engine/guess.py)
_CELL_STEP = 256  # llama.cpp rounds a context up to a multiple of this
_BLOCK = re.compile(r"blk\.(\d+)\.")
_INPUTS = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")  # llama.cpp keeps them on the CPU
_TYPES = {name.lower(): (weights, size) for name, weights, size in GGML_TYPES.values()}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes on the GPU. `layers` are the repeating ones, first to last, weights and KV cache together.

    `scratch` (working memory and adapters) is wanted by every device that computes, `staging` besides while some
    layers stay on the CPU: llama.cpp copies their weights over for long prompts.
    """

    layers: tuple[int, ...]
    output: int
    scratch: int
    staging: int
    projector: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """`gpu_layers` counts as llama.cpp does: the output first, then layers from the last one on. `split` says how
    many of them go to each device."""

    gpu_layers: int
    split: tuple[int, ...]
    projector: bool


def needs(
    header: Header,
    cells: int,
    slots: int,
    kv_type: str,
    flash_attention: bool,
    projector: Header | None = None,
    adapters: Sequence[Header] = (),
) -> Needs:
    """What the model takes with a context of `cells` tokens whose keys and values are stored as `kv_type`."""
    cells = -(-cells // _CELL_STEP) * _CELL_STEP
    count = _number(header, "block_count", 1)
    weights = [0] * count
    output = embedding = 0
    for tensor in header.tensors:
        size = tensor.nbytes or 0
        block = _BLOCK.match(tensor.name)
        if block and int(block[1]) < count:
            weights[int(block[1])] += size
        elif tensor.name == "token_embd.weight":
            embedding = size
        elif not tensor.name.startswith(_INPUTS):
            output += size
    if not any(tensor.name == "output.weight" for tensor in header.tensors):
        output += embedding  # the output is a copy of the embedding, which itself stays on the CPU
    return Needs(
        layers=tuple(
            size + cells * kv_bytes(header, layer, kv_type) + slots * _state_bytes(header)
            for layer, size in enumerate(weights)
        ),
        output=output,
        scratch=_scratch(header, cells, slots, flash_attention) + sum(map(_tensor_bytes, adapters)),
        staging=max(weights),
        projector=0 if projector is None else _tensor_bytes(projector) + PROJECTOR_SCRATCH,
    )


def plan(needs: Needs, free: Sequence[int], layers: int | None = None) -> Plan:
    """As many layers as fit on devices with so much memory free, then the projector on the first, if it fits as well.

    More memory never means fewer layers. `layers` fixes their number, and only the projector is planned.
    """
    most = len(needs.layers) + 1
    nothing = Plan(0, (0,) * len(free), False)
    for count in range(most, -1, -1) if layers is None else [min(layers, most)]:
        for projector in (True, False) if needs.projector else (False,):
            split = _pack(needs, free, count, projector)
            if split is not None:
                return Plan(count, split, projector)
    return nothing


def _pack(needs: Needs, free: Sequence[int], count: int, projector: bool) -> tuple[int, ...] | None:
    """Fills one device after the other with the last `count` layers; `None` where they do not fit."""
    parts = [*needs.layers, needs.output]
    parts = parts[len(parts) - count :]
    scratch = needs.scratch + (needs.staging if count <= len(needs.layers) else 0)
    split = []
    for device, memory in enumerate(free):
        left = memory - RESERVE
        if projector and device == 0:
            left -= needs.projector
            if left < 0:
                return None
        left -= scratch
        taken = 0
        while parts and parts[0] <= left:
            left -= parts.pop(0)
            taken += 1
        split.append(taken)
    return None if parts or (projector and not free) else tuple(split)


def kv_bytes(header: Header, layer: int, kv_type: str) -> int:
    """Bytes of KV cache that one token takes in a layer."""
    heads = _number(header, "attention.head_count", 1, layer)
    kv_heads = _number(header, "attention.head_count_kv", heads, layer)
    return sum(_row_bytes(kv_heads * _head_size(header, kind, layer), kv_type) for kind in ("key", "value"))


def _head_size(header: Header, kind: str, layer: int = 0) -> int:
    heads = _number(header, "attention.head_count", 1, layer) or 1
    return _number(header, f"attention.{kind}_length", _number(header, "embedding_length", 0) // heads, layer)


def _row_bytes(values: int, kv_type: str) -> int:
    weights, size = _TYPES[kv_type]
    return -(-values // weights) * size


def _state_bytes(header: Header) -> int:
    """Bytes that a sequence's state takes in a recurrent layer (`n_embd_r` and `n_embd_s` in llama-hparams.cpp)."""
    width = _number(header, "embedding_length", 0)
    inner, state = _number(header, "ssm.inner_size", 0), _number(header, "ssm.state_size", 0)
    groups, window = _number(header, "ssm.group_count", 0), _number(header, "ssm.conv_kernel", 1) - 1
    values = window * (inner + 2 * groups * state) + inner * state
    values += width * max(_number(header, "shortconv.l_cache", 1) - 1, 0)
    values += width * (_number(header, "wkv.head_size", 0) + _number(header, "token_shift_count", 0))
    return 4 * values


def _scratch(header: Header, cells: int, slots: int, flash_attention: bool) -> int:
    """Working memory of a step, from above: activations, the attention mask and scores, and the logits."""
    rows = min(cells, _BATCH_ROWS)
    layers = range(_number(header, "block_count", 1))
    width = _number(header, "embedding_length", 0)
    inner = max(_number(header, "feed_forward_length", 0, layer) for layer in layers)
    experts = _number(header, "expert_used_count", 0)
    inner = max(inner, experts * max(_number(header, "expert_feed_forward_length", 0), width))
    heads = max(_number(header, "attention.head_count", 1, layer) for layer in layers)
    attention = heads * (_head_size(header, "key") + _head_size(header, "value"))
    values = rows * (4 * width + 3 * inner + 2 * attention)
    values += rows * cells * (2 if flash_attention else 2 + heads)
    values += (slots + _GUESSES) * _vocabulary(header)
    return 4 * values


def _tensor_bytes(header: Header) -> int:
    return sum(tensor.nbytes or 0 for tensor in header.tensors)


def _vocabulary(header: Header) -> int:
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    return embedding.shape[-1] if embedding is not None and embedding.shape else 0


def _number(header: Header, key: str, default: int, layer: int = 0) -> int:
    """A count from the header; where it is given layer by layer, the one of `layer`."""
    value = header.get(f"{header.architecture}.{key}")
    if isinstance(value, tuple):
        value = value[layer] if layer < len(value) else default
    return value if isinstance(value, int) and value >= 0 else default
