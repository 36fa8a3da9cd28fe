"""Writes a llama-architecture GGUF of random weights and real shape, and eyes for it, to measure with.

Speed does not depend on what the weights say. The tokenizer comes from a vocabulary-only GGUF, such as those in
llama.cpp's `models/` folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

SHAPES = {  # embedding width, layers, heads, key-value heads, feed-forward width: as SmolLM2, SmolVLM, Llama 3.2
    "135m": (576, 30, 9, 3, 1536),
    "500m": (1024, 24, 16, 4, 3072),
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


def write_projector(target: Path, shape: str) -> None:
    """Writes the F16 eyes of such a model: a SigLIP-B/16 of 512 pixels, 16 patches to a row (`nemotron_v2_vl`, which
    needs no tokens of its own)."""
    width, layers, heads, inner, side, patch, merge = 768, 12, 12, 3072, 512, 16, 4
    text_width, wide = SHAPES[shape][0], 768 * merge * merge
    writer = gguf.GGUFWriter(str(target), "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "nemotron_v2_vl")
    numbers = {"image_size": side, "patch_size": patch, "embedding_length": width, "feed_forward_length": inner}
    numbers |= {"block_count": layers, "attention.head_count": heads, "projection_dim": text_width}
    for name, number in (numbers | {"projector.scale_factor": merge}).items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    random = np.random.default_rng(1)

    def matrix(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape, np.float32) * 0.02).astype(np.float16))

    def vector(name: str, *shape: int, value: float = 0.0) -> None:
        writer.add_tensor(name, np.full(shape, value, np.float32))

    matrix("v.patch_embd.weight", width, 3, patch, patch)
    vector("v.patch_embd.bias", width)
    vector("v.position_embd.weight", (side // patch) ** 2, width)
    vector("v.class_embd", 1, width)
    for layer in range(layers):
        block = f"v.blk.{layer}"
        for norm in ("ln1", "ln2"):
            vector(f"{block}.{norm}.weight", width, value=1.0)
            vector(f"{block}.{norm}.bias", width)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            matrix(f"{block}.{name}.weight", width, width)
            vector(f"{block}.{name}.bias", width)
        for name, rows, columns in (("ffn_up", inner, width), ("ffn_down", width, inner)):
            matrix(f"{block}.{name}.weight", rows, columns)
            vector(f"{block}.{name}.bias", rows)
    vector("v.post_ln.weight", width, value=1.0)
    vector("v.post_ln.bias", width)
    vector("mm.model.mlp.0.weight", wide, value=1.0)
    matrix("mm.model.mlp.1.weight", 2 * text_width, wide)
    matrix("mm.model.mlp.3.weight", text_width, 2 * text_width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
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
