"""What checkpoints hold in older and other forms is converted as transformers reads it, or named as left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import checkpoints
from galago.models.errors import ConfigError, ModelError
from galago.models.gguf.header import END_TOKENS_KEY
from galago.models.gguf.reader import read_header
from galago.quantize.convert.architectures import read_content
from galago.quantize.convert.chat_templates import read_templates
from galago.quantize.convert.checkpoint import open_checkpoint
from galago.quantize.convert.conversion import convert_checkpoint
from galago.quantize.convert.end_tokens import read_end_tokens
from galago.quantize.convert.gguf_writer import FloatType, write
from galago.quantize.convert.model_metadata import note_reading_settings, read_pooling
from galago.quantize.convert.vocabulary import Vocabulary, read_vocabulary
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.reference import compute
from galago.runtime.llamacpp.weights import Weights

Arrays = checkpoints.Weights
TOKENS = ["a", "<|im_end|>", "<|eot_id|>", "<fin>", "<fim>", "<|end|>", "<terminé>", "<kết>"]
made = partial(checkpoints.without_weights, tokens=len(TOKENS))


EOS, EOT, EOM = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))

ENDS: dict[str, tuple[dict[str, object], int | None, dict[str, object], str]] = {
    "none": ({}, 1, {}, ""),
    "one, the tokenizer's": ({"generation_config.json": {"eos_token_id": 1}}, 1, {}, ""),
    "another than the tokenizer's": ({"generation_config.json": {"eos_token_id": 3}}, 1, {EOT: 3}, ""),
    "two": ({"generation_config.json": {"eos_token_id": [1, 3]}}, 1, {EOT: 3}, ""),
    "three": ({"generation_config.json": {"eos_token_id": [3, 4, 1]}}, 1, {EOT: 3, EOM: 4}, ""),
    "the same twice": ({"generation_config.json": {"eos_token_id": [1, 3, 3, 1]}}, 1, {EOT: 3}, ""),
    "more than keys, of which llama.cpp knows some": (
        {"generation_config.json": {"eos_token_id": [2, 5, 3, 1, 4]}},
        1,
        {EOT: 3, EOM: 4},
        "",
    ),
    "more than keys": (
        {"generation_config.json": {"eos_token_id": [2, 3, 4, 6, 7]}},
        1,
        {EOT: 3, EOM: 4, END_TOKENS_KEY: "2 3 4 6 7"},
        "only Galago ends answers at <terminé>, <kết>",
    ),
    "none in the tokenizer": ({"generation_config.json": {"eos_token_id": [4, 3]}}, None, {EOS: 4, EOT: 3}, ""),
    "in config.json": ({"config.json": {"vocab_size": 8, "eos_token_id": [1, 4]}}, 1, {EOT: 4}, ""),
    "in both: generation_config.json counts": (
        {"config.json": {"eos_token_id": [1, 4]}, "generation_config.json": {"eos_token_id": [3, 1]}},
        1,
        {EOT: 3},
        "",
    ),
    "not in the vocabulary": (
        {"generation_config.json": {"eos_token_id": [1, 99, "x", 3]}},
        1,
        {EOT: 3},
        "the end tokens 99, x, which the vocabulary does not have",
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_every_end_token_of_the_checkpoint_ends_answers(tmp_path: Path, case: str) -> None:
    files, first, expected, text = ENDS[case]
    checkpoint = made(tmp_path, files)
    assert read_end_tokens(checkpoint, TOKENS, first) == expected
    lines = [*checkpoint.left_out, *checkpoint.notes]
    assert text in " ".join(lines) and bool(text) == bool(lines)


KEY = "tokenizer.chat_template"

TEMPLATES: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "none": ({}, {}, ""),
    "in the tokenizer's settings": ({"tokenizer_config.json": {"chat_template": "A"}}, {KEY: "A"}, ""),
    "a file": ({"chat_template.jinja": "F", "tokenizer_config.json": {"chat_template": "A"}}, {KEY: "F"}, ""),
    "a JSON file": ({"chat_template.json": {"chat_template": "J"}}, {KEY: "J"}, ""),
    "files": (
        {
            "chat_template.jinja": "F",
            "additional_chat_templates/tool_use.jinja": "T",
            "additional_chat_templates/rag.jinja": "R",
        },
        {KEY: "F", f"{KEY}s": ["rag", "tool_use"], f"{KEY}.rag": "R", f"{KEY}.tool_use": "T"},
        "",
    ),
    "a list": (
        {
            "tokenizer_config.json": {
                "chat_template": [
                    {"name": "default", "template": "D"},
                    {"name": "tool_use", "template": "T"},
                    {"name": "my-rag", "template": "R"},
                ]
            }
        },
        {KEY: "D", f"{KEY}s": ["tool_use", "my_rag"], f"{KEY}.tool_use": "T", f"{KEY}.my_rag": "R"},
        "",
    ),
    "an object": (
        {"tokenizer_config.json": {"chat_template": {"default": "D", "tool_use": "T"}}},
        {KEY: "D", f"{KEY}s": ["tool_use"], f"{KEY}.tool_use": "T"},
        "",
    ),
    "a list with one that is no text": (
        {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "D"}, {"name": "x"}]}},
        {KEY: "D"},
        "the chat template 'x'",
    ),
    "two names that GGUF cannot tell apart": (
        {"tokenizer_config.json": {"chat_template": {"default": "D", "a-b": "1", "a_b": "2"}}},
        {KEY: "D", f"{KEY}s": ["a_b"], f"{KEY}.a_b": "1"},
        "the chat template 'a_b'",
    ),
    "none by default": (
        {"additional_chat_templates/tool_use.jinja": "T"},
        {f"{KEY}s": ["tool_use"], f"{KEY}.tool_use": "T"},
        "a default chat template: the checkpoint only has tool_use",
    ),
    "a file beside the default of the settings": (
        {"additional_chat_templates/tool_use.jinja": "T", "tokenizer_config.json": {"chat_template": "A"}},
        {KEY: "A", f"{KEY}s": ["tool_use"], f"{KEY}.tool_use": "T"},
        "",
    ),
    "an empty file": ({"chat_template.jinja": "\n", "tokenizer_config.json": {"chat_template": "A"}}, {KEY: "A"}, ""),
    "a list of texts": ({"tokenizer_config.json": {"chat_template": ["A"]}}, {}, "the chat template ''"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_all_chat_templates_are_kept_under_their_names(tmp_path: Path, case: str) -> None:
    files, expected, text = TEMPLATES[case]
    checkpoint = made(tmp_path, files)
    assert read_templates(checkpoint) == expected
    assert text in " ".join(checkpoint.left_out) and bool(text) == bool(checkpoint.left_out)


def renamed(old: str, new: str) -> Callable[[Arrays], Arrays]:
    return lambda weights: {re.sub(old, new, name): values for name, values in weights.items()}


def same(weights: Arrays) -> Arrays:
    return weights


def equal_head(weights: Arrays) -> Arrays:
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}


def other_head(weights: Arrays) -> Arrays:
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"] * 2}


DECODERS: dict[str, tuple[dict[str, Any], Callable[[Arrays], Arrays], bool, str]] = {
    "tied": ({"tied": True}, same, False, ""),
    "not tied": ({"tied": False}, same, True, ""),
    "tied, with an equal copy": ({"tied": True}, equal_head, False, ""),
    "tied, with another matrix": ({"tied": True}, other_head, True, "lm_head.weight differs from the embeddings"),
    "without 'model.'": ({"tied": False}, renamed(r"^model\.", ""), True, ""),
    "saved from torch.compile": ({"tied": False}, renamed("^", "_orig_mod."), True, ""),
    "without a head, by its class": ({"tied": False, "architectures": ["Qwen2Model"]}, same, False, "lm_head.weight"),
    "with rotary buffers": (
        {"tied": True},
        lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)},
        False,
        "",
    ),
}


@pytest.mark.parametrize("case", DECODERS)
def test_decoders_are_read_under_all_names_and_their_output_matrix_is_kept(tmp_path: Path, case: str) -> None:
    settings, change, has_output, text = DECODERS[case]
    weights = change(checkpoints.decoder(tmp_path / "c", "Qwen2ForCausalLM", **settings))
    checkpoints.safetensors(tmp_path / "c" / "model.safetensors", weights)
    checkpoint = open_checkpoint(tmp_path / "c")
    outputs = {tensor.name: tensor for tensor in read_content(checkpoint).tensors}
    assert ("output.weight" in outputs) == has_output and len(outputs) == 2 + has_output + 12 * checkpoints.LAYERS
    if has_output:
        head = next(values for name, values in weights.items() if name.endswith("lm_head.weight"))
        assert np.array_equal(outputs["output.weight"].read(0, 5), head[:5])
    lines = [*checkpoint.left_out, *checkpoint.notes]
    assert text in " ".join(lines) and bool(text) == bool(lines)


def early_names(weights: Arrays) -> Arrays:
    """The names of bert-base-uncased's own file, of 2018."""
    gamma = renamed(r"LayerNorm\.weight$", "LayerNorm.gamma")(weights)
    return renamed(r"LayerNorm\.bias$", "LayerNorm.beta")(gamma)


def headless(weights: Arrays) -> Arrays:
    return {name: values for name, values in weights.items() if not re.match(r"cls\.|bert\.pooler", name)}


ENCODERS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "with heads": (same, "the heads cls and pooler (2 tensors)"),
    "without heads": (headless, ""),
    "gamma and beta": (early_names, "the heads cls and pooler (2 tensors)"),
    "without 'bert.'": (lambda w: renamed(r"^bert\.", "")(headless(w)), ""),
    "gamma and beta without 'bert.'": (lambda w: early_names(renamed(r"^bert\.", "")(w)), "the heads cls and pooler"),
    "with position ids": (lambda w: headless(w) | {"bert.embeddings.position_ids": np.zeros(2, np.float32)}, ""),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_encoders_are_read_under_all_names_and_their_heads_left_out(tmp_path: Path, case: str) -> None:
    change, text = ENCODERS[case]
    weights = checkpoints.bert(tmp_path / "c")
    checkpoints.safetensors(tmp_path / "c" / "model.safetensors", change(weights))
    checkpoint = open_checkpoint(tmp_path / "c")
    outputs = {tensor.name: tensor for tensor in read_content(checkpoint).tensors}
    expected = weights["bert.encoder.layer.1.output.LayerNorm.weight"]
    assert np.array_equal(outputs["blk.1.layer_output_norm.weight"].read(0, checkpoints.WIDTH), expected)
    assert len(outputs) == 5 + 16 * checkpoints.LAYERS
    assert text in " ".join(checkpoint.left_out) and bool(text) == bool(checkpoint.left_out)


def test_the_file_says_what_it_was_made_from_and_what_was_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "models--acme--Tiny-Chat" / "snapshots" / ("ab12" * 10)
    checkpoints.decoder(folder, "Qwen2ForCausalLM")
    checkpoints.safetensors(folder / "other.safetensors", {})
    size = checkpoints.size_of(checkpoints.bpe())
    ends = [size - 1, 0, 1, 2, size - 4]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    target = tmp_path / "made.gguf"
    with pytest.raises(ConfigError, match=r"--strict is set and this would be left out: the file other.safetensors"):
        convert_checkpoint(folder, target, FloatType.F32, False, False, no_progress, strict=True)
    assert not target.exists()
    result = convert_checkpoint(folder, target, FloatType.F32, False, False, no_progress)
    metadata = read_header(target).metadata
    assert metadata["general.name"] == "Tiny-Chat"
    assert metadata["galago.made_from"] == f"acme/Tiny-Chat at commit {'ab12' * 10}"
    assert metadata["galago.left_out"] == result.left_out and "other.safetensors" in result.left_out[0]
    assert metadata["galago.version"]
    assert not any(str(tmp_path) in str(value) for value in metadata.values())
    weights = Weights(target)
    assert weights.end_tokens >= {*ends, weights.eos} and 5 not in weights.end_tokens


UNSUPPORTED = {
    "Qwen2_5_VLForConditionalGeneration": "with --converter DIR, and these parts with --converter DIR --mmproj",
    "Gemma3ForConditionalGeneration": "it has parts for images or sound",
    "SmolVLMForConditionalGeneration": "it has parts for images or sound",
    "Phi3ForCausalLM": "its layers differ from Llama's",
    "Qwen3MoeForCausalLM": "its layers have several experts",
    "MixtralForCausalLM": "its layers have several experts",
    "Lfm2ForCausalLM": "it has layers with a recurrent state",
    "XLMRobertaModel": "its encoder or its tokenizer differs from BERT's",
    "NomicBertModel": "its encoder or its tokenizer differs from BERT's",
    "Qwen2ForSequenceClassification": "its result is a class or score",
    "Gemma9ForCausalLM": "its layers differ from Llama's",
    "UnheardOfForCausalLM": "which galago cannot convert. It converts Llama",
}


@pytest.mark.parametrize("architecture", UNSUPPORTED)
def test_families_that_cannot_be_converted_are_refused_with_the_reason(tmp_path: Path, architecture: str) -> None:
    checkpoint = made(tmp_path, {"config.json": {"architectures": [architecture]}})
    with pytest.raises(ModelError, match=re.escape(UNSUPPORTED[architecture])) as caught:
        read_content(checkpoint)
    assert "as --converter DIR" in caught.value.message


REFUSED_SETTINGS: dict[str, tuple[str, dict[str, object], str]] = {
    "other layers without rope": ("SmolLM3", {"no_rope_layers": [1, 0]}, "layers other than every fourth"),
    "another interval without rope": ("SmolLM3", {"no_rope_layer_interval": 2}, "layers other than every fourth"),
    "other sliding layers": ("Gemma3", {"layer_types": ["full_attention"] * 2}, "layers other than every 6th"),
    "another sliding interval": ("Gemma3", {"sliding_window_pattern": 4}, "layers other than every 6th"),
    "another scale": ("Gemma3", {"query_pre_attn_scalar": 168}, "query_pre_attn_scalar is 168; llama.cpp uses 8"),
    "both directions": ("Gemma3", {"query_pre_attn_scalar": 8, "use_bidirectional_attention": True}, "later tokens"),
    "untied embeddings": ("Gemma2", {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}, "are not tied"),
    "another activation": ("Gemma2", {"query_pre_attn_scalar": 8, "hidden_activation": "gelu"}, "hidden_act is 'gelu'"),
    "attention to later tokens": ("Qwen2", {"is_causal": False}, "its tokens also attend to later ones"),
    "already quantized": ("Qwen2", {"quantization_config": {"quant_method": "fp8"}}, "already quantized .'fp8'"),
}


@pytest.mark.parametrize("case", REFUSED_SETTINGS)
def test_settings_that_llamacpp_does_not_know_are_refused(tmp_path: Path, case: str) -> None:
    family, settings, message = REFUSED_SETTINGS[case]
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 8}
    config = {"architectures": [f"{family}ForCausalLM"]} | sizes | settings
    with pytest.raises(ModelError, match=message):
        read_content(made(tmp_path, {"config.json": config}))


def test_granite_and_smollm3_compute_as_llama_with_their_factors(tmp_path: Path) -> None:
    tokens = [5, 260, 17, 3, 263, 90]
    weights = checkpoints.decoder(tmp_path / "c", "GraniteForCausalLM", tied=True)
    expected = checkpoints.decoder_logits(weights, tokens)
    factors = {"attention_multiplier": checkpoints.HEAD**-0.5, "embedding_multiplier": 1.0, "logits_scaling": 4.0}
    for architecture, scale in (("GraniteForCausalLM", 4.0), ("SmolLM3ForCausalLM", 1.0)):
        checkpoints.change(tmp_path / "c" / "config.json", architectures=[architecture], **factors)
        checkpoint = open_checkpoint(tmp_path / "c")
        content, vocabulary = read_content(checkpoint), read_vocabulary(checkpoint, encoder=False)
        path, metadata = tmp_path / f"{architecture}.gguf", content.metadata | vocabulary.all_metadata()
        write(path, content.architecture, metadata, content.tensors, FloatType.F32, lambda _fraction: None)
        assert np.abs(compute(Weights(path), tokens) * scale - expected).max() < 1e-3


@pytest.mark.parametrize(("family", "from_qwen"), [("Gemma2", "Qwen2"), ("Gemma3", "Qwen3")])
def test_gemma_adds_one_to_the_weights_of_its_norms(tmp_path: Path, family: str, from_qwen: str) -> None:
    settings: dict[str, Any] = {"query_pre_attn_scalar": checkpoints.HEAD, "hidden_act": "gelu_pytorch_tanh"}
    weights = checkpoints.decoder(tmp_path / "c", f"{from_qwen}ForCausalLM", tied=True, **settings)
    for layer in range(checkpoints.LAYERS):
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.full(checkpoints.WIDTH, 0.5, np.float32)
    checkpoints.safetensors(tmp_path / "c" / "model.safetensors", weights)
    checkpoints.change(tmp_path / "c" / "config.json", architectures=[f"{family}ForCausalLM"])
    outputs = {tensor.name: tensor.read(0, 4) for tensor in read_content(open_checkpoint(tmp_path / "c")).tensors}
    assert (outputs["blk.1.post_ffw_norm.weight"] == 1.5).all() and (outputs["blk.1.ffn_norm.weight"] == 1.5).all()
    expected = weights["model.layers.1.post_attention_layernorm.weight"][:4] + np.float32(1)
    assert np.array_equal(outputs["blk.1.post_attention_norm.weight"], expected)
    assert np.array_equal(outputs["blk.0.attn_q.weight"], weights["model.layers.0.self_attn.q_proj.weight"][:4])


def test_prompts_of_embedding_models_are_named(tmp_path: Path) -> None:
    checkpoint = made(
        tmp_path,
        {
            "modules.json": [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}],
            "1_Pooling/config.json": {"pooling_mode_lasttoken": True},
            "config_sentence_transformers.json": {"prompts": {"query": "Instruct: search\nQuery:", "document": ""}},
        },
    )
    assert read_pooling(checkpoint) == 3
    assert checkpoint.left_out == ["the prompts of sentence-transformers (query): put them before texts"]


@pytest.mark.parametrize(
    ("settings", "lowercases", "expected"),
    [
        ({"max_seq_length": 512, "do_lower_case": False}, False, []),
        ({"max_seq_length": 256}, True, ["max_seq_length 256 of sentence_bert_config.json: texts of up to 512 tokens"]),
        ({"max_seq_length": None, "do_lower_case": True}, True, []),
        ({"do_lower_case": True}, False, ["do_lower_case of sentence_bert_config.json: write texts in lower case"]),
        ("{", False, ["sentence_bert_config.json, which cannot be used (sentence_bert_config.json: is not JSON"]),
    ],
)
def test_how_sentence_transformers_reads_texts_is_named_if_it_is_lost(
    settings: object, lowercases: bool, expected: list[str], tmp_path: Path
) -> None:
    checkpoint = made(tmp_path, {"sentence_bert_config.json": settings})
    note_reading_settings(checkpoint, Vocabulary([], [], {"tokenizer.ggml.normalizer.lowercase": lowercases}), 512)
    assert len(checkpoint.left_out) == len(expected)
    assert all(line.startswith(text) for line, text in zip(checkpoint.left_out, expected, strict=True))


def test_code_that_a_checkpoint_brings_is_named(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c", "Qwen2ForCausalLM", auto_map={"AutoModel": "modeling_own.Model"})
    checkpoint = open_checkpoint(tmp_path / "c")
    read_content(checkpoint)
    assert "the checkpoint's own code (auto_map in config.json)" in checkpoint.left_out[0]


def test_added_tokens_without_embeddings_are_left_out(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c", "Qwen2ForCausalLM")
    path = tmp_path / "c" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(checkpoints.filled({"id": 300, "content": "<image>", "special": True}))
    path.write_text(json.dumps(tokenizer))
    checkpoint = open_checkpoint(tmp_path / "c")
    vocabulary = read_vocabulary(checkpoint, encoder=False)
    assert len(vocabulary.tokens) == checkpoints.size_of(checkpoints.bpe()) and "<image>" not in vocabulary.tokens
    assert checkpoint.left_out == ["added tokens for which the model has no embeddings (1): '<image>'"]
