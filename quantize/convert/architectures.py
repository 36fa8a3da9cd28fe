"""Maps the checkpoints of supported model families to GGUF: which tensors they have, and what GGUF calls them.

A family is a function from a checkpoint to the content of a GGUF file, registered under transformers' class names. A
tensor that is missing, unknown, or of another shape than the config implies is an error, because a file with missing or
made-up weights changes what the model says. The GGUF names are those of llama.cpp's `src/llama-arch.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ...models.errors import ModelError
from .checkpoint import Checkpoint, JSONConfig
from .gguf_content import GGUFContent, GGUFValue, OutputTensor, computed, copied, rope_interleaved
from .rope import read_rope
from .safetensors import StoredTensor, quoted

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS in llama.cpp's src/llama-hparams.h

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


@dataclass
class TensorMapper:
    """Takes tensors from a checkpoint one by one, and reports at the end which ones nothing used."""

    checkpoint: Checkpoint
    prefix: str
    outputs: list[OutputTensor] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def find(self, name: str, shape: tuple[int, ...], required: bool = True) -> StoredTensor | None:
        """Returns the tensor `prefix` + `name`. Raises `ModelError` if it is missing or has another shape."""
        tensor = self.checkpoint.tensors.get(self.prefix + name)
        if tensor is None:
            if required:
                raise _error(self.checkpoint, f"the tensor {self.prefix}{name} is missing")
            return None
        if tensor.shape != shape:
            raise _error(
                self.checkpoint,
                f"{self.prefix}{name} has the shape {list(tensor.shape)}, but config.json implies {list(shape)}",
            )
        self.used.add(tensor.name)
        return tensor

    def copy(
        self, source: str, name: str, shape: tuple[int, ...], required: bool = True, keep_f32: bool = False
    ) -> None:
        if tensor := self.find(source, shape, required):
            self.outputs.append(copied(name, tensor, keep_f32))

    def finish(self, ignored: str) -> list[OutputTensor]:
        """Returns all outputs. Raises `ModelError` if an unused tensor does not match the pattern `ignored`."""
        unused = self.checkpoint.tensors.keys() - self.used
        unknown = sorted(name for name in unused if not re.fullmatch(ignored, name))
        if unknown:
            raise _error(
                self.checkpoint,
                f"{len(unknown)} tensors are unknown in a {self.checkpoint.architecture}: {quoted(unknown[0])}",
            )
        return self.outputs


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The number of query heads, the number of key-value heads, and the values per head."""

    heads: int
    kv_heads: int
    head_size: int


def llama(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, "llama", interleaved_rope=True)


def qwen2(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, "qwen2")


def qwen3(checkpoint: Checkpoint) -> GGUFContent:
    return _decoder(checkpoint, "qwen3", head_norms=True)


def read_attention_shape(config: JSONConfig) -> AttentionShape:
    """Raises `ModelError` if the sizes do not divide each other."""
    width, heads = config.positive_int("hidden_size"), config.positive_int("num_attention_heads")
    kv_heads = config.positive_int("num_key_value_heads", heads)
    head_size = config.positive_int("head_dim", max(1, width // heads))
    if heads % kv_heads or head_size % 2 or (config.get("head_dim") is None and width % heads):
        raise config.error(
            f"{heads} heads of {head_size} values, {kv_heads} key-value heads and a width of {width} do not divide"
        )
    return AttentionShape(heads, kv_heads, head_size)


def _decoder(
    checkpoint: Checkpoint, architecture: str, interleaved_rope: bool = False, head_norms: bool = False
) -> GGUFContent:
    """Maps Llama and its relatives, which normalize before attention and before a gated feed-forward layer."""
    config, attention = checkpoint.config, read_attention_shape(checkpoint.config)
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise config.error(f"hidden_act is {quoted(config.get('hidden_act'))}; only silu is supported")
    context_tokens, notes = _context(config)
    rope = read_rope(config, attention.head_size, context_tokens)
    metadata: dict[str, GGUFValue] = {
        "context_length": context_tokens,
        "embedding_length": config.positive_int("hidden_size"),
        "block_count": config.positive_int("num_hidden_layers", below=MAX_LAYERS + 1),
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
    notes += [rope.note] if rope.note else []
    return GGUFContent(architecture, _prefixed(architecture, metadata), tensors, notes)


def _decoder_tensors(
    checkpoint: Checkpoint, attention: AttentionShape, interleaved_rope: bool, head_norms: bool
) -> list[OutputTensor]:
    config = checkpoint.config
    width, vocabulary = config.positive_int("hidden_size"), config.positive_int("vocab_size")
    prefix = "model." if any(name.startswith("model.") for name in checkpoint.tensors) else ""
    mapper = TensorMapper(checkpoint, prefix)
    mapper.copy("embed_tokens.weight", "token_embd.weight", (vocabulary, width))
    mapper.copy("norm.weight", "output_norm.weight", (width,))
    shapes = decoder_shapes(config, attention)
    for layer in range(config.positive_int("num_hidden_layers", below=MAX_LAYERS + 1)):
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
    mapper.prefix = ""
    tied = config.flag("tie_word_embeddings", False) or not checkpoint.architecture.endswith("ForCausalLM")
    if not tied:
        mapper.copy("lm_head.weight", "output.weight", (vocabulary, width))
    return mapper.finish(r".*\.rotary_emb\.inv_freq" + (r"|lm_head\.weight" if tied else ""))


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


def _context(config: JSONConfig) -> tuple[int, list[str]]:
    """Returns the context length in tokens, and a note if a sliding window shortens it.

    llama.cpp has no sliding-window attention for these families.
    """
    context_tokens = config.positive_int("max_position_embeddings", 2048)
    window = config.get("sliding_window")
    if config.get("model_type", "").startswith("qwen") and not config.flag("use_sliding_window", False):
        window = None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" not in kinds:
        window = None
    if window is None or config.positive_int("sliding_window") >= context_tokens:
        return context_tokens, []
    return config.positive_int("sliding_window"), [
        f"the context is {window} tokens instead of {context_tokens}: llama.cpp computes full attention where this "
        f"model uses a sliding window, and the two agree only up to {window} tokens"
    ]


def bert(checkpoint: Checkpoint) -> GGUFContent:
    """Maps BERT text encoders: MiniLM, bge, e5, gte and their relatives."""
    config, attention = checkpoint.config, read_attention_shape(checkpoint.config)
    if config.get("hidden_act", "gelu") != "gelu":
        raise config.error(f"hidden_act is {quoted(config.get('hidden_act'))}; only gelu is supported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise config.error("relative positions (position_embedding_type) are not supported")
    metadata: dict[str, GGUFValue] = {
        "context_length": config.positive_int("max_position_embeddings", 512),
        "embedding_length": config.positive_int("hidden_size"),
        "block_count": config.positive_int("num_hidden_layers", below=MAX_LAYERS + 1),
        "feed_forward_length": config.positive_int("intermediate_size"),
        "attention.head_count": attention.heads,
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12),
        "attention.causal": False,
        "vocab_size": config.positive_int("vocab_size"),
    }
    token_types: dict[str, GGUFValue] = {"tokenizer.ggml.token_type_count": config.positive_int("type_vocab_size", 2)}
    return GGUFContent("bert", _prefixed("bert", metadata) | token_types, _bert_tensors(checkpoint))


def _bert_tensors(checkpoint: Checkpoint) -> list[OutputTensor]:
    config = checkpoint.config
    width, inner = config.positive_int("hidden_size"), config.positive_int("intermediate_size")
    prefix = "bert." if any(name.startswith("bert.") for name in checkpoint.tensors) else ""
    mapper = TensorMapper(checkpoint, prefix)
    vocabulary = config.positive_int("vocab_size")
    mapper.copy("embeddings.word_embeddings.weight", "token_embd.weight", (vocabulary, width))
    positions, types = config.positive_int("max_position_embeddings", 512), config.positive_int("type_vocab_size", 2)
    mapper.copy("embeddings.position_embeddings.weight", "position_embd.weight", (positions, width), keep_f32=True)
    mapper.copy("embeddings.token_type_embeddings.weight", "token_types.weight", (types, width), keep_f32=True)
    for kind in ("weight", "bias"):
        mapper.copy(f"embeddings.LayerNorm.{kind}", f"token_embd_norm.{kind}", (width,))
        for layer in range(config.positive_int("num_hidden_layers", below=MAX_LAYERS + 1)):
            for source, name in _BERT_TENSORS:
                shape: tuple[int, ...] = (inner if name == "ffn_up" else width,)
                if kind == "weight" and not name.endswith("norm"):
                    shape += (inner if name == "ffn_down" else width,)
                mapper.copy(f"encoder.layer.{layer}.{source}.{kind}", f"blk.{layer}.{name}.{kind}", shape)
    return mapper.finish(r"(bert\.)?(embeddings\.position_ids|pooler\..*)|cls\..*")


FAMILIES: dict[str, Callable[[Checkpoint], GGUFContent]] = {
    "LlamaForCausalLM": llama,
    "LlamaModel": llama,
    "MistralForCausalLM": llama,
    "MistralModel": llama,
    "Qwen2ForCausalLM": qwen2,
    "Qwen2Model": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3Model": qwen3,
    "BertModel": bert,
    "BertForMaskedLM": bert,
    "BertForPreTraining": bert,
}


def read_content(checkpoint: Checkpoint) -> GGUFContent:
    """Returns a checkpoint's tensors and sizes. Raises `ModelError` if its family is not supported."""
    config = checkpoint.config
    if "quantization_config" in config.entries:
        method = quoted(config.part("quantization_config").get("quant_method"))
        raise config.error(f"the weights are already quantized ({method}); convert the original model instead")
    return family(config, checkpoint.architecture)(checkpoint)


def family(config: JSONConfig, architecture: str) -> Callable[[Checkpoint], GGUFContent]:
    """Raises `ModelError` that says what to do if the family is not supported."""
    if architecture not in FAMILIES:
        name = config.path.parent.name or config.path
        described = f"is a {architecture}" if architecture else "names no architecture"
        raise ModelError(
            f"{name} {described}, which galago cannot convert. It converts {', '.join(FAMILIES)}. For other models and "
            "for projectors, download llama.cpp's sources and give their folder, which contains "
            "convert_hf_to_gguf.py, as --converter DIR",
            "checkpoint",
        )
    return FAMILIES[architecture]


def _prefixed(architecture: str, metadata: dict[str, GGUFValue]) -> dict[str, GGUFValue]:
    return {f"{architecture}.{key}": value for key, value in metadata.items()}


def _error(checkpoint: Checkpoint, problem: str) -> ModelError:
    return ModelError(f"{checkpoint.folder.name}: {problem}", str(checkpoint.folder))
