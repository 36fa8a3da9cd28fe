"""Maps text models (Llama, Mistral, Qwen and their relatives) to GGUF: which tensors they have, and GGUF's names.

The GGUF names are those of llama.cpp's `src/llama-arch.cpp`.
"""

from __future__ import annotations

from .checkpoint import Checkpoint
from .gguf_content import GGUFContent, GGUFValue, OutputTensor, computed, copied, rope_interleaved
from .json_config import JSONConfig
from .rope import read_rope
from .safetensors import equal, quoted
from .tensor_mapper import AttentionShape, TensorMapper, layer_count, prefix_before, prefixed, read_attention_shape

DECODER_TENSORS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""GGUF's names of the tensors of a decoder layer."""


def llama(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, "llama", interleaved_rope=True)


def qwen2(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, "qwen2")


def qwen3(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, "qwen3", head_norms=True)


def _decoder(
    checkpoint: Checkpoint, architecture: str, interleaved_rope: bool = False, head_norms: bool = False
) -> GGUFContent:
    """Maps Llama and its relatives, which normalize before attention and before a gated feed-forward layer."""
    config, attention = checkpoint.config, read_attention_shape(checkpoint.config)
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise config.error(f"hidden_act is {quoted(config.get('hidden_act'))}; only silu is supported")
    context_tokens = _context(checkpoint)
    rope = read_rope(config, attention.head_size, context_tokens)
    if rope.left_out:
        checkpoint.left_out.append(rope.left_out)
    metadata: dict[str, GGUFValue] = {
        "context_length": context_tokens,
        "embedding_length": config.positive_int("hidden_size"),
        "block_count": layer_count(config),
        "feed_forward_length": config.positive_int("intermediate_size"),
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_size,
        "attention.value_length": attention.head_size,
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
        "vocab_size": config.positive_int("vocab_size"),
        **rope.metadata,
    }
    tensors = _decoder_tensors(checkpoint, attention, interleaved_rope, head_norms)
    if rope.factors is not None:
        if not interleaved_rope:
            raise config.error(f"llama.cpp does not support llama3's RoPE scaling for {architecture}")
        tensors.append(computed("rope_freqs.weight", rope.factors))
    return GGUFContent(architecture, prefixed(architecture, metadata), tensors)


def _decoder_tensors(
    checkpoint: Checkpoint, attention: AttentionShape, interleaved_rope: bool, head_norms: bool
) -> list[OutputTensor]:
    config = checkpoint.config
    width, vocabulary = config.positive_int("hidden_size"), config.positive_int("vocab_size")
    mapper = TensorMapper(checkpoint, prefix_before(checkpoint, "embed_tokens.weight", "model."))
    mapper.copy("embed_tokens.weight", "token_embd.weight", (vocabulary, width))
    mapper.copy("norm.weight", "output_norm.weight", (width,))
    shapes = decoder_shapes(config, attention)
    for layer in range(layer_count(config)):
        for source, name in DECODER_TENSORS.items():
            if name in ("attn_q_norm", "attn_k_norm") and not head_norms:
                continue
            rotated_heads = {"attn_q": attention.heads, "attn_k": attention.kv_heads}.get(name)
            for kind, shape in (("weight", shapes[name]), ("bias", shapes[name][:1])):
                tensor = mapper.find(f"layers.{layer}.{source}.{kind}", shape, required=kind == "weight")
                if tensor is None:
                    continue
                output_name = f"blk.{layer}.{name}.{kind}"
                if interleaved_rope and rotated_heads:
                    mapper.outputs.append(rope_interleaved(output_name, tensor, rotated_heads))
                else:
                    mapper.outputs.append(copied(output_name, tensor))
    _map_output(mapper, (vocabulary, width))
    return mapper.finish(r".*\.rotary_emb\.inv_freq")


def _map_output(mapper: TensorMapper, shape: tuple[int, int]) -> None:
    """Maps the output matrix. Without one, llama.cpp uses the embeddings, as models with tied embeddings do.

    A matrix that differs from the embeddings is kept even if the config says that they are tied, as transformers 5
    does: some fine-tunings train it and forget the config.
    """
    checkpoint, embeddings = mapper.checkpoint, mapper.checkpoint.tensors[mapper.prefix + "embed_tokens.weight"]
    mapper.prefix = mapper.prefix.removesuffix("model.")
    if not checkpoint.architecture.endswith("ForCausalLM"):
        if mapper.ignore("lm_head.weight"):
            checkpoint.left_out.append(f"lm_head.weight: a {checkpoint.architecture}, as config.json says, has none")
        return
    tied = checkpoint.config.flag("tie_word_embeddings", False)
    head = mapper.find("lm_head.weight", shape, required=not tied)
    if head is None or (tied and equal(head, embeddings)):
        return
    mapper.outputs.append(copied("output.weight", head))
    if tied:
        checkpoint.notes.append(
            "lm_head.weight differs from the embeddings, although config.json ties them (tie_word_embeddings); it is "
            "kept, as transformers 5 does"
        )


def decoder_shapes(config: JSONConfig, attention: AttentionShape) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a layer's tensors by GGUF name, a matrix's rows first."""
    width, inner = config.positive_int("hidden_size"), config.positive_int("intermediate_size")
    q, kv = attention.heads * attention.head_size, attention.kv_heads * attention.head_size
    return {
        "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (q, width), "attn_k": (kv, width),
        "attn_v": (kv, width), "attn_output": (width, q), "attn_q_norm": (attention.head_size,),
        "attn_k_norm": (attention.head_size,), "ffn_gate": (inner, width), "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }  # fmt: skip


def _context(checkpoint: Checkpoint) -> int:
    """Returns the context length in tokens, shortened to a sliding window.

    llama.cpp has no sliding-window attention for these families.
    """
    config = checkpoint.config
    context_tokens = config.positive_int("max_position_embeddings", 2048)
    window = config.get("sliding_window")
    if config.get("model_type", "").startswith("qwen") and not config.flag("use_sliding_window", False):
        window = None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" not in kinds:
        window = None
    if window is None or config.positive_int("sliding_window") >= context_tokens:
        return context_tokens
    checkpoint.left_out.append(
        f"the context beyond {window} tokens (of {context_tokens}): llama.cpp computes full attention where this model "
        f"uses a sliding window, and the two agree only up to {window} tokens"
    )
    return config.positive_int("sliding_window")
