"""A small random-weight mixture-of-experts model whose rows have 64 and 96 values."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from fakes.gguf_writing import write_and_close
from galago.models.registry.resolve import builtin_folder

TEXT = builtin_folder() / "text-F16.gguf"


def write(path: Path, experts: int = 4, used: int = 2, tied: bool = True) -> Path:
    """Writes a model of one layer with experts, `used` of them active per token, and the built-in vocabulary.

    Unless `tied`, the output has a matrix of its own.
    """
    width, inner, random = 64, 96, np.random.default_rng(1)
    reader, writer = gguf.GGUFReader(TEXT), gguf.GGUFWriter(path, "llama")
    changed = {"llama.embedding_length": width, "llama.block_count": 1, "llama.feed_forward_length": inner,
               "llama.attention.head_count": 2, "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 32,
               "llama.expert_count": experts, "llama.expert_used_count": used}  # fmt: skip
    for field in reader.fields.values():
        if field.name not in changed and not field.name.startswith(("GGUF.", "general.architecture")):
            inner_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner_type)
    for key, number in changed.items():
        writer.add_uint32(key, number)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,), "blk.0.attn_norm": (width,),
              "blk.0.ffn_norm": (width,), "blk.0.ffn_gate_inp": (experts, width),
              **{f"blk.0.attn_{n}": (width, width) for n in ("q", "k", "v", "output")},
              **{f"blk.0.ffn_{n}_exps": (experts, inner, width) for n in ("gate", "up")},
              "blk.0.ffn_down_exps": (experts, width, inner)}  # fmt: skip
    shapes |= {} if tied else {"output": (vocabulary, width)}
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.1, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    write_and_close(writer)
    return path
