"""Maps text models (Llama, Mistral, Qwen and their relatives) to GGUF: which tensors they have, and GGUF's names.

The GGUF names are those of llama.cpp's `src/llama-arch.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .checkpoint import Checkpoint, architecture
from .gguf_content import GGUFContent, GGUFValue, OutputTensor, computed, copied, rope_interleaved, shifted
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

GEMMA_TENSORS = DECODER_TENSORS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""The same for Gemma 2 and 3, which also normalize the outputs of attention and the feed-forward layer."""


@dataclass(frozen=True)
class _Layers:
    """The properties of a family's layers.

    `name` is llama.cpp's name of the architecture. With `interleaved_rope` it expects the rows of queries and keys in
    another order. `norm_offset` is what a family adds to the weights of normalization layers when it computes.
    """

    name: str
    tensors: Mapping[str, str] = field(default_factory=lambda: DECODER_TENSORS)
    interleaved_rope: bool = False
    head_norms: bool = False
    activations: tuple[str, ...] = ("silu", "swish")
    norm_offset: float = 0.0
    sliding_window: bool = False


def llama(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, _Layers("llama", interleaved_rope=True))


def qwen2(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, _Layers("qwen2"))


def qwen3(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, _Layers("qwen3", head_norms=True))


def granite(checkpoint: Checkpoint) -> GGUFContent:
    """Llama with a factor for each of embeddings, attention scores, layers' outputs and logits."""
    names = {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    factors: dict[str, GGUFValue] = {key: checkpoint.config.number(name, 1.0) for key, name in names.items()}
    return _decoder(checkpoint, _Layers("granite", interleaved_rope=True), factors)


def smollm3(checkpoint: Checkpoint) -> GGUFContent:
    """Llama with every fourth layer without rotary positions; llama.cpp supports no other interval."""
    config = checkpoint.config
    layers = range(1, layer_count(config) + 1)
    interval = config.positive_int("no_rope_layer_interval", 4)
    rotated = config.get("no_rope_layers", [int(layer % interval != 0) for layer in layers])
    if rotated != [int(layer % 4 != 0) for layer in layers]:
        raise config.error("layers other than every fourth lack rotary positions (no_rope_layers)")
    return _decoder(checkpoint, _Layers("smollm3", interleaved_rope=True))


def gemma2(checkpoint: Checkpoint) -> GGUFContent:
    """Gemma 2: every second layer has a sliding window, and scores and logits are capped."""
    config = checkpoint.config
    _check_gemma(checkpoint, interval=2, largest=46)
    metadata: dict[str, GGUFValue] = {
        "attention.sliding_window": config.positive_int("sliding_window", 4096),
        "attn_logit_softcapping": config.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": config.number("final_logit_softcapping", 30.0),
    }
    return _decoder(checkpoint, _gemma_layers("gemma2", head_norms=False), metadata)


def gemma3(checkpoint: Checkpoint) -> GGUFContent:
    """Gemma 3's text models: five of six layers have a sliding window, with another RoPE base."""
    config = checkpoint.config
    if config.get("attn_logit_softcapping") or config.flag("use_bidirectional_attention", False):
        raise config.error("capped attention scores and attention to later tokens are not supported for Gemma 3")
    _check_gemma(checkpoint, interval=6, largest=62)
    local = config.part("rope_parameters").part("sliding_attention")
    metadata: dict[str, GGUFValue] = {
        "attention.sliding_window": config.positive_int("sliding_window", 4096),
        "rope.freq_base_swa": local.number("rope_theta", config.number("rope_local_base_freq", 10000.0)),
    }
    if config.get("final_logit_softcapping"):
        metadata["final_logit_softcapping"] = config.number("final_logit_softcapping")
    return _decoder(checkpoint, _gemma_layers("gemma3", head_norms=True), metadata)


def _gemma_layers(name: str, head_norms: bool) -> _Layers:
    return _Layers(
        name,
        tensors=GEMMA_TENSORS,
        head_norms=head_norms,
        activations=("gelu_pytorch_tanh",),
        norm_offset=1.0,
        sliding_window=True,
    )


def _check_gemma(checkpoint: Checkpoint, interval: int, largest: int) -> None:
    """Raises `ModelError` if the sliding layers or the scaling of scores differ from those hard-coded in llama.cpp.

    It recognizes the largest model, which scales them differently, by its number of layers.
    """
    config, layers = checkpoint.config, layer_count(checkpoint.config)
    usual = ["full_attention" if layer % interval == 0 else "sliding_attention" for layer in range(1, layers + 1)]
    stated = config.positive_int("sliding_window_pattern", interval)
    if config.get("layer_types", usual) != usual or stated != interval:
        raise config.error(f"layers other than every {interval}th attend to the whole context (layer_types)")
    attention = read_attention_shape(config)
    scale = attention.head_size if layers != largest else config.positive_int("hidden_size") // attention.heads
    if config.number("query_pre_attn_scalar", 256) != scale:
        raise config.error(f"query_pre_attn_scalar is {config.get('query_pre_attn_scalar')}; llama.cpp uses {scale}")
    if not config.flag("tie_word_embeddings", True):
        raise config.error("embeddings that are not tied (tie_word_embeddings) are not supported for Gemma")


def _decoder(
    checkpoint: Checkpoint, layers: _Layers, metadata: Mapping[str, GGUFValue] = MappingProxyType({})
) -> GGUFContent:
    """Maps Llama and its relatives, which normalize before attention and before a gated feed-forward layer.

    `metadata` are a family's own keys, without the architecture's prefix.
    """
    config, attention = checkpoint.config, read_attention_shape(checkpoint.config)
    activation = config.get("hidden_activation", config.get("hidden_act", layers.activations[0]))
    if activation not in layers.activations:
        raise config.error(f"hidden_act is {quoted(activation)}; only {layers.activations[0]} is supported")
    context_tokens = _context(checkpoint, layers.sliding_window)
    rope = read_rope(config, attention.head_size, context_tokens)
    if rope.left_out:
        checkpoint.left_out.append(rope.left_out)
    sizes: dict[str, GGUFValue] = {
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
        **metadata,
    }
    tensors = _decoder_tensors(checkpoint, attention, layers)
    if rope.factors is not None:
        if layers.name not in ("llama", "granite"):
            raise config.error(f"llama.cpp does not support llama3's RoPE scaling for {layers.name}")
        tensors.append(computed("rope_freqs.weight", rope.factors))
    return GGUFContent(layers.name, prefixed(layers.name, sizes), tensors)


def _decoder_tensors(checkpoint: Checkpoint, attention: AttentionShape, layers: _Layers) -> list[OutputTensor]:
    config = checkpoint.config
    width, vocabulary = config.positive_int("hidden_size"), config.positive_int("vocab_size")
    mapper = TensorMapper(checkpoint, prefix_before(checkpoint, "embed_tokens.weight", "model."))
    mapper.copy("embed_tokens.weight", "token_embd.weight", (vocabulary, width))
    if norm := mapper.find("norm.weight", (width,)):
        mapper.outputs.append(shifted(copied("output_norm.weight", norm), layers.norm_offset))
    shapes = decoder_shapes(config, attention)
    for layer in range(layer_count(config)):
        for source, name in layers.tensors.items():
            if name in ("attn_q_norm", "attn_k_norm") and not layers.head_norms:
                continue
            rotated_heads = {"attn_q": attention.heads, "attn_k": attention.kv_heads}.get(name)
            for kind, shape in (("weight", shapes[name]), ("bias", shapes[name][:1])):
                tensor = mapper.find(f"layers.{layer}.{source}.{kind}", shape, required=kind == "weight")
                if tensor is None:
                    continue
                output_name = f"blk.{layer}.{name}.{kind}"
                if layers.interleaved_rope and rotated_heads:
                    mapper.outputs.append(rope_interleaved(output_name, tensor, rotated_heads))
                else:
                    offset = layers.norm_offset if name.endswith("norm") else 0.0
                    mapper.outputs.append(shifted(copied(output_name, tensor), offset))
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
    tied = ties_embeddings(checkpoint.config)
    head = mapper.find("lm_head.weight", shape, required=False)
    if head is None and not tied:
        raise checkpoint.config.error("the output matrix lm_head.weight is missing, and tie_word_embeddings is not set")
    if head is None or (tied and equal(head, embeddings)):
        return
    mapper.outputs.append(copied("output.weight", head))
    if tied:
        checkpoint.notes.append(
            "lm_head.weight differs from the embeddings, although config.json ties them (tie_word_embeddings); it is "
            "kept, as transformers 5 does"
        )


def ties_embeddings(config: JSONConfig) -> bool:
    """Whether the model has one matrix for its embeddings and its output, or no output of its own."""
    name = architecture(config)
    is_tied_by_default = name.startswith(("Gemma", "SmolLM3"))  # as in transformers' configuration classes
    return config.flag("tie_word_embeddings", is_tied_by_default) or not name.endswith("ForCausalLM")


def decoder_shapes(config: JSONConfig, attention: AttentionShape) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a layer's tensors by GGUF name, a matrix's rows first."""
    width, inner = config.positive_int("hidden_size"), config.positive_int("intermediate_size")
    q, kv = attention.heads * attention.head_size, attention.kv_heads * attention.head_size
    return {
        "attn_norm": (width,), "ffn_norm": (width,), "post_attention_norm": (width,), "post_ffw_norm": (width,),
        "attn_q": (q, width), "attn_k": (kv, width),
        "attn_v": (kv, width), "attn_output": (width, q), "attn_q_norm": (attention.head_size,),
        "attn_k_norm": (attention.head_size,), "ffn_gate": (inner, width), "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }  # fmt: skip


def _context(checkpoint: Checkpoint, has_sliding_window: bool) -> int:
    """Returns the context length in tokens, shortened to a sliding window if llama.cpp has none for the family."""
    config = checkpoint.config
    context_tokens = config.positive_int("max_position_embeddings", 2048)
    window = None if has_sliding_window else config.get("sliding_window")
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
