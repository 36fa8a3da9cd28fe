"""Memory arithmetic: what a model takes, layer by layer, and how much of it fits on GPUs with so much memory free.

Pure figures from a GGUF header. Knows no llama.cpp and asks no device; every figure is in bytes. Weights and KV cache
are exact for plain transformers and on the safe side for others; `scratch` and `PROJECTOR_SCRATCH` are estimates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..gguf.header import GGML_TYPES, GGUFHeader, TensorInfo

GPU_RESERVE_BYTES = 512 << 20
"""Left free on every GPU that is used: for the driver's own context, the desktop, and what the estimates miss."""

PROJECTOR_SCRATCH_BYTES = 256 << 20
"""Working memory of a projector beside its weights: an estimate; libmtmd tells it only once it is loaded."""

BATCH_ROWS = 512  # rows that llama.cpp computes at once (`BATCH` in runtime/llamacpp/context.py)
DRAFT_ROWS = 8  # rows with logits beside those of the slots (`MOST` in runtime/speculative/acceptance.py)
CONTEXT_STEP_TOKENS = 256  # llama.cpp rounds a context up to a multiple of this
_BLOCK = re.compile(r"blk\.(\d+)\.")
_INPUTS = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")  # llama.cpp keeps them on the CPU
_TYPES = {name.lower(): (weights, size) for name, weights, size in GGML_TYPES.values()}


@dataclass(frozen=True, slots=True)
class OffloadNeeds:
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
class OffloadPlan:
    """`gpu_layers` counts as llama.cpp does: the output first, then layers from the last one on. `split` says how
    many of them go to each device."""

    gpu_layers: int
    split: tuple[int, ...]
    projector: bool


def offload_needs(
    header: GGUFHeader,
    cells: int,
    slots: int,
    kv_type: str,
    flash_attention: bool,
    projector: GGUFHeader | None = None,
    adapters: Sequence[GGUFHeader] = (),
) -> OffloadNeeds:
    """What the model takes with a context of `cells` tokens whose keys and values are stored as `kv_type`."""
    cells = -(-cells // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
    count = layer_count(header)
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
    return OffloadNeeds(
        layers=tuple(
            size + cells * kv_bytes_per_token(header, layer, kv_type) + slots * recurrent_state_bytes(header)
            for layer, size in enumerate(weights)
        ),
        output=output,
        scratch=scratch_bytes(header, cells, slots, flash_attention) + sum(map(tensor_bytes, adapters)),
        staging=max(weights),
        projector=0 if projector is None else tensor_bytes(projector) + PROJECTOR_SCRATCH_BYTES,
    )


def plan_offload(needs: OffloadNeeds, free: Sequence[int], layers: int | None = None) -> OffloadPlan:
    """As many layers as fit on devices with so much memory free, then the projector on the first, if it fits as well.

    More memory never means fewer layers. `layers` fixes their number, and only the projector is planned.
    """
    most = len(needs.layers) + 1
    nothing = OffloadPlan(0, (0,) * len(free), False)
    for count in range(most, -1, -1) if layers is None else [min(layers, most)]:
        for projector in (True, False) if needs.projector else (False,):
            split = _pack(needs, free, count, projector)
            if split is not None:
                return OffloadPlan(count, split, projector)
    return nothing


def _pack(needs: OffloadNeeds, free: Sequence[int], count: int, projector: bool) -> tuple[int, ...] | None:
    """Fills one device after the other with the last `count` layers; `None` where they do not fit."""
    parts = [*needs.layers, needs.output]
    parts = parts[len(parts) - count :]
    scratch = needs.scratch + (needs.staging if count <= len(needs.layers) else 0)
    split = []
    for device, memory in enumerate(free):
        left = memory - GPU_RESERVE_BYTES
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


def kv_bytes_per_token(header: GGUFHeader, layer: int, kv_type: str) -> int:
    """Bytes of KV cache that one token takes in a layer."""
    heads = header_count(header, "attention.head_count", 1, layer)
    kv_heads = header_count(header, "attention.head_count_kv", heads, layer)
    return sum(_row_bytes(kv_heads * _head_size(header, kind, layer), kv_type) for kind in ("key", "value"))


def attention_values_per_token(header: GGUFHeader, layer: int) -> int:
    """Values that one row's attention reads in a layer for every token before it, over all heads."""
    heads = header_count(header, "attention.head_count", 1, layer)
    return heads * (_head_size(header, "key", layer) + _head_size(header, "value", layer))


def layer_count(header: GGUFHeader) -> int:
    return header_count(header, "block_count", 1)


def layer_of(tensor: TensorInfo) -> int | None:
    """The layer that a tensor belongs to, if to one."""
    block = _BLOCK.match(tensor.name)
    return int(block[1]) if block else None


def feed_forward_width(header: GGUFHeader) -> int:
    """Width of the widest feed-forward layer, or of all experts that a row goes through."""
    widest = max(header_count(header, "feed_forward_length", 0, layer) for layer in range(layer_count(header)))
    width = max(header_count(header, "expert_feed_forward_length", 0), header_count(header, "embedding_length", 0))
    return max(widest, header_count(header, "expert_used_count", 0) * width)


def active_expert_fraction(header: GGUFHeader) -> float:
    """The share of the experts that a row goes through; 1 where there are none."""
    experts = header_count(header, "expert_count", 0)
    return min(header_count(header, "expert_used_count", experts) / experts, 1.0) if experts else 1.0


def _head_size(header: GGUFHeader, kind: str, layer: int = 0) -> int:
    heads = header_count(header, "attention.head_count", 1, layer) or 1
    return header_count(header, f"attention.{kind}_length", header_count(header, "embedding_length", 0) // heads, layer)


def _row_bytes(values: int, kv_type: str) -> int:
    weights, size = _TYPES[kv_type]
    return -(-values // weights) * size


def recurrent_state_bytes(header: GGUFHeader) -> int:
    """Bytes that a sequence's state takes in a recurrent layer (`n_embd_r` and `n_embd_s` in llama-hparams.cpp)."""
    width = header_count(header, "embedding_length", 0)
    inner, state = header_count(header, "ssm.inner_size", 0), header_count(header, "ssm.state_size", 0)
    groups, window = header_count(header, "ssm.group_count", 0), header_count(header, "ssm.conv_kernel", 1) - 1
    values = window * (inner + 2 * groups * state) + inner * state
    values += width * max(header_count(header, "shortconv.l_cache", 1) - 1, 0)
    values += width * (header_count(header, "wkv.head_size", 0) + header_count(header, "token_shift_count", 0))
    return 4 * values


def scratch_bytes(header: GGUFHeader, cells: int, slots: int, flash_attention: bool) -> int:
    """Working memory of a step, from above: activations, the attention mask and scores, and the logits."""
    rows = min(cells, BATCH_ROWS)
    width = header_count(header, "embedding_length", 0)
    heads = max(header_count(header, "attention.head_count", 1, layer) for layer in range(layer_count(header)))
    attention = heads * (_head_size(header, "key") + _head_size(header, "value"))
    values = rows * (4 * width + 3 * feed_forward_width(header) + 2 * attention)
    values += rows * cells * (2 if flash_attention else 2 + heads)
    values += (slots + DRAFT_ROWS) * vocabulary_size(header)
    return 4 * values


def tensor_bytes(header: GGUFHeader) -> int:
    return sum(tensor.nbytes or 0 for tensor in header.tensors)


def vocabulary_size(header: GGUFHeader) -> int:
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    return embedding.shape[-1] if embedding is not None and embedding.shape else 0


def header_count(header: GGUFHeader, key: str, default: int, layer: int = 0) -> int:
    """A count from the header; where it is given layer by layer, the one of `layer`."""
    value = header.get(f"{header.architecture}.{key}")
    if isinstance(value, tuple):
        value = value[layer] if layer < len(value) else default
    return value if isinstance(value, int) and value >= 0 else default
