"""A program that times llama.cpp here: `python -m galago.runtime.llamacpp.programs.benchmark THREADS TYPE...`

It computes with models of nothing but zeros, which take as long as others. Writes the fields of
`Benchmark` in `models/capacity/throughput.py` as JSON. A program of its own, because a build made for another CPU dies.
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

STREAMED = 96 << 20
"""Bytes of weights to read in a step of one row: several times the cache of a small machine, as models are."""

FEW = 24
"""Rows of a step, several and less than a tile."""

_CELLS = 2048
_HEAD, _SHARED = 64, 4  # values of a head, and heads to a key-value head: 4 as in Llama 3.2
_VOCABULARY = 256
_TYPES = {name: (number, weights, size) for number, (name, weights, size) in GGML_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Zeros:
    """A llama-architecture model of zeros: `width` and `inner` values wide, its matrices of the type `kind`."""

    kind: str
    layers: int
    width: int = 1024
    inner: int = 4096

    @property
    def attention(self) -> int:
        """Weights of the queries, keys and values of a layer."""
        return self.width * self.width * (_SHARED + 2) // _SHARED

    @property
    def layer(self) -> int:
        """Weights of a layer's matrices."""
        return self.attention + self.width * self.width + 3 * self.width * self.inner


NARROW = Zeros("Q8_0", layers=24, width=256, inner=1024)
"""Spends its time on everything but its weights, which stay in the cache."""
LONG = Zeros("Q8_0", layers=8, inner=256)
"""Spends it on attention, once there are tokens to attend to."""


def main(threads: int, types: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zeros.gguf"
        with Bench(path, NARROW, threads) as bench:
            layer = bench.one_row() / NARROW.layers
        with Bench(path, LONG, threads) as bench:
            empty = bench.one_row(), bench.many_rows(), bench.few_rows()
            bench.fill(BATCH)
            near = bench.one_row()
            bench.fill(_CELLS - BATCH)
            far = bench.one_row(), bench.many_rows(), bench.few_rows()
            aside = bench.setting_aside()
        values = LONG.layers * 2 * LONG.width
        one = max(far[0] - near, 0.0) / (_CELLS - 2 * BATCH) / values
        many = max(far[1] - empty[1], 0.0) / (_CELLS - BATCH) / values / BATCH
        few = max(far[2] - empty[2], 0.0) / (_CELLS - BATCH) / values / FEW
        sharing = max(near - empty[0] - one * values * BATCH, 0.0) / LONG.layers
        overhead = MachineBenchmark(threads, layer, sharing, one, many, few, aside, {})
        rates = {kind: _rate(path, kind, overhead) for kind in types}
    print(json.dumps(asdict(replace(overhead, types=rates))), flush=True)


def _rate(path: Path, kind: str, overhead: MachineBenchmark) -> WeightTypeSpeed:
    _, weights, size = _TYPES[kind]
    few, narrow = Zeros(kind, layers=4), Zeros(kind, layers=8, width=512, inner=1024)
    layer_bytes = few.layer / weights * size
    many = Zeros(kind, layers=max(1, round(STREAMED / layer_bytes)))
    with Bench(path, many, overhead.threads) as bench:
        row = bench.one_row()
    products, output = _solved(*(_row_of_many(path, zeros, overhead) for zeros in (few, narrow)))
    return WeightTypeSpeed(
        many.layers * layer_bytes / max(row - many.layers * overhead.layer_seconds, row / 2), products, output
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """What a row of a prompt takes, without its attention: seconds, for so many weights and values that come out."""

    seconds: float
    weights: int
    outputs: int


def _row_of_many(path: Path, zeros: Zeros, overhead: MachineBenchmark) -> _Row:
    with Bench(path, zeros, overhead.threads) as bench:
        seconds = bench.many_rows() / BATCH
    attention = zeros.layers * 2 * zeros.width * overhead.prompt_attention_seconds * BATCH / 2
    # llama.cpp computes the end of the last layer only for rows that want logits, here for one
    whole = zeros.layers - 1
    weights = whole * zeros.layer + zeros.attention
    queries = zeros.width * (_SHARED + 2) // _SHARED
    outputs = whole * (queries + 2 * zeros.width + 2 * zeros.inner) + queries
    return _Row(max(seconds - attention, seconds / 2), weights, outputs)


def _solved(wide: _Row, narrow: _Row) -> tuple[float, float]:
    """Weights a second, and seconds for each output, with which both come to what they took."""
    common = wide.weights * narrow.outputs - narrow.weights * wide.outputs
    output = (wide.weights * narrow.seconds - narrow.weights * wide.seconds) / common
    output = min(max(output, 0.0), wide.seconds / wide.outputs / 2)
    return wide.weights / (wide.seconds - wide.outputs * output), output


class Bench(AbstractContextManager["Bench"]):
    """Such a model with one sequence, ready to compute."""

    def __init__(self, path: Path, zeros: Zeros, threads: int) -> None:
        write(path, zeros)
        self._weights = Weights(path, gpu_layers=0)
        self._context = Context(self._weights, _CELLS, 1, threads)
        self._length = 0

    def __exit__(self, *_exception: object) -> None:
        self._context.close()
        self._weights.close()

    def fill(self, length: int) -> None:
        """Lets the sequence grow to so many tokens."""
        while self._length < length:
            rows = min(BATCH, length - self._length)
            self._compute(rows)
            self._length += rows

    def one_row(self) -> float:
        """Seconds that a step of one token takes: the median of many, behind some that warm up."""
        return statistics.median([self._compute(1) for _ in range(28)][4:])

    def many_rows(self) -> float:
        """Seconds that a step of `BATCH` tokens takes: the shortest of four, behind one that warms up."""
        return min([self._compute(BATCH) for _ in range(5)][1:])

    def few_rows(self) -> float:
        """Seconds that a step of `FEW` tokens takes: the median of nine."""
        return statistics.median([self._compute(FEW) for _ in range(9)])

    def setting_aside(self) -> float:
        """Seconds that each byte of the sequence's state takes to be saved, in memory that was not used before."""
        saved, seconds = [], []
        for _ in range(3):
            begin = time.perf_counter()
            saved.append(self._context.save(0))
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds) / len(saved[0])

    def _compute(self, rows: int) -> float:
        begin = time.perf_counter()
        self._context.cut(0, self._length)
        self._context.decode([BatchToken(0, self._length + i, 0, i == rows - 1) for i in range(rows)])
        self._context.logits(rows - 1)
        return time.perf_counter() - begin


def write(path: Path, zeros: Zeros) -> None:
    """Writes the header, and a hole in the file where the weights would be."""
    heads = zeros.width // _HEAD
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(_CELLS)
    writer.add_embedding_length(zeros.width)
    writer.add_block_count(zeros.layers)
    writer.add_feed_forward_length(zeros.inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // _SHARED)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    size = _add_vector(writer, "output_norm", zeros.width)
    size += _add_matrix(writer, "token_embd", zeros.kind, _VOCABULARY, zeros.width)
    kv_width = zeros.width // _SHARED
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
    """Adds a tensor without data; returns its bytes in the file, which are a multiple of 32."""
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
