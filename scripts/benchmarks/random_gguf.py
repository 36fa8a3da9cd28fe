"""Writes random-weight GGUF models of real shapes, with projectors, for benchmarks.

Speed does not depend on the values of weights. The tokenizer is copied from a vocabulary-only GGUF, such as those in
llama.cpp's `models/` folder.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

SHAPES = {  # embedding width, layers, heads, key-value heads, feed-forward width: of SmolLM2, SmolVLM and Llama 3.2
    "135m": (576, 30, 9, 3, 1536),
    "500m": (1024, 24, 16, 4, 3072),
    "smolvlm500m": (960, 32, 15, 5, 2560),
    "1b": (2048, 16, 32, 8, 8192),
}
CONTEXT = 16384
TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def write(vocabulary: Path, target: Path, shape: str) -> None:
    """Writes an F16 model of the llama architecture with the tokenizer of the GGUF `vocabulary`."""
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
    tokens = copy_tokenizer(gguf.GGUFReader(str(vocabulary)), writer)
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
    _finish(writer)


def write_bert(vocabulary: Path, target: Path) -> None:
    """Writes an F16 BERT of the shape of all-MiniLM-L12 (33M) with the tokenizer of the GGUF `vocabulary`."""
    width, layers, heads, inner, context = 384, 12, 12, 1536, 512
    writer = gguf.GGUFWriter(str(target), "bert")
    writer.add_name("random-minilm")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tokens = copy_tokenizer(gguf.GGUFReader(str(vocabulary)), writer)
    random = np.random.default_rng(2)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal((rows, columns), np.float32) * 0.05).astype("f2"))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    matrix("token_embd", tokens, width)
    for name, rows in (("token_types", 2), ("position_embd", context)):
        writer.add_tensor(f"{name}.weight", random.standard_normal((rows, width), np.float32) * 0.05)
    norm("token_embd_norm")
    sizes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width)}
    sizes |= {"attn_output": (width, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    for layer in range(layers):
        for name, size in sizes.items():
            matrix(f"blk.{layer}.{name}", *size)
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(size[0], np.float32))
        norm(f"blk.{layer}.attn_output_norm")
        norm(f"blk.{layer}.layer_output_norm")
    _finish(writer)


def write_projector(target: Path, shape: str) -> None:
    """Writes an F16 image projector for the model: SigLIP-B/16 at 512 pixels, 64 tokens of 4 by 4 patches each.

    The `nemotron_v2_vl` projector type needs no marker tokens, so it works with any tokenizer.
    """
    side, patch, merge, width, layers, feed_forward = 512, 16, 4, 768, 12, 3072
    merged, out = width * merge**2, SHAPES[shape][0]
    writer = gguf.GGUFWriter(str(target), "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "nemotron_v2_vl")
    sizes = {
        "image_size": side,
        "patch_size": patch,
        "embedding_length": width,
        "feed_forward_length": feed_forward,
        "block_count": layers,
        "attention.head_count": 12,
        "projection_dim": out,
        "projector.scale_factor": merge,
    }
    for key, value in sizes.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    random = np.random.default_rng(1)

    def matrix(name: str, *size: int) -> None:
        writer.add_tensor(name, (random.standard_normal(size, np.float32) * 0.02).astype(np.float16))

    def table(name: str, *size: int) -> None:
        writer.add_tensor(name, random.standard_normal(size, np.float32) * 0.02)

    matrix("v.patch_embd.weight", width, 3, patch, patch)
    table("v.patch_embd.bias", width)
    table("v.position_embd.weight", (side // patch) ** 2, width)
    table("v.class_embd", 1, width)
    sizes_of = {"attn_q": width, "attn_k": width, "attn_v": width, "attn_out": width, "ffn_up": feed_forward}
    for norm in ["v.post_ln", *(f"v.blk.{layer}.ln{n}" for layer in range(layers) for n in (1, 2))]:
        writer.add_tensor(f"{norm}.weight", np.ones(width, np.float32))
        table(f"{norm}.bias", width)
    for block in (f"v.blk.{layer}" for layer in range(layers)):
        for name, rows in sizes_of.items():
            matrix(f"{block}.{name}.weight", rows, width)
            table(f"{block}.{name}.bias", rows)
        matrix(f"{block}.ffn_down.weight", width, feed_forward)
        table(f"{block}.ffn_down.bias", width)
    writer.add_tensor("mm.model.mlp.0.weight", np.ones(merged, np.float32))
    matrix("mm.model.mlp.1.weight", 2 * out, merged)
    matrix("mm.model.mlp.3.weight", out, 2 * out)
    _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


def copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Copies every tokenizer field except the chat template; returns the vocabulary size."""
    for name, field in source.fields.items():
        if not name.startswith("tokenizer.") or name == "tokenizer.chat_template":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    return len(source.fields["tokenizer.ggml.tokens"].data)
