"""Writes a llama-architecture GGUF of random weights and real shape, to measure speed with.

Speed does not depend on what the weights say. The tokenizer comes from a vocabulary-only GGUF, such as those in
llama.cpp's `models/` folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

SHAPES = {  # embedding width, layers, heads, key-value heads, feed-forward width: of SmolLM2 and Llama 3.2
    "135m": (576, 30, 9, 3, 1536),
    "1b": (2048, 16, 32, 8, 8192),
}
CONTEXT = 8192
TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def write(vocabulary: Path, target: Path, shape: str) -> None:
    """Writes the F16 model; `vocabulary` is a GGUF whose tokenizer is copied."""
    width, layers, heads, kv_heads, feed_forward = SHAPES[shape]
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_name(f"random-{shape}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tokens = _copy_tokenizer(gguf.GGUFReader(str(vocabulary)), writer)
    writer.add_vocab_size(tokens)
    writer.add_chat_template(TEMPLATE)

    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (random.standard_normal((rows, columns), np.float32) * 0.02).astype(np.float16))

    matrix("token_embd.weight", tokens, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(width, np.float32))
        matrix(f"{block}.attn_q.weight", width, width)
        matrix(f"{block}.attn_k.weight", width // heads * kv_heads, width)
        matrix(f"{block}.attn_v.weight", width // heads * kv_heads, width)
        matrix(f"{block}.attn_output.weight", width, width)
        matrix(f"{block}.ffn_gate.weight", feed_forward, width)
        matrix(f"{block}.ffn_up.weight", feed_forward, width)
        matrix(f"{block}.ffn_down.weight", width, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


def _copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Copies every tokenizer field but the chat template; returns how many tokens there are."""
    for name, field in source.fields.items():
        if not name.startswith("tokenizer.") or name == "tokenizer.chat_template":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    return len(source.fields["tokenizer.ggml.tokens"].data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    options = parser.parse_args()
    write(options.vocabulary, options.target, options.shape)
