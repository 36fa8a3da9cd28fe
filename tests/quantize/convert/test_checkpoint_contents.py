"""What checkpoints hold in older and other forms is converted as transformers reads it, or named as left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import checkpoints
from galago.models.errors import ConfigError
from galago.models.gguf.header import END_TOKENS_KEY
from galago.models.gguf.reader import read_header
from galago.quantize.convert.architectures import read_content
from galago.quantize.convert.chat_templates import read_templates
from galago.quantize.convert.checkpoint import Checkpoint, open_checkpoint
from galago.quantize.convert.conversion import convert_checkpoint
from galago.quantize.convert.end_tokens import read_end_tokens
from galago.quantize.convert.gguf_writer import FloatType
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.weights import Weights

Arrays = checkpoints.Weights
TOKENS = ["a", "<|im_end|>", "<|eot_id|>", "<fin>", "<fim>", "<|end|>", "<terminé>", "<kết>"]


def made(folder: Path, files: dict[str, object]) -> Checkpoint:
    """A checkpoint of JSON and text files without weights."""
    for name, content in ({"config.json": {"vocab_size": len(TOKENS)}} | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Checkpoint(folder, open_config(folder), {}, ())


def open_config(folder: Path) -> Any:
    from galago.quantize.convert.json_config import read_json

    return read_json(folder / "config.json")


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
    with pytest.raises(ConfigError, match=r"the file would lack the file other.safetensors.*without --strict"):
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
