"""GGUF files with the shapes of real models but no weights; sparse, so that they take no disk space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

QUANT = {"F16": gguf.GGMLQuantizationType.F16, "Q8_0": gguf.GGMLQuantizationType.Q8_0,
         "Q4_0": gguf.GGMLQuantizationType.Q4_0}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The layout of a llama-architecture model."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    type: str = "Q4_0"
    tied: bool = False


SHAPES = {
    "135M": Shape(576, 30, 9, 3, 1536, 49152, "F16", True),
    "360M": Shape(960, 32, 15, 5, 2560, 49152, "Q8_0", True),
    "1B": Shape(2048, 16, 32, 8, 8192, 128256, "Q4_0", True),
    "1.7B": Shape(2048, 24, 32, 32, 8192, 49152, "Q8_0", True),
    "3B": Shape(3072, 28, 24, 8, 8192, 128256, "Q4_0", True),
    "7B": Shape(4096, 32, 32, 32, 11008, 32000),
    "8B": Shape(4096, 32, 32, 8, 14336, 128256),
    "14B": Shape(5120, 40, 40, 8, 17920, 100352),
}


def write(path: Path, shape: Shape, context: int = 32768, parts: int = 1) -> Path:
    """Writes the header of a model, or of the first of `parts` files, and a hole in place of the weights."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    if parts > 1:
        writer.add_uint16("split.count", parts)
    size = sum(_add(writer, name, rows, columns, shape.type) for name, rows, columns in _matrices(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(file.seek(0, 2) + size + (1 << 16))
    return path


def _matrices(shape: Shape) -> list[tuple[str, int, int]]:
    width, inner, kv = shape.width, shape.inner, shape.width // shape.heads * shape.kv_heads
    matrices = [("token_embd.weight", shape.vocabulary, width), ("output_norm.weight", 0, width)]
    matrices += [] if shape.tied else [("output.weight", shape.vocabulary, width)]
    for i in range(shape.layers):
        matrices += [
            (f"blk.{i}.attn_norm.weight", 0, width), (f"blk.{i}.ffn_norm.weight", 0, width),
            (f"blk.{i}.attn_q.weight", width, width), (f"blk.{i}.attn_k.weight", kv, width),
            (f"blk.{i}.attn_v.weight", kv, width), (f"blk.{i}.attn_output.weight", width, width),
            (f"blk.{i}.ffn_gate.weight", inner, width), (f"blk.{i}.ffn_up.weight", inner, width),
            (f"blk.{i}.ffn_down.weight", width, inner),
        ]  # fmt: skip
    return matrices


def _add(writer: gguf.GGUFWriter, name: str, rows: int, columns: int, kind: str) -> int:
    """Adds a tensor without data, or a vector if `rows` is 0; returns its padded size in bytes."""
    if rows == 0:
        size = 4 * columns
        writer.add_tensor_info(name, (columns,), np.dtype(np.float32), size)
    else:
        weights, block = gguf.GGML_QUANT_SIZES[QUANT[kind]]
        size = rows * columns // weights * block
        shape = gguf.quant_shape_to_byte_shape((rows, columns), QUANT[kind])
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw_dtype=QUANT[kind])
    return -(-size // 32) * 32
