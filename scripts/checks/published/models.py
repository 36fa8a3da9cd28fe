"""Settings of published models, with small sizes instead of their own.

The entries of config.json are those of the publishers, so that old names of settings are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from galago.quantize.convert.pretokenizers import _LLAMA3, _QWEN2, _TEKKEN

from .tokenizers import byte_level, sentence_piece, split, word_piece

Config = dict[str, Any]

SIZES: Config = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "torch_dtype": "bfloat16", "use_cache": True,
    "initializer_range": 0.02, "attention_dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """One checkpoint. `config` is its config.json, `tokenizer` makes its tokenizer.json.

    `rename` changes the names of its tensors, `files` are more of its files, as JSON. `left_out` is part of the line
    that names what the file lacks, `refused` part of the message if the model cannot be converted. `scripts` are those
    that llama.cpp itself tokenizes differently.
    """

    config: Config
    tokenizer: Callable[[], Tokenizer]
    settings: Config = field(default_factory=dict)
    shards: bool = False
    sentence_piece: bool = False
    rename: Callable[[str], str | None] | None = None
    files: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""
    refused: str = ""
    scripts: frozenset[str] = frozenset()


def decoder(architecture: str, **settings: Any) -> Config:
    """A config.json. Settings of `None` are written as null; `...` removes one of the usual settings."""
    kind = architecture.removesuffix("ForCausalLM").lower()
    config = {"architectures": [architecture], "model_type": kind, "hidden_act": "silu", "rms_norm_eps": 1e-5} | SIZES
    return {key: value for key, value in (config | settings).items() if value is not ...}


SPM_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
BERT_NAMES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}

SPM, BPE = 2000, 1502


def spm() -> Tokenizer:
    return sentence_piece("prepend")


def metaspace() -> Tokenizer:
    return sentence_piece("first")


def llama3_tokens() -> Tokenizer:
    return byte_level(split(_LLAMA3), ignore_merges=True, before="<|endoftext|>")


def qwen_tokens() -> Tokenizer:
    return byte_level(split(_QWEN2), normalizer=normalizers.NFC())


def qwen_embedding_tokens() -> Tokenizer:
    return byte_level(split(_QWEN2), normalizer=normalizers.NFC(), after="<|endoftext|>")


def digits_tokens() -> Tokenizer:
    return byte_level([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def tekken_tokens() -> Tokenizer:
    return byte_level(split(_TEKKEN), ignore_merges=True, before="<|endoftext|>")


def gpt2_tokens() -> Tokenizer:
    return byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)])


def gemma_tokens() -> Tokenizer:
    """Replaces spaces by SentencePiece's character for a space before the text is split at spaces, so none remain."""
    tokenizer = sentence_piece("never")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def llama3_rope(factor: float) -> Config:
    return {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3",
            "original_max_position_embeddings": 64}  # fmt: skip


def pooling(mode: str) -> dict[str, Any]:
    """The files of sentence-transformers."""
    modules = [{"idx": i, "name": str(i), "type": f"sentence_transformers.models.{name}", "path": path}
               for i, (name, path) in enumerate((("Transformer", ""), ("Pooling", "1_Pooling"),
                                                 ("Normalize", "2_Normalize")))]  # fmt: skip
    return {"modules.json": modules, "1_Pooling/config.json": {f"pooling_mode_{mode}": True}}


TEKKEN_SCRIPTS = frozenset({"Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Lao", "Khmer"})
"""llama.cpp never includes combining marks in tekken's words."""

DECODERS: dict[str, Published] = {
    "Llama-2-7b": Published(
        decoder("LlamaForCausalLM", vocab_size=SPM, pretraining_tp=1, rope_scaling=None, tie_word_embeddings=False,
                num_key_value_heads=4, bos_token_id=1, eos_token_id=2),
        spm, SPM_NAMES, shards=True, sentence_piece=True,
    ),
    "Llama-3.1-8B": Published(
        decoder("LlamaForCausalLM", vocab_size=BPE + 2, attention_bias=False, mlp_bias=False, rope_theta=500000.0,
                rope_scaling=llama3_rope(8.0), tie_word_embeddings=False, pretraining_tp=1, eos_token_id=[0, 1, 2]),
        llama3_tokens, CHATML | {"bos_token": "<|endoftext|>"}, shards=True,
    ),
    "Llama-3.2-1B": Published(
        decoder("LlamaForCausalLM", vocab_size=BPE + 2, head_dim=16, attention_bias=False, mlp_bias=False,
                rope_theta=500000.0, rope_scaling=llama3_rope(32.0), tie_word_embeddings=True),
        llama3_tokens, CHATML | {"bos_token": "<|endoftext|>"},
    ),
    "llama with biases, dynamic rope": Published(
        decoder("LlamaForCausalLM", vocab_size=SPM, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                rope_scaling={"type": "dynamic", "factor": 2.0}),
        metaspace, SPM_NAMES, left_out="the scaling of positions beyond 512",
    ),
    "deepseek-coder-1.3b": Published(
        decoder("LlamaForCausalLM", vocab_size=BPE + 2, rope_theta=100000, rms_norm_eps=1e-6,
                rope_scaling={"factor": 4.0, "type": "linear"}, tie_word_embeddings=False),
        gpt2_tokens, CHATML,
    ),
    "Mistral-7B-v0.1": Published(
        decoder("MistralForCausalLM", vocab_size=SPM, sliding_window=128, rope_theta=10000.0,
                tie_word_embeddings=False, attention_dropout=...),
        metaspace, SPM_NAMES, shards=True, left_out="the context beyond 128 tokens",
    ),
    "Mistral-7B-v0.3": Published(
        decoder("MistralForCausalLM", vocab_size=SPM, sliding_window=None, rope_theta=1000000.0, head_dim=None,
                tie_word_embeddings=False),
        metaspace, SPM_NAMES,
    ),
    "Mistral-Nemo": Published(
        decoder("MistralForCausalLM", vocab_size=BPE + 2, sliding_window=None, rope_theta=1000000.0, head_dim=24,
                tie_word_embeddings=False),
        tekken_tokens, CHATML | {"bos_token": "<|endoftext|>"}, scripts=TEKKEN_SCRIPTS,
    ),
    "SmolLM2-360M": Published(
        decoder("LlamaForCausalLM", vocab_size=BPE, hidden_size=96, num_attention_heads=3, num_key_value_heads=1,
                attention_bias=False, is_llama_config=True, mlp_bias=False, pretraining_tp=1, rope_interleaved=False,
                rope_scaling=None, rope_theta=100000, tie_word_embeddings=True),
        digits_tokens, CHATML | {"bos_token": "<|im_start|>"},
    ),
    "SmolLM3-3B": Published(
        decoder("SmolLM3ForCausalLM", vocab_size=BPE, num_hidden_layers=5, no_rope_layer_interval=4,
                no_rope_layers=[1, 1, 1, 0, 1], layer_types=["full_attention"] * 5, rope_theta=5000000.0,
                rope_scaling=None, sliding_window=None, use_sliding_window=False, tie_word_embeddings=True,
                attention_bias=False, mlp_bias=False, max_window_layers=28, pretraining_tp=2, rms_norm_eps=1e-6,
                pad_token_id=0, bos_token_id=0, eos_token_id=2),
        llama3_tokens, CHATML,
    ),
    "granite-3.3-2b": Published(
        decoder("GraniteForCausalLM", vocab_size=BPE, attention_bias=False, attention_multiplier=0.015625,
                embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0, mlp_bias=False,
                rope_scaling=None, rope_theta=10000000.0, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
                pad_token_id=0),
        digits_tokens, CHATML,
    ),
    "gemma-2-2b-it": Published(
        decoder("Gemma2ForCausalLM", vocab_size=SPM, head_dim=32, hidden_act="gelu_pytorch_tanh", sliding_window=16,
                hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
                query_pre_attn_scalar=32, rope_theta=10000.0, rms_norm_eps=1e-6, attention_bias=False,
                cache_implementation="hybrid", eos_token_id=[1, 2], tie_word_embeddings=...),
        gemma_tokens, SPM_NAMES,
    ),
    "gemma-3-1b-it": Published(
        decoder("Gemma3ForCausalLM", model_type="gemma3_text", vocab_size=SPM, head_dim=32, num_hidden_layers=7,
                num_key_value_heads=1, hidden_act=..., hidden_activation="gelu_pytorch_tanh", sliding_window=16,
                attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=32, rope_scaling=None,
                rope_theta=1000000, rope_local_base_freq=10000, sliding_window_pattern=6, rms_norm_eps=1e-6,
                cache_implementation="hybrid", attention_bias=False, eos_token_id=[1, 2], tie_word_embeddings=...),
        gemma_tokens, SPM_NAMES,
    ),
    "Qwen2-0.5B": Published(
        decoder("Qwen2ForCausalLM", vocab_size=BPE + 34, rope_theta=1000000.0, rms_norm_eps=1e-6,
                tie_word_embeddings=True, use_sliding_window=False, sliding_window=128, max_window_layers=2),
        qwen_tokens, CHATML,
    ),
    "Qwen2.5-7B with yarn": Published(
        decoder("Qwen2ForCausalLM", vocab_size=BPE + 2, rope_theta=1000000.0, rms_norm_eps=1e-6,
                tie_word_embeddings=False, use_sliding_window=False, sliding_window=512, max_window_layers=4,
                rope_scaling={"factor": 4.0, "original_max_position_embeddings": 128, "type": "yarn"}),
        qwen_tokens, CHATML, shards=True,
    ),
    "Qwen3-0.6B": Published(
        decoder("Qwen3ForCausalLM", vocab_size=BPE + 2, head_dim=32, rope_theta=1000000, rms_norm_eps=1e-6,
                tie_word_embeddings=True, attention_bias=False, rope_scaling=None, sliding_window=None,
                use_sliding_window=False, max_window_layers=4),
        qwen_tokens, CHATML,
    ),
    "Qwen3-8B": Published(
        decoder("Qwen3ForCausalLM", vocab_size=BPE + 2, head_dim=16, rope_theta=1000000, rms_norm_eps=1e-6,
                tie_word_embeddings=False, attention_bias=False, rope_scaling=None, sliding_window=None,
                use_sliding_window=False, max_window_layers=4),
        qwen_tokens, CHATML, shards=True,
    ),
    "Qwen3-Embedding-0.6B": Published(
        decoder("Qwen3ForCausalLM", vocab_size=BPE + 2, head_dim=32, rope_theta=1000000, rms_norm_eps=1e-6,
                tie_word_embeddings=True, attention_bias=False, rope_scaling=None, sliding_window=None,
                use_sliding_window=False, max_window_layers=4),
        qwen_embedding_tokens, CHATML, files=pooling("lasttoken"),
        rename=lambda name: name.removeprefix("model."),
    ),
}  # fmt: skip


def encoder(architecture: str, **settings: Any) -> Config:
    sizes = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "attention_dropout")}
    config = {"architectures": [architecture], "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
              "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "type_vocab_size": 2, "pad_token_id": 0,
              "position_embedding_type": "absolute", "torch_dtype": "float32"}  # fmt: skip
    return sizes | config | settings


def as_in_2018(name: str) -> str | None:
    """bert-base-uncased's own names: those of TensorFlow."""
    return re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name))


ENCODERS: dict[str, Published] = {
    "bert-base-uncased": Published(
        encoder("BertForMaskedLM", vocab_size=0, gradient_checkpointing=False, transformers_version="4.6.0.dev0"),
        lambda: word_piece(lower=True), BERT_NAMES, rename=as_in_2018, left_out="the heads cls",
    ),
    "bert-base-cased": Published(
        encoder("BertForMaskedLM", vocab_size=0), lambda: word_piece(lower=False),
        BERT_NAMES | {"do_lower_case": False}, left_out="the heads cls",
    ),
    "all-MiniLM-L6-v2": Published(
        encoder("BertModel", vocab_size=0), lambda: word_piece(lower=True), BERT_NAMES, files=pooling("mean_tokens"),
        left_out="the heads pooler",
    ),
    "bge-small-en-v1.5": Published(
        encoder("BertModel", vocab_size=0, id2label={"0": "LABEL_0"}), lambda: word_piece(lower=True), BERT_NAMES,
        files=pooling("cls_token"), left_out="the heads pooler",
    ),
}  # fmt: skip
