"""The program that times llama.cpp on this machine: `python -m ...benchmark THREADS TYPE...`

Computes with models whose weights are all zero, which take as long as others. Writes the fields of `MachineBenchmark`
as JSON. It is a separate program, because a build for another CPU crashes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import gguf
import numpy as np

from ....models.capacity.throughput import MachineBenchmark, WeightTypeSpeed
from ....models.gguf.header import GGML_TYPES
from ...types.prompt import BatchToken
from ..context import BATCH, Context
from ..weights import Weights

STREAMED_BYTES = 96 << 20
"""Weights to read in a step of one token: several times the cache of a small machine, as with real models."""

FEW_ROWS = 24
"""A step with several tokens, but fewer than a tile."""

_MAX_SECONDS = 1.0
"""Duration of one measurement: a slow or busy machine repeats its steps less often."""

_CONTEXT_TOKENS = 2048
_HEAD_SIZE = 64
_HEADS_PER_KV_HEAD = 4  # as in Llama 3.2
_VOCABULARY_SIZE = 256
_TYPES = {name: (number, weights, size) for number, (name, weights, size) in GGML_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Zeros:
    """A llama-architecture model whose weights are zero. `width` is the embedding length, `inner` the feed-forward
    length, `kind` the weight type of its matrices."""

    kind: str
    layers: int
    width: int = 1024
    inner: int = 4096

    @property
    def attention(self) -> int:
        """Weights of a layer's query, key and value matrices."""
        return self.width * self.width * (_HEADS_PER_KV_HEAD + 2) // _HEADS_PER_KV_HEAD

    @property
    def layer(self) -> int:
        """Weights of all matrices of a layer."""
        return self.attention + self.width * self.width + 3 * self.width * self.inner


NARROW = Zeros("Q8_0", layers=24, width=256, inner=1024)
"""Its weights stay in the CPU cache, so that its time is the overhead of layers."""
LONG = Zeros("Q8_0", layers=8, inner=256)
"""Its time is attention, once the context is long."""


def main(threads: int, types: list[str]) -> None:
    if unknown := sorted(set(types) - set(_TYPES)):
        raise SystemExit(f"unknown weight types: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zeros.gguf"
        overhead = _measure_overhead(path, threads)
        speeds = {kind: _measure_type(path, kind, overhead) for kind in types}
    print(json.dumps(asdict(replace(overhead, types=speeds))), flush=True)


def _measure_overhead(path: Path, threads: int) -> MachineBenchmark:
    """Measures what does not depend on weights: layers, attention, saving state."""
    with Bench(path, NARROW, threads) as bench:
        layer_seconds = bench.one_row() / NARROW.layers
    with Bench(path, LONG, threads) as bench:
        empty = bench.one_row(), bench.many_rows(), bench.few_rows()
        bench.fill(BATCH)
        short = bench.one_row()
        bench.fill(_CONTEXT_TOKENS - BATCH)
        long = bench.one_row(), bench.many_rows(), bench.few_rows()
        save_seconds = bench.save()
    values = LONG.layers * 2 * LONG.width
    one = max(long[0] - short, 0.0) / (_CONTEXT_TOKENS - 2 * BATCH) / values
    many = max(long[1] - empty[1], 0.0) / (_CONTEXT_TOKENS - BATCH) / values / BATCH
    few = max(long[2] - empty[2], 0.0) / (_CONTEXT_TOKENS - BATCH) / values / FEW_ROWS
    sharing = max(short - empty[0] - one * values * BATCH, 0.0) / LONG.layers
    return MachineBenchmark(threads, layer_seconds, sharing, one, many, few, save_seconds, {})


def _measure_type(path: Path, kind: str, overhead: MachineBenchmark) -> WeightTypeSpeed:
    _, weights, size = _TYPES[kind]
    wide, narrow = Zeros(kind, layers=4), Zeros(kind, layers=8, width=512, inner=1024)
    layer_bytes = wide.layer / weights * size
    streamed = Zeros(kind, layers=max(1, round(STREAMED_BYTES / layer_bytes)))
    with Bench(path, streamed, overhead.threads) as bench:
        row_seconds = bench.one_row()
    reading_seconds = max(row_seconds - streamed.layers * overhead.layer_seconds, row_seconds / 2)
    products, output = _solve(*(_measure_prompt_row(path, zeros, overhead) for zeros in (wide, narrow)))
    return WeightTypeSpeed(streamed.layers * layer_bytes / reading_seconds, products, output)


@dataclass(frozen=True, slots=True)
class _PromptRow:
    """The time of one prompt token without attention, and the numbers of weights used and values computed."""

    seconds: float
    weights: int
    outputs: int


def _measure_prompt_row(path: Path, zeros: Zeros, overhead: MachineBenchmark) -> _PromptRow:
    with Bench(path, zeros, overhead.threads) as bench:
        seconds = bench.many_rows() / BATCH
    attention = zeros.layers * 2 * zeros.width * overhead.prompt_attention_seconds * BATCH / 2
    # llama.cpp computes the end of the last layer only for rows with logits, here one
    whole_layers = zeros.layers - 1
    weights = whole_layers * zeros.layer + zeros.attention
    qkv = zeros.width * (_HEADS_PER_KV_HEAD + 2) // _HEADS_PER_KV_HEAD
    outputs = whole_layers * (qkv + 2 * zeros.width + 2 * zeros.inner) + qkv
    return _PromptRow(max(seconds - attention, seconds / 2), weights, outputs)


def _solve(wide: _PromptRow, narrow: _PromptRow) -> tuple[float, float]:
    """Returns weights per second and seconds per output value, solved from two models of different width."""
    determinant = wide.weights * narrow.outputs - narrow.weights * wide.outputs
    output = (wide.weights * narrow.seconds - narrow.weights * wide.seconds) / determinant
    output = min(max(output, 0.0), wide.seconds / wide.outputs / 2)
    return wide.weights / (wide.seconds - wide.outputs * output), output


class Bench(AbstractContextManager["Bench"]):
    """A model of zeros with one sequence, ready to compute."""

    def __init__(self, path: Path, zeros: Zeros, threads: int) -> None:
        write(path, zeros)
        self._weights = Weights(path, gpu_layers=0)
        self._context = Context(self._weights, _CONTEXT_TOKENS, 1, threads)
        self._length = 0

    def __exit__(self, *_exception: object) -> None:
        self._context.close()
        self._weights.close()

    def fill(self, length: int) -> None:
        """Extends the sequence to `length` tokens."""
        while self._length < length:
            rows = min(BATCH, length - self._length)
            self._compute(rows)
            self._length += rows

    def one_row(self) -> float:
        """Returns the seconds of a step of one token: the median of up to 24, after a warm-up."""
        return statistics.median(self._repeat(1, 24, warm_up=4))

    def many_rows(self) -> float:
        """Returns the seconds of a step of `BATCH` tokens: the shortest of up to four, after a warm-up."""
        return min(self._repeat(BATCH, 4, warm_up=1))

    def few_rows(self) -> float:
        """Returns the seconds of a step of `FEW_ROWS` tokens: the median of up to nine."""
        return statistics.median(self._repeat(FEW_ROWS, 9))

    def save(self) -> float:
        """Returns the seconds to save a byte of the sequence's state, in memory that was not used before."""
        saved, seconds = [], []
        for _ in range(3):
            begin = time.perf_counter()
            saved.append(self._context.save(0))
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds) / len(saved[0])

    def _repeat(self, rows: int, times: int, warm_up: int = 0) -> list[float]:
        """Returns the seconds of up to `times` equal steps, of at least one."""
        seconds: list[float] = []
        end = time.perf_counter() + _MAX_SECONDS
        while len(seconds) < warm_up + times and (len(seconds) <= warm_up or time.perf_counter() < end):
            seconds.append(self._compute(rows))
        return seconds[warm_up:]

    def _compute(self, rows: int) -> float:
        begin = time.perf_counter()
        self._context.truncate(0, self._length)
        self._context.decode([BatchToken(0, self._length + i, 0, i == rows - 1) for i in range(rows)])
        self._context.logits(rows - 1)
        return time.perf_counter() - begin


def write(path: Path, zeros: Zeros) -> None:
    """Writes the header, and a sparse file where the weights would be."""
    heads = zeros.width // _HEAD_SIZE
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(_CONTEXT_TOKENS)
    writer.add_embedding_length(zeros.width)
    writer.add_block_count(zeros.layers)
    writer.add_feed_forward_length(zeros.inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // _HEADS_PER_KV_HEAD)
    writer.add_rope_dimension_count(_HEAD_SIZE)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY_SIZE)
    writer.add_tokenizer_model("no_vocab")
    size = _add_vector(writer, "output_norm", zeros.width)
    size += _add_matrix(writer, "token_embd", zeros.kind, _VOCABULARY_SIZE, zeros.width)
    kv_width = zeros.width // _HEADS_PER_KV_HEAD
    for i in range(zeros.layers):
        for name in ("attn_norm", "ffn_norm"):
            size += _add_vector(writer, f"blk.{i}.{name}", zeros.width)
        for name, rows in (("attn_q", zeros.width), ("attn_k", kv_width), ("attn_v", kv_width)):
            size += _add_matrix(writer, f"blk.{i}.{name}", zeros.kind, rows, zeros.width)
        size += _add_matrix(writer, f"blk.{i}.attn_output", zeros.kind, zeros.width, zeros.width)
        for name in ("ffn_gate", "ffn_up"):
            size += _add_matrix(writer, f"blk.{i}.{name}", zeros.kind, zeros.inner, zeros.width)
        size += _add_matrix(writer, f"blk.{i}.ffn_down", zeros.kind, zeros.width, zeros.inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-file.seek(0, 2) // 32) * 32 + size)


def _add_vector(writer: gguf.GGUFWriter, name: str, length: int) -> int:
    """Adds a tensor without data. Returns its bytes in the file, a multiple of 32."""
    writer.add_tensor_info(f"{name}.weight", (length,), np.dtype(np.float32), 4 * length)
    return 4 * length


def _add_matrix(writer: gguf.GGUFWriter, name: str, kind: str, rows: int, columns: int) -> int:
    number, weights, block = _TYPES[kind]
    type_ = gguf.GGMLQuantizationType(number)
    size = rows * columns // weights * block
    shape = gguf.quant_shape_to_byte_shape((rows, columns), type_)
    writer.add_tensor_info(f"{name}.weight", shape, np.dtype(np.uint8), size, raw_dtype=type_)
    return -(-size // 32) * 32


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
