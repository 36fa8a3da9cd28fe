"""Maps encoders (BERT and its relatives) to GGUF: which tensors they have, and GGUF's names."""

from __future__ import annotations

import re
from dataclasses import replace

from .checkpoint import Checkpoint
from .gguf_content import GGUFContent, GGUFValue, OutputTensor
from .safetensors import quoted
from .tensor_mapper import TensorMapper, layer_count, prefix_before, prefixed, read_attention_shape

_BERT_TENSORS = (
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
)

_HEADS = r"(.*\.)?(cls|pooler)\..*"


def bert(checkpoint: Checkpoint) -> GGUFContent:
    """Maps BERT text encoders: MiniLM, bge, e5, gte and their relatives."""
    config, attention = checkpoint.config, read_attention_shape(checkpoint.config)
    if config.get("hidden_act", "gelu") != "gelu":
        raise config.error(f"hidden_act is {quoted(config.get('hidden_act'))}; only gelu is supported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise config.error("relative positions (position_embedding_type) are not supported")
    if config.flag("is_decoder", False):
        raise config.error("the model writes text (is_decoder); only encoders are supported")
    metadata: dict[str, GGUFValue] = {
        "context_length": config.positive_int("max_position_embeddings", 512),
        "embedding_length": config.positive_int("hidden_size"),
        "block_count": layer_count(config),
        "feed_forward_length": config.positive_int("intermediate_size"),
        "attention.head_count": attention.heads,
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12),
        "attention.causal": False,
        "vocab_size": config.positive_int("vocab_size"),
    }
    token_types: dict[str, GGUFValue] = {"tokenizer.ggml.token_type_count": config.positive_int("type_vocab_size", 2)}
    return GGUFContent("bert", prefixed("bert", metadata) | token_types, _bert_tensors(checkpoint))


def _bert_tensors(checkpoint: Checkpoint) -> list[OutputTensor]:
    config = checkpoint.config
    width, inner = config.positive_int("hidden_size"), config.positive_int("intermediate_size")
    checkpoint = _with_current_names(checkpoint)
    mapper = TensorMapper(checkpoint, prefix_before(checkpoint, "embeddings.word_embeddings.weight", "bert."))
    vocabulary = config.positive_int("vocab_size")
    mapper.copy("embeddings.word_embeddings.weight", "token_embd.weight", (vocabulary, width))
    positions, types = config.positive_int("max_position_embeddings", 512), config.positive_int("type_vocab_size", 2)
    mapper.copy("embeddings.position_embeddings.weight", "position_embd.weight", (positions, width), keep_f32=True)
    mapper.copy("embeddings.token_type_embeddings.weight", "token_types.weight", (types, width), keep_f32=True)
    for kind in ("weight", "bias"):
        mapper.copy(f"embeddings.LayerNorm.{kind}", f"token_embd_norm.{kind}", (width,))
        for layer in range(layer_count(config)):
            for source, name in _BERT_TENSORS:
                shape: tuple[int, ...] = (inner if name == "ffn_up" else width,)
                if kind == "weight" and not name.endswith("norm"):
                    shape += (inner if name == "ffn_down" else width,)
                mapper.copy(f"encoder.layer.{layer}.{source}.{kind}", f"blk.{layer}.{name}.{kind}", shape)
    heads = [name for name in checkpoint.tensors if re.fullmatch(_HEADS, name)]
    if heads:
        kinds = sorted({re.sub(_HEADS, r"\2", name) for name in heads})
        checkpoint.left_out.append(f"the heads {' and '.join(kinds)} ({len(heads)} tensors): text vectors need none")
    return mapper.finish(rf".*embeddings\.position_ids|{_HEADS}")


def _with_current_names(checkpoint: Checkpoint) -> Checkpoint:
    """Renames the weights of normalization layers from the names that BERT's first checkpoints have, gamma and beta."""

    def current(name: str) -> str:
        return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))

    return replace(checkpoint, tensors={current(name): tensor for name, tensor in checkpoint.tensors.items()})
