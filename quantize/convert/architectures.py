"""The families of models that can be converted: which tensors a checkpoint has, and what GGUF calls them.

A family is a function from a checkpoint to the content of a GGUF file, listed under the names of transformers'
classes. A tensor that is missing, has another shape than the settings say, or is known to no one, is an error: what a
file leaves out or makes up changes what a model says. The names in GGUF are those of llama.cpp's `src/llama-arch.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ...models.errors import ModelError
from .checkpoint import Checkpoint, Settings
from .rope import read_rope
from .safetensors import StoredTensor, shown
from .target import Content, Target, Value, computed, copied, interleaved

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS in llama.cpp's src/llama-hparams.h

DECODER_LINES = {
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
"""What GGUF calls the parts of a layer."""

_BERT_LINES = (
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
class Taking:
    """Tensors taken from a checkpoint one by one, so that in the end it is known which were left."""

    checkpoint: Checkpoint
    prefix: str
    targets: list[Target] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def find(self, name: str, shape: tuple[int, ...], needed: bool = True) -> StoredTensor | None:
        """The tensor behind the prefix, checked. Raises `ModelError` where it has another shape or is missing."""
        tensor = self.checkpoint.tensors.get(self.prefix + name)
        if tensor is None:
            if needed:
                raise _error(self.checkpoint, f"the tensor {self.prefix}{name} is missing")
            return None
        if tensor.shape != shape:
            found, told = list(tensor.shape), list(shape)
            raise _error(self.checkpoint, f"{self.prefix}{name} has the shape {found}; config.json says {told}")
        self.taken.add(tensor.name)
        return tensor

    def copy(self, source: str, name: str, shape: tuple[int, ...], needed: bool = True, exact: bool = False) -> None:
        if tensor := self.find(source, shape, needed):
            self.targets.append(copied(name, tensor, exact))

    def finish(self, ignored: str) -> list[Target]:
        """All targets. Raises `ModelError` where a tensor remains that does not match the pattern `ignored`."""
        left = self.checkpoint.tensors.keys() - self.taken
        unknown = sorted(name for name in left if not re.fullmatch(ignored, name))
        if unknown:
            raise _error(
                self.checkpoint,
                f"{len(unknown)} tensors have no place in a {self.checkpoint.architecture}: {shown(unknown[0])}",
            )
        return self.targets


@dataclass(frozen=True, slots=True)
class Heads:
    """The sizes of a decoder's attention."""

    count: int
    shared: int
    width: int


def llama(checkpoint: Checkpoint) -> Content:
    return _decoder(checkpoint, "llama", rotated=True)


def qwen2(checkpoint: Checkpoint) -> Content:
    return _decoder(checkpoint, "qwen2")


def qwen3(checkpoint: Checkpoint) -> Content:
    return _decoder(checkpoint, "qwen3", norms=True)


def read_heads(config: Settings) -> Heads:
    """Raises `ModelError` where they do not divide each other."""
    width, count = config.whole("hidden_size"), config.whole("num_attention_heads")
    shared = config.whole("num_key_value_heads", count)
    head = config.whole("head_dim", max(1, width // count))
    if count % shared or head % 2 or (config.get("head_dim") is None and width % count):
        raise config.error(f"{count} heads of {head} values with {shared} of keys, {width} wide: that does not divide")
    return Heads(count, shared, head)


def _decoder(checkpoint: Checkpoint, architecture: str, rotated: bool = False, norms: bool = False) -> Content:
    """Llama and its kin: normalised before attention and before a gated feed-forward layer."""
    config, heads = checkpoint.config, read_heads(checkpoint.config)
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise config.error(f"hidden_act is {shown(config.get('hidden_act'))}; silu is supported")
    context, notes = _context(config)
    rope = read_rope(config, heads.width, context)
    metadata: dict[str, Value] = {
        "context_length": context,
        "embedding_length": config.whole("hidden_size"),
        "block_count": config.whole("num_hidden_layers", most=MAX_LAYERS + 1),
        "feed_forward_length": config.whole("intermediate_size"),
        "attention.head_count": heads.count,
        "attention.head_count_kv": heads.shared,
        "attention.key_length": heads.width,
        "attention.value_length": heads.width,
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
        "vocab_size": config.whole("vocab_size"),
        **rope.metadata,
    }
    targets = _decoder_tensors(checkpoint, heads, rotated, norms)
    if rope.factors is not None:
        if not rotated:
            raise config.error(f"llama3's scaling of positions does not go with {architecture} in llama.cpp")
        targets.append(computed("rope_freqs.weight", rope.factors))
    return Content(architecture, _under(architecture, metadata), targets, notes + ([rope.note] if rope.note else []))


def _decoder_tensors(checkpoint: Checkpoint, heads: Heads, rotated: bool, norms: bool) -> list[Target]:
    config = checkpoint.config
    width, words = config.whole("hidden_size"), config.whole("vocab_size")
    prefix = "model." if any(name.startswith("model.") for name in checkpoint.tensors) else ""
    taking = Taking(checkpoint, prefix)
    taking.copy("embed_tokens.weight", "token_embd.weight", (words, width))
    taking.copy("norm.weight", "output_norm.weight", (width,))
    shapes = decoder_shapes(config, heads)
    for layer in range(config.whole("num_hidden_layers", most=MAX_LAYERS + 1)):
        for source, name in DECODER_LINES.items():
            if name in ("attn_q_norm", "attn_k_norm") and not norms:
                continue
            turned = {"attn_q": heads.count, "attn_k": heads.shared}.get(name) if rotated else None
            for kind, shape in (("weight", shapes[name]), ("bias", shapes[name][:1])):
                tensor = taking.find(f"layers.{layer}.{source}.{kind}", shape, needed=kind == "weight")
                if tensor is not None:
                    target = f"blk.{layer}.{name}.{kind}"
                    taking.targets.append(interleaved(target, tensor, turned) if turned else copied(target, tensor))
    taking.prefix = ""
    tied = config.flag("tie_word_embeddings", False) or not checkpoint.architecture.endswith("ForCausalLM")
    if not tied:
        taking.copy("lm_head.weight", "output.weight", (words, width))
    return taking.finish(r".*\.rotary_emb\.inv_freq" + (r"|lm_head\.weight" if tied else ""))


def decoder_shapes(config: Settings, heads: Heads) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's tensors by their names in GGUF; a matrix's rows come first."""
    width, inner = config.whole("hidden_size"), config.whole("intermediate_size")
    q, kv = heads.count * heads.width, heads.shared * heads.width
    return {
        "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (q, width), "attn_k": (kv, width),
        "attn_v": (kv, width), "attn_output": (width, q), "attn_q_norm": (heads.width,),
        "attn_k_norm": (heads.width,), "ffn_gate": (inner, width), "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }  # fmt: skip


def _context(config: Settings) -> tuple[int, list[str]]:
    """Tokens the file claims, and what is to say of it: llama.cpp has no window of attention for these families."""
    context = config.whole("max_position_embeddings", 2048)
    window = config.get("sliding_window")
    if config.get("model_type", "").startswith("qwen") and not config.flag("use_sliding_window", False):
        window = None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" not in kinds:
        window = None
    if window is None or config.whole("sliding_window") >= context:
        return context, []
    return config.whole("sliding_window"), [
        f"the context is {window} tokens instead of {context}: layers that see only so many are computed by llama.cpp "
        "as if they saw all, which is the same up to there"
    ]


def bert(checkpoint: Checkpoint) -> Content:
    """BERT as an encoder of texts: MiniLM, bge, e5, gte and their kin."""
    config, heads = checkpoint.config, read_heads(checkpoint.config)
    if config.get("hidden_act", "gelu") != "gelu":
        raise config.error(f"hidden_act is {shown(config.get('hidden_act'))}; gelu is supported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise config.error("positions are relative (position_embedding_type), which is not supported")
    metadata: dict[str, Value] = {
        "context_length": config.whole("max_position_embeddings", 512),
        "embedding_length": config.whole("hidden_size"),
        "block_count": config.whole("num_hidden_layers", most=MAX_LAYERS + 1),
        "feed_forward_length": config.whole("intermediate_size"),
        "attention.head_count": heads.count,
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12),
        "attention.causal": False,
        "vocab_size": config.whole("vocab_size"),
    }
    kinds: dict[str, Value] = {"tokenizer.ggml.token_type_count": config.whole("type_vocab_size", 2)}
    return Content("bert", _under("bert", metadata) | kinds, _bert_tensors(checkpoint))


def _bert_tensors(checkpoint: Checkpoint) -> list[Target]:
    config = checkpoint.config
    width, inner = config.whole("hidden_size"), config.whole("intermediate_size")
    prefix = "bert." if any(name.startswith("bert.") for name in checkpoint.tensors) else ""
    taking = Taking(checkpoint, prefix)
    taking.copy("embeddings.word_embeddings.weight", "token_embd.weight", (config.whole("vocab_size"), width))
    positions, kinds = config.whole("max_position_embeddings", 512), config.whole("type_vocab_size", 2)
    taking.copy("embeddings.position_embeddings.weight", "position_embd.weight", (positions, width), exact=True)
    taking.copy("embeddings.token_type_embeddings.weight", "token_types.weight", (kinds, width), exact=True)
    rows = {"ffn_up": inner}
    for kind in ("weight", "bias"):
        taking.copy(f"embeddings.LayerNorm.{kind}", f"token_embd_norm.{kind}", (width,))
        for layer in range(config.whole("num_hidden_layers", most=MAX_LAYERS + 1)):
            for source, name in _BERT_LINES:
                shape: tuple[int, ...] = (rows.get(name, width),)
                if kind == "weight" and not name.endswith("norm"):
                    shape += (inner if name == "ffn_down" else width,)
                taking.copy(f"encoder.layer.{layer}.{source}.{kind}", f"blk.{layer}.{name}.{kind}", shape)
    return taking.finish(r"(bert\.)?(embeddings\.position_ids|pooler\..*)|cls\..*")


FAMILIES: dict[str, Callable[[Checkpoint], Content]] = {
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


def content(checkpoint: Checkpoint) -> Content:
    """The tensors and sizes of a checkpoint. Raises `ModelError` where its family is not known here."""
    config = checkpoint.config
    if "quantization_config" in config.entries:
        method = shown(config.part("quantization_config").get("quant_method"))
        raise config.error(f"the weights are quantized already ({method}); convert the model they were made from")
    return family(config, checkpoint.architecture)(checkpoint)


def family(config: Settings, architecture: str) -> Callable[[Checkpoint], Content]:
    """Raises `ModelError` that says what can be done where the family is not known here."""
    if architecture not in FAMILIES:
        raise ModelError(
            f"{config.path.parent.name or config.path} is a {architecture or 'checkpoint that names no architecture'}, "
            f"which galago does not convert ({', '.join(FAMILIES)}); for others, projectors included, get llama.cpp's "
            "sources and let its converter do it: --converter DIR names the folder with convert_hf_to_gguf.py",
            "checkpoint",
        )
    return FAMILIES[architecture]


def _under(architecture: str, metadata: dict[str, Value]) -> dict[str, Value]:
    return {f"{architecture}.{key}": value for key, value in metadata.items()}


def _error(checkpoint: Checkpoint, problem: str) -> ModelError:
    return ModelError(f"{checkpoint.folder.name}: {problem}", str(checkpoint.folder))
