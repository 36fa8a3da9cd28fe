"""Plans which layers of a model go on the GPUs, from the bytes of each layer and the free memory of each GPU.

Computes from a GGUF header alone. Weights and KV cache are exact for plain transformers and upper bounds for others;
`scratch_bytes` and `PROJECTOR_SCRATCH_BYTES` are estimates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..gguf.header import GGML_TYPES, GGUFHeader, TensorInfo

GPU_RESERVE_BYTES = 512 << 20
"""Left free on every GPU: for the context of the driver, the desktop, and errors of the estimates."""

PROJECTOR_SCRATCH_BYTES = 256 << 20
"""Working memory of a projector: an estimate, because libmtmd reports it only after loading."""

BATCH_ROWS = 512  # rows in a step of llama.cpp (`BATCH` in runtime/llamacpp/context.py)
DRAFT_ROWS = 8  # rows with logits for speculative decoding (`MAX_DRAFT_TOKENS` in runtime/speculative/drafting.py)
CONTEXT_STEP_TOKENS = 256  # llama.cpp rounds the context up to a multiple of this
_BLOCK = re.compile(r"blk\.(\d+)\.")
_INPUTS = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")  # llama.cpp keeps these on the CPU
_TYPES = {name.lower(): (weights, size) for name, weights, size in GGML_TYPES.values()}


@dataclass(frozen=True, slots=True)
class OffloadNeeds:
    """The GPU memory that a model needs, in bytes.

    `layers` are the repeating layers from first to last, each with weights and KV cache. Every GPU needs `scratch`
    (working memory and adapters). If some layers stay on the CPU, it also needs `staging`, because llama.cpp copies
    their weights to the GPU for long prompts.
    """

    layers: tuple[int, ...]
    output: int
    scratch: int
    staging: int
    projector: int = 0


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """Which parts of a model go on the GPUs.

    `gpu_layers` counts as llama.cpp does: first the output, then layers from the last to the first. `split` is the
    number of them on each GPU. `projector` says whether the projector goes on the first GPU.
    """

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
    """Returns the GPU memory that a model needs with a context of `cells` tokens and a KV cache of type `kv_type`."""
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
        output += embedding  # the output is a copy of the embedding, and the embedding stays on the CPU
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
    """Places as many layers as fit into the `free` bytes of each GPU, then the projector on the first if it also fits.

    More memory never means fewer layers. If `layers` sets their number, only the projector is planned.
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
    """Fills one GPU after another with the last `count` layers. Returns `None` if they do not fit."""
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
    """Returns the KV cache of one token in a layer."""
    heads = header_count(header, "attention.head_count", 1, layer)
    kv_heads = header_count(header, "attention.head_count_kv", heads, layer)
    return sum(_row_bytes(kv_heads * _head_size(header, kind, layer), kv_type) for kind in ("key", "value"))


def attention_values_per_token(header: GGUFHeader, layer: int) -> int:
    """Returns the key and value elements, over all heads, that attention reads in a layer for each earlier token."""
    heads = header_count(header, "attention.head_count", 1, layer)
    return heads * (_head_size(header, "key", layer) + _head_size(header, "value", layer))


def layer_count(header: GGUFHeader) -> int:
    return header_count(header, "block_count", 1)


def layer_of(tensor: TensorInfo) -> int | None:
    """Returns the layer that a tensor belongs to, or `None`."""
    block = _BLOCK.match(tensor.name)
    return int(block[1]) if block else None


def feed_forward_width(header: GGUFHeader) -> int:
    """Returns the width of the widest feed-forward layer, or of all experts that are active for a row."""
    widest = max(header_count(header, "feed_forward_length", 0, layer) for layer in range(layer_count(header)))
    width = max(header_count(header, "expert_feed_forward_length", 0), header_count(header, "embedding_length", 0))
    return max(widest, header_count(header, "expert_used_count", 0) * width)


def active_expert_fraction(header: GGUFHeader) -> float:
    """Returns the fraction of experts that are active for a row, 1 for a model without experts."""
    experts = header_count(header, "expert_count", 0)
    return min(header_count(header, "expert_used_count", experts) / experts, 1.0) if experts else 1.0


def _head_size(header: GGUFHeader, kind: str, layer: int = 0) -> int:
    heads = header_count(header, "attention.head_count", 1, layer) or 1
    return header_count(header, f"attention.{kind}_length", header_count(header, "embedding_length", 0) // heads, layer)


def _row_bytes(values: int, kv_type: str) -> int:
    weights, size = _TYPES[kv_type]
    return -(-values // weights) * size


def recurrent_state_bytes(header: GGUFHeader) -> int:
    """Returns the state of a sequence in a recurrent layer (`n_embd_r` and `n_embd_s` in llama-hparams.cpp)."""
    width = header_count(header, "embedding_length", 0)
    inner, state = header_count(header, "ssm.inner_size", 0), header_count(header, "ssm.state_size", 0)
    groups, window = header_count(header, "ssm.group_count", 0), header_count(header, "ssm.conv_kernel", 1) - 1
    values = window * (inner + 2 * groups * state) + inner * state
    values += width * max(header_count(header, "shortconv.l_cache", 1) - 1, 0)
    values += width * (header_count(header, "wkv.head_size", 0) + header_count(header, "token_shift_count", 0))
    return 4 * values


def scratch_bytes(header: GGUFHeader, cells: int, slots: int, flash_attention: bool) -> int:
    """Returns an upper bound of a step's working memory: activations, attention mask and scores, and logits."""
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
    """Returns a number from the header, or that of `layer` if it has one for each layer."""
    value = header.get(f"{header.architecture}.{key}")
    if isinstance(value, tuple):
        value = value[layer] if layer < len(value) else default
    return value if isinstance(value, int) and value >= 0 else default
