"""Estimates the RAM that a model takes, part by part, and the context size that fits into a budget.

Computes from headers alone, in bytes. `scripts/bench fit` compares the estimates with measurements.
`estimate_caveats` lists what the headers do not say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Literal

from ..errors import ModelError
from ..gguf.header import ArrayInfo, GGUFHeader, TensorInfo
from . import gpu_offload

WORKER_BYTES = 54 << 20
"""A worker process before it loads a model: Python and the libraries. Measured on Linux with Python 3.11."""
SERVER_BYTES = 40 << 20
"""The process of the HTTP API, measured the same way."""
MEDIA_BYTES = 18 << 20
"""Decoding an image or audio clip, without the projector's working memory. Measured with images of 512 pixels."""

_TOKEN_BYTES, _MERGE_BYTES = 165, 125  # in llama.cpp's vocabulary; measured over 17 vocabularies of its tests
_AUDIO_FRAMES = 1500  # an audio encoder computes half a minute at once, as Whisper's does
_FIXED_SIZE_PROJECTORS = (
    "mlp",
    "ldp",
    "ldpv2",
    "gemma3",
    "internvl",
    "idefics3",
    "janus_pro",
    "llama4",
    "nemotron_v2_vl",
)
_INPUTS = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")  # looked up, not multiplied
MIN_CONTEXT_TOKENS = gpu_offload.CONTEXT_STEP_TOKENS
"""The shortest context that is chosen for a budget."""

_TOKENS_PER_SLOT = 2048  # if a budget sets the context, each of these adds a slot
_MAX_SLOTS = 8


@dataclass(frozen=True, slots=True)
class MemoryFootprint:
    """Bytes of RAM by part.

    `weights`: mapped from the file.
    `repacked`: weights that llama.cpp copies into a layout for this CPU.
    `context`: the KV cache when it is full.
    `caches`: the limit of the caches for earlier conversations and media.
    `processes`: Python and its libraries.
    """

    weights: int
    repacked: int
    vocabulary: int
    projector: int
    context: int
    compute: int
    media: int
    caches: int
    processes: int

    @property
    def needed(self) -> int:
        """The total. Leaves out mapped pages of repacked weights, which the system reclaims when it needs memory."""
        return int(sum(asdict(self).values()))


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """The settings that decide how much memory a model takes.

    `features` are the CPU features of the llama.cpp build, as it spells them (`AVX2`, `DOTPROD`). `cache_bytes`
    is the limit of the caches. `server` says whether a server process runs in addition to the worker.
    """

    features: frozenset[str]
    kv_type: str = "f16"
    flash_attention: bool = True
    gpu_layers: int = 0
    projector_on_gpu: bool = False
    cache_bytes: int = 0
    server: bool = True


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """A context of `context` tokens, shared by `slots` parallel requests, and the memory that it takes."""

    context: int
    slots: int
    footprint: MemoryFootprint


def estimate_footprint(
    header: GGUFHeader,
    projector: GGUFHeader | None,
    adapters: Collection[GGUFHeader],
    cells: int,
    slots: int,
    setting: MemorySettings,
) -> MemoryFootprint:
    """Estimates the memory of a model with a full context of `cells` tokens. Raises `ModelError` as `check_header`."""
    check_header(header)
    cells = -(-cells // gpu_offload.CONTEXT_STEP_TOKENS) * gpu_offload.CONTEXT_STEP_TOKENS
    on_cpu = [tensor for tensor in header.tensors if not _on_gpu(header, tensor, setting.gpu_layers)]
    repacked_tensors = [tensor for tensor in on_cpu if _is_repacked(tensor, setting.features)]
    repacked_names = {tensor.name for tensor in repacked_tensors}
    mapped = [tensor for tensor in on_cpu if tensor.name not in repacked_names]
    repacked = sum(tensor.nbytes or 0 for tensor in repacked_tensors)
    repacked += _tied_embedding_copy_bytes(header, setting)
    layers = range(max(gpu_offload.layer_count(header) - max(setting.gpu_layers - 1, 0), 0))
    return MemoryFootprint(
        weights=sum(tensor.nbytes or 0 for tensor in mapped),
        repacked=repacked,
        vocabulary=_vocabulary_bytes(header),
        projector=0 if projector is None or setting.projector_on_gpu else gpu_offload.tensor_bytes(projector),
        context=sum(
            cells * gpu_offload.kv_bytes_per_token(header, i, setting.kv_type)
            + slots * gpu_offload.recurrent_state_bytes(header)
            for i in layers
        ),
        compute=_compute_bytes(header, cells, slots, setting.flash_attention)
        + sum(map(gpu_offload.tensor_bytes, adapters)),
        media=0 if projector is None else MEDIA_BYTES + (0 if setting.projector_on_gpu else encoding_bytes(projector)),
        caches=setting.cache_bytes,
        processes=WORKER_BYTES + (SERVER_BYTES if setting.server else 0),
    )


def plan_context(
    estimate: Callable[[int, int], MemoryFootprint], budget: int, trained: int, context: int | None, slots: int | None
) -> ContextPlan | None:
    """Returns the longest context that fits into `budget` bytes, with more slots the longer it is, or `None`.

    A given `context` or `slots` is not changed. `estimate` returns the footprint of a context and slots. `trained` is
    the context the model was trained for. A larger budget never means a shorter context or fewer slots.
    """

    def at(cells: int) -> ContextPlan:
        count = slots or min(max(cells // _TOKENS_PER_SLOT, 1), _MAX_SLOTS)
        return ContextPlan(cells, count, estimate(cells, count))

    def fits(choice: ContextPlan) -> bool:
        return choice.footprint.needed <= budget

    shorter = range(MIN_CONTEXT_TOKENS, trained, gpu_offload.CONTEXT_STEP_TOKENS) if context is None else range(0)
    longest = context or trained
    if fits(at(longest)):
        return at(longest)
    low, high = 0, len(shorter)
    while low < high:
        middle = (low + high) // 2
        if fits(at(shorter[middle])):
            low = middle + 1
        else:
            high = middle
    return at(shorter[low - 1]) if low else None


def check_header(header: GGUFHeader) -> None:
    """Raises `ModelError` if the header lacks a key that every estimate needs."""
    keys = ("block_count", "embedding_length", "attention.head_count")
    missing = [f"{header.architecture:.40}.{key}" for key in keys if header.get(f"{header.architecture}.{key}") is None]
    if missing and gpu_offload.recurrent_state_bytes(header) == 0:
        raise ModelError(f"{header.path.name} lacks {', '.join(missing)}, so its memory cannot be estimated", "model")


def estimate_caveats(header: GGUFHeader, projector: GGUFHeader | None) -> list[str]:
    """Returns the reasons why the estimates are inexact, for the user."""
    architecture, caveats = header.architecture, []
    if header.get("split.count", 1) != 1:
        caveats.append("only the first of the model's files is counted: it takes more memory than estimated")
    if any(tensor.nbytes is None for tensor in header.tensors):
        caveats.append("tensors of unknown types are not counted: the model takes more memory than estimated")
    if gpu_offload.header_count(header, "attention.sliding_window", 0):
        caveats.append(
            f"{architecture} uses sliding-window attention in some layers, which takes less memory than estimated"
        )
    if gpu_offload.header_count(header, "attention.kv_lora_rank", 0):
        caveats.append(f"{architecture} compresses its KV cache, which takes less memory than estimated")
    if gpu_offload.recurrent_state_bytes(header):
        caveats.append(
            f"{architecture} has recurrent layers, which take less memory than estimated; the speed is also inexact"
        )
    if projector is not None and projector.get("clip.has_vision_encoder") and not _fixed_size(projector):
        caveats.append("the projector's working memory grows with the image; the estimate is for one megapixel")
    return caveats


def encoding_bytes(projector: GGUFHeader) -> int:
    """Estimates a projector's working memory: twice the widest activations, for all patches or frames at once."""
    vision = _count(projector, "clip.vision.feed_forward_length") * _patches(projector)
    audio = _count(projector, "clip.audio.feed_forward_length") * _AUDIO_FRAMES
    return 4 * 2 * (vision + audio) or gpu_offload.PROJECTOR_SCRATCH_BYTES


def encoded_rows(projector: GGUFHeader, kind: Literal["image", "audio"], cells: int) -> int:
    """Returns the patches or frames that a projector computes for media of `cells` tokens."""
    if kind == "audio":
        return _AUDIO_FRAMES * max(-(-cells // _AUDIO_FRAMES), 1)
    merge = _count(projector, "clip.vision.projector.scale_factor") or _count(
        projector, "clip.vision.spatial_merge_size"
    )
    if _fixed_size(projector) or not merge:
        return _patches(projector)
    return cells * merge * merge


def _patches(projector: GGUFHeader) -> int:
    """Returns the patches of an image at the projector's fixed size, or of one megapixel if it has none."""
    side, patch = (_count(projector, f"clip.vision.{name}") for name in ("image_size", "patch_size"))
    pixels = side * side if _fixed_size(projector) else max(side * side, 1 << 20)
    return pixels // (patch * patch) if patch else 0


def _fixed_size(projector: GGUFHeader) -> bool:
    return (
        projector.get("clip.vision.projector_type") or projector.get("clip.projector_type")
    ) in _FIXED_SIZE_PROJECTORS


def _count(header: GGUFHeader, key: str) -> int:
    value = header.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def _on_gpu(header: GGUFHeader, tensor: TensorInfo, gpu_layers: int) -> bool:
    """Whether a tensor is on a GPU: first the output, then layers from the last on, and never the input tables."""
    if not gpu_layers or tensor.name.startswith(_INPUTS):
        return False
    block = gpu_offload.layer_of(tensor)
    return block is None or block >= gpu_offload.layer_count(header) - (gpu_layers - 1)


def _is_repacked(tensor: TensorInfo, features: Collection[str]) -> bool:
    """Follows `ggml_repack_get_optimal_repack_type` in ggml/src/ggml-cpu/repack.cpp and `qtype_has_amx_kernels`."""
    if len([size for size in tensor.shape if size > 1]) < 2 or tensor.name.startswith(_INPUTS):
        return False
    return _type_is_repacked(tensor, features)


def _type_is_repacked(tensor: TensorInfo, features: Collection[str]) -> bool:
    rows, kind = tensor.shape[1], tensor.type_name
    if "AMX_INT8" in features and len(tensor.shape) == 2 and kind in _AMX and rows % 32 == 0:
        return True
    if "REPACK" not in features:
        return False
    return any(feature in features and kind in kinds and rows % multiple == 0 for feature, kinds, multiple in _REPACKED)


_AMX = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
_REPACKED = (
    ("AVX2", ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"), 8),
    ("AVX512", ("Q2_K",), 8),
    ("MATMUL_INT8", ("Q4_0", "Q8_0", "Q1_0"), 4),
    ("MATMUL_INT8", ("Q4_K", "Q5_K", "Q6_K"), 8),
    ("DOTPROD", ("Q4_0", "Q8_0", "IQ4_NL", "MXFP4", "Q1_0"), 4),
    ("DOTPROD", ("Q4_K", "Q5_K", "Q6_K"), 8),
)


def _tied_embedding_copy_bytes(header: GGUFHeader, setting: MemorySettings) -> int:
    """Returns the repacked copy of the embedding, which a model without an output matrix uses as its output."""
    if setting.gpu_layers or any(tensor.name == "output.weight" for tensor in header.tensors):
        return 0
    tensors = [tensor for tensor in header.tensors if tensor.name == "token_embd.weight"]
    return sum(t.nbytes or 0 for t in tensors if len(t.shape) > 1 and _type_is_repacked(t, setting.features))


def _vocabulary_bytes(header: GGUFHeader) -> int:
    """Returns the size of llama.cpp's tables of tokens and merges."""
    tokens, merges = (header.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    return _TOKEN_BYTES * _length(tokens) + _MERGE_BYTES * _length(merges)


def _length(array: object) -> int:
    return array.count if isinstance(array, ArrayInfo) else len(array) if isinstance(array, tuple) else 0


def _compute_bytes(header: GGUFHeader, cells: int, slots: int, flash_attention: bool) -> int:
    """Returns the peak of llama.cpp's compute buffer, the logits, and the quantized rows of a matrix product."""
    logits = 4 * (slots + gpu_offload.DRAFT_ROWS) * gpu_offload.vocabulary_size(header)
    if not flash_attention:
        return gpu_offload.scratch_bytes(header, cells, slots, False) + logits
    rows = min(cells, gpu_offload.BATCH_ROWS)
    width, inner = gpu_offload.header_count(header, "embedding_length", 0), gpu_offload.feed_forward_width(header)
    attention = max(
        gpu_offload.attention_values_per_token(header, layer) for layer in range(gpu_offload.layer_count(header))
    )
    widest = max(4 * width + 3 * inner, 3 * width + 2 * attention)
    mask = 2 * rows * cells
    return max(4 * rows * widest + mask, logits) + logits + 2 * rows * max(inner, width)
