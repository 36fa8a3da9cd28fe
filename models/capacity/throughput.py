"""Estimates a model's speed on the CPU, from the matrices in its header and a benchmark of this machine.

The cost model: a step reads each matrix that it needs once, attention takes time in proportion to the tokens before
it, and each layer has a fixed overhead. `runtime/inference/machine_benchmark.py` runs the benchmark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..gguf.header import GGML_TYPES, GGUFHeader, TensorInfo
from . import gpu_offload, memory
from .gpu_offload import BATCH_ROWS

ENGINE_SECONDS_PER_TOKEN = 0.0007
"""Engine overhead per token: sampling from a vocabulary of 128,000, detokenizing, and sending the text.
Measured on two cores of an AMD EPYC (Zen 4)."""

REQUEST_SECONDS = 0.002
"""Time to pass a request to the engine, and its first token back. Measured on the same machine."""

SPLIT_KV_TOKENS = 256
"""Tokens from which llama.cpp splits the attention of a row between threads. It rounds the KV cache up to multiples of
256, and splits from 512 on."""

TILE = 64
"""Rows from which llama.cpp's flash attention works in tiles on a CPU (`GGML_FA_TILE_Q` in ggml-cpu/common.h).
After 4,000 tokens, 32 rows of a 135M model, computed one by one, take 3.6 times as long as 64."""

_BYTES_PER_WEIGHT = {name: size / weights for name, weights, size in GGML_TYPES.values()}
_EXPERT_TENSOR = "_exps"
_QKV_TENSOR = re.compile(r"attn_(q|k|v|qkv)\.")


@dataclass(frozen=True, slots=True)
class WeightTypeSpeed:
    """The measured speed of matrix products with one weight type.

    A single row is limited by `bytes_per_second` of weights read. The many rows of a prompt are limited by
    `products_per_second` (weights times rows), plus `output_seconds` for each output value, which matters for narrow
    matrices.
    """

    bytes_per_second: float
    products_per_second: float
    output_seconds: float

    def prompt_row_seconds(self, tensor: TensorInfo) -> float:
        """Returns the seconds that one of many rows takes with a matrix."""
        weights = (tensor.nbytes or 0) / _BYTES_PER_WEIGHT[tensor.type_name]
        return weights / self.products_per_second + math.prod(tensor.shape[1:]) * self.output_seconds


@dataclass(frozen=True, slots=True)
class MachineBenchmark:
    """Measurements of this machine with `threads` threads.

    `layer_seconds`: fixed overhead of a layer.
    `split_kv_seconds`: added per layer from `SPLIT_KV_TOKENS` on, where threads share a row's attention and wait for
    each other.
    `attention_seconds`: per row, per key and value element of all heads, if a step computes one row;
    `prompt_attention_seconds` if it computes at least a `TILE` of rows, `small_batch_attention_seconds` if several but
    fewer.
    `save_seconds_per_byte`: to save the KV cache of an earlier conversation that makes room.
    `types`: the speed of matrix products by weight type.
    """

    threads: int
    layer_seconds: float
    split_kv_seconds: float
    attention_seconds: float
    prompt_attention_seconds: float
    small_batch_attention_seconds: float
    save_seconds_per_byte: float
    types: Mapping[str, WeightTypeSpeed]


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """The expected speed of one request: after a prompt of `prompt_tokens`, and with a full context."""

    threads: int
    tokens_per_second: float
    full_context_tokens_per_second: float
    prompt_tokens: int
    first_token_seconds: float


def matrix_types(header: GGUFHeader) -> list[str]:
    """Returns the weight types of a model's matrices, which a benchmark must include."""
    return sorted({tensor.type_name for tensor in header.tensors if _is_matrix(tensor.shape)})


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """The cost of one model's tokens on the machine of a benchmark.

    `row_seconds`: a step of one row at the start of a context.
    `prompt_row_seconds`: the matrix products of one of many rows.
    `attention_values`: key and value elements that attention reads for each token before a row.
    """

    row_seconds: float
    prompt_row_seconds: float
    attention_values: int
    layers: int
    benchmark: MachineBenchmark

    def token_seconds(self, before: int) -> float:
        """Returns the time of one generated token after `before` tokens."""
        split_kv = (before >= SPLIT_KV_TOKENS) * self.layers * self.benchmark.split_kv_seconds
        return (
            self.row_seconds
            + self.attention_values * before * self.benchmark.attention_seconds
            + split_kv
            + ENGINE_SECONDS_PER_TOKEN
        )

    def first_token_seconds(self, prompt: int, cached: int = 0) -> float:
        """Returns the time to the first token after `prompt` tokens, of which `cached` are in the KV cache."""
        seconds, done = self.token_seconds(prompt), cached
        while done < prompt:
            rows = chunk(prompt - done, BATCH_ROWS, BATCH_ROWS)
            many = rows >= TILE
            each = self.benchmark.prompt_attention_seconds if many else self.benchmark.small_batch_attention_seconds
            seconds += rows * (self.prompt_row_seconds + self.attention_values * (done + rows / 2) * each)
            done += rows
        return seconds

    def answer_seconds(self, prompt: int, tokens: int, cached: int = 0) -> float:
        """Returns the time to the last of `tokens` generated tokens."""
        mean_token_seconds = self.token_seconds(prompt + tokens // 2)
        return self.first_token_seconds(prompt, cached) + max(tokens - 1, 0) * mean_token_seconds


def chunk(left: int, most: int, room: int) -> int:
    """Returns how many of the `left` rows of a prompt a step of at most `most` rows computes.

    The last step of a prompt should have at least a tile of rows. So an earlier step takes fewer rows, or, if steps
    are one tile, the first takes the remainder as well, if there is `room`.
    """
    if most >= left or most < TILE:
        return min(left, most)
    if most == TILE:
        return TILE + left % TILE if TILE + left % TILE <= room else TILE
    return min(most, left - TILE) if left >= 2 * TILE else most


def token_costs(header: GGUFHeader, benchmark: MachineBenchmark) -> TokenCosts | None:
    """Returns `None` if the benchmark lacks one of the weight types."""
    if not set(matrix_types(header)) <= set(benchmark.types):
        return None
    row_seconds = prompt_row_seconds = 0.0
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    used, layers = gpu_offload.active_expert_fraction(header), gpu_offload.layer_count(header)
    for tensor in header.tensors:
        if not _is_matrix(tensor.shape) or (tensor.name.startswith("token_embd") and not tied):
            continue
        rate = benchmark.types[tensor.type_name]
        fraction = used if _EXPERT_TENSOR in tensor.name else 1.0
        row_seconds += fraction * (tensor.nbytes or 0) / rate.bytes_per_second
        if not _only_for_logits(tensor, layers):
            prompt_row_seconds += fraction * rate.prompt_row_seconds(tensor)
    row_seconds += layers * benchmark.layer_seconds
    values = sum(gpu_offload.attention_values_per_token(header, layer) for layer in range(layers))
    return TokenCosts(row_seconds, prompt_row_seconds, values, layers, benchmark)


def estimate_speed(
    header: GGUFHeader, benchmark: MachineBenchmark, cells: int, prompt: int = 512
) -> SpeedEstimate | None:
    """Returns `None` if the benchmark lacks one of the weight types."""
    costs = token_costs(header, benchmark)
    if costs is None:
        return None
    prompt = min(prompt, cells)
    return SpeedEstimate(
        threads=benchmark.threads,
        tokens_per_second=1 / costs.token_seconds(prompt),
        full_context_tokens_per_second=1 / costs.token_seconds(cells),
        prompt_tokens=prompt,
        first_token_seconds=costs.first_token_seconds(prompt),
    )


def encoding_seconds(
    projector: GGUFHeader, benchmark: MachineBenchmark, kind: Literal["image", "audio"], cells: int
) -> float | None:
    """Returns the seconds that a projector takes for an image or audio clip of `cells` tokens.

    Counts its matrices, and its attention over all patches or frames at once. Returns `None` if the benchmark lacks
    one of the weight types.
    """
    modality, block = ("vision", "v.") if kind == "image" else ("audio", "a.")
    if not set(matrix_types(projector)) <= set(benchmark.types):
        return None
    rows = memory.encoded_rows(projector, kind, cells)
    seconds = 0.0
    for tensor in projector.tensors:
        if _is_matrix(tensor.shape) and tensor.name.startswith((block, "mm.")) and "position_embd" not in tensor.name:
            each = rows if tensor.name.startswith(block) else cells
            seconds += each * benchmark.types[tensor.type_name].prompt_row_seconds(tensor)
    layers, width = (projector.get(f"clip.{modality}.{key}") for key in ("block_count", "embedding_length"))
    if isinstance(layers, int) and isinstance(width, int):
        seconds += rows * rows * layers * 2 * width * benchmark.prompt_attention_seconds
    return seconds


def _only_for_logits(tensor: TensorInfo, layers: int) -> bool:
    """Whether llama.cpp uses a matrix only for rows with logits, of which a prompt has one.

    These are the output, and in the last layer everything after queries, keys and values.
    """
    last = gpu_offload.layer_of(tensor) == layers - 1
    return tensor.name.startswith(("output", "token_embd")) or (last and not _QKV_TENSOR.search(tensor.name))


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len([size for size in shape if size > 1]) > 1
