"""How fast a model will be here: its header's matrices against what a benchmark of this machine measured.

Pure figures. A step reads every matrix it needs once; attention takes time in proportion to the tokens before it; every
layer costs something whatever its size. Holds for the CPU. Measures nothing itself.
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
"""Seconds that the engine spends on a token beside the step: choosing it among 128,000, its text, its way to the user.
Measured on two cores of an AMD EPYC (Zen 4)."""

REQUEST_SECONDS = 0.002
"""Seconds that a request spends on its way to the engine, and its first token on its way back. Measured there, too."""

SPLIT_KV_TOKENS = 256
"""llama.cpp counts them in whole 256, and does so from 512 of them."""

TILE = 64
"""Rows from which on llama.cpp's flash attention works in tiles on a CPU (`GGML_FA_TILE_Q` in ggml-cpu/common.h).
Behind 4,000 tokens 32 rows of a 135M model, one by one, take 3.6 times as long as 64."""

_BYTES_PER_WEIGHT = {name: size / weights for name, weights, size in GGML_TYPES.values()}
_EXPERT_TENSOR = "_exps"
_QKV_TENSOR = re.compile(r"attn_(q|k|v|qkv)\.")


@dataclass(frozen=True, slots=True)
class WeightTypeSpeed:
    """Of one weight type: `bytes` of weights read a second for one row. For the many rows of a prompt, `products`,
    weights times rows a second, and `output`, the seconds that each value coming out of a product takes besides, which
    counts where matrices are narrow."""

    bytes_per_second: float
    products_per_second: float
    output_seconds: float

    def product(self, tensor: TensorInfo) -> float:
        """Seconds that a row of a prompt takes with a matrix."""
        weights = (tensor.nbytes or 0) / _BYTES_PER_WEIGHT[tensor.type_name]
        return weights / self.products_per_second + math.prod(tensor.shape[1:]) * self.output_seconds


@dataclass(frozen=True, slots=True)
class MachineBenchmark:
    """What was measured with so many threads. Attention takes `attention_seconds` for every value that stands in the
    keys and values of all heads, for each row: `prompt_attention_seconds` where many rows are computed at once. From
    `SPLIT_KV_TOKENS` tokens on llama.cpp shares a row's attention out between threads, whose uneven parts wait for one
    another: `split_kv_seconds` in each layer. `small_batch_attention_seconds` is where several rows are computed at
    once, but fewer than a `TILE`. `save_seconds_per_byte` goes by each byte of an earlier conversation that must make
    room."""

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
    """Answered tokens a second of one request with so many `threads`, `first` behind a prompt of `prompt` tokens and
    `last` behind a full context; seconds to the first token behind that prompt."""

    threads: int
    first: float
    last: float
    prompt: int
    first_token: float


def matrix_types(header: GGUFHeader) -> list[str]:
    """The weight types that take a model's time, which a benchmark must know."""
    return sorted({tensor.type_name for tensor in header.tensors if _is_matrix(tensor.shape)})


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """Seconds that one model takes on the machine of a benchmark: `row` for a step of one row and nothing before it,
    `products` for the matrices of each row of a prompt. Attention reads `values` for each token before a row."""

    row: float
    products: float
    values: int
    layers: int
    benchmark: MachineBenchmark

    def token(self, before: int) -> float:
        """Of an answer's token behind so many others."""
        sharing = (before >= SPLIT_KV_TOKENS) * self.layers * self.benchmark.split_kv_seconds
        return self.row + self.values * before * self.benchmark.attention_seconds + sharing + ENGINE_SECONDS_PER_TOKEN

    def first_token(self, prompt: int, cached: int = 0) -> float:
        """Until the first token behind a prompt of which so much is computed already."""
        seconds, done = self.token(prompt), cached
        while done < prompt:
            rows = chunk(prompt - done, BATCH_ROWS, BATCH_ROWS)
            many = rows >= TILE
            each = self.benchmark.prompt_attention_seconds if many else self.benchmark.small_batch_attention_seconds
            seconds += rows * (self.products + self.values * (done + rows / 2) * each)
            done += rows
        return seconds

    def answer(self, prompt: int, tokens: int, cached: int = 0) -> float:
        """Until the last of so many tokens."""
        return self.first_token(prompt, cached) + max(tokens - 1, 0) * self.token(prompt + tokens // 2)


def chunk(left: int, most: int, room: int) -> int:
    """How many of the `left` rows of a prompt a step of `most` takes, so that the last one has a tile's: fewer, or
    where a step is a tile, as many more as leave whole ones, if there is `room`."""
    if most >= left or most < TILE:
        return min(left, most)
    if most == TILE:
        return TILE + left % TILE if TILE + left % TILE <= room else TILE
    return min(most, left - TILE) if left >= 2 * TILE else most


def token_costs(header: GGUFHeader, benchmark: MachineBenchmark) -> TokenCosts | None:
    """`None` where the benchmark does not know a weight type."""
    if not set(matrix_types(header)) <= set(benchmark.types):
        return None
    row = products = 0.0
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    used, layers = gpu_offload.active_expert_fraction(header), gpu_offload.layer_count(header)
    for tensor in header.tensors:
        if not _is_matrix(tensor.shape) or (tensor.name.startswith("token_embd") and not tied):
            continue
        rate = benchmark.types[tensor.type_name]
        part = used if _EXPERT_TENSOR in tensor.name else 1.0
        row += part * (tensor.nbytes or 0) / rate.bytes_per_second
        if not _only_for_logits(tensor, layers):
            products += part * rate.product(tensor)
    row += layers * benchmark.layer_seconds
    values = sum(gpu_offload.attention_values_per_token(header, layer) for layer in range(layers))
    return TokenCosts(row, products, values, layers, benchmark)


def estimate_speed(
    header: GGUFHeader, benchmark: MachineBenchmark, cells: int, prompt: int = 512
) -> SpeedEstimate | None:
    """`None` where the benchmark does not know a weight type."""
    found = token_costs(header, benchmark)
    if found is None:
        return None
    prompt = min(prompt, cells)
    first, last = found.token(prompt), found.token(cells)
    return SpeedEstimate(benchmark.threads, 1 / first, 1 / last, prompt, found.first_token(prompt))


def encoding_seconds(
    projector: GGUFHeader, benchmark: MachineBenchmark, kind: Literal["image", "audio"], cells: int
) -> float | None:
    """Seconds that a projector takes for a picture or sound of so many tokens, by its matrices and its attention over
    all patches or frames at once; `None` where the benchmark does not know a weight type."""
    side, block = ("vision", "v.") if kind == "image" else ("audio", "a.")
    if not set(matrix_types(projector)) <= set(benchmark.types):
        return None
    rows = memory.encoded_rows(projector, kind, cells)
    seconds = 0.0
    for tensor in projector.tensors:
        if _is_matrix(tensor.shape) and tensor.name.startswith((block, "mm.")) and "position_embd" not in tensor.name:
            each = rows if tensor.name.startswith(block) else cells
            seconds += each * benchmark.types[tensor.type_name].product(tensor)
    layers, width = (projector.get(f"clip.{side}.{key}") for key in ("block_count", "embedding_length"))
    if isinstance(layers, int) and isinstance(width, int):
        seconds += rows * rows * layers * 2 * width * benchmark.prompt_attention_seconds
    return seconds


def _only_for_logits(tensor: TensorInfo, layers: int) -> bool:
    """Whether llama.cpp computes it only for rows that want logits, one of a prompt: the output, and what follows the
    queries, keys and values of the last layer."""
    last = gpu_offload.layer_of(tensor) == layers - 1
    return tensor.name.startswith(("output", "token_embd")) or (last and not _QKV_TENSOR.search(tensor.name))


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len([size for size in shape if size > 1]) > 1
