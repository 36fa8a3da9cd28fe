"""Converted Hugging Face checkpoints compute and tokenize as the originals do; damaged ones are refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest

from fakes import checkpoints
from galago.models.errors import ConfigError, ModelError
from galago.models.gguf.reader import read_header
from galago.models.kept_file import TEMPORARY_SUFFIX
from galago.quantize.convert import pretokenizers
from galago.quantize.convert.conversion import ConversionResult, convert_checkpoint
from galago.quantize.convert.gguf_content import OutputTensor
from galago.quantize.convert.gguf_writer import CHUNK_WEIGHTS, FloatType, bfloat16_bits, write
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.reference import compute
from galago.runtime.llamacpp.weights import Weights

TOKENS = [5, 260, 17, 3, 263, 90, 91, 92, 1, 40]


def run(folder: Path, kind: FloatType = FloatType.F32, force: bool = False) -> ConversionResult:
    return convert_checkpoint(folder, folder.parent / "made.gguf", kind, force, False, no_progress)


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("architecture", [f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2", "Qwen3")])
def test_a_converted_model_computes_the_same_logits_as_the_checkpoint(tmp_path: Path, architecture: str) -> None:
    weights = checkpoints.decoder(tmp_path / "c", architecture, tied=architecture == "Qwen3ForCausalLM")
    result = run(tmp_path / "c")
    ours, theirs = compute(Weights(result.path), TOKENS), checkpoints.decoder_logits(weights, TOKENS)
    assert np.abs(ours - theirs).max() < 1e-3 < theirs.std()
    assert result.selftest.texts > 30 and not result.selftest.mismatches


def test_a_converted_encoder_keeps_tokens_weights_and_pooling(tmp_path: Path) -> None:
    weights = checkpoints.bert(tmp_path / "c")
    result = run(tmp_path / "c", FloatType.F16)
    assert result.architecture == "bert" and result.selftest.texts > 30 and not result.notes
    assert result.left_out == ("the heads cls and pooler (2 tensors): text vectors need none",)
    header = read_header(result.path)
    assert header.metadata["bert.pooling_type"] == 2 and header.metadata["bert.attention.causal"] is False
    stored = tensors(result.path)
    table = weights["bert.embeddings.position_embeddings.weight"]
    assert np.array_equal(stored["position_embd.weight"].data, table)  # always F32
    query = weights["bert.encoder.layer.1.attention.self.query.weight"].astype(np.float16)
    assert np.array_equal(stored["blk.1.attn_q.weight"].data, query)
    assert compute(Weights(result.path), [2, 8, 9, 3]).shape == (4, checkpoints.WIDTH)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", list(FloatType))
def test_every_number_format_can_be_read_and_written(tmp_path: Path, dtype: str, kind: FloatType) -> None:
    weights = checkpoints.decoder(tmp_path / "c", dtype=dtype)
    run(tmp_path / "c", kind)
    data = checkpoints.stored_as(weights["lm_head.weight"], dtype)
    if dtype == "BF16":
        source = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        source = np.frombuffer(data, np.float16 if dtype == "F16" else np.float32).astype(np.float32)
    stored = tensors(tmp_path / "made.gguf")["output.weight"]
    assert stored.tensor_type.name == kind.name
    values = gguf.quants.dequantize(stored.data, stored.tensor_type).ravel()
    exact = kind is FloatType.F32 or kind.name == dtype
    assert np.array_equal(values, source) if exact else np.allclose(values, source, rtol=2**-8, atol=1e-6)


def test_bfloat16_rounds_ties_to_even(tmp_path: Path) -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 1e-40, 0.0], np.float32)
    assert np.array_equal(
        bfloat16_bits(values), gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16).view(np.uint16)
    )


def test_sharded_checkpoints_are_converted(tmp_path: Path) -> None:
    weights = checkpoints.decoder(tmp_path / "c")
    whole = {name: tensor.data.copy() for name, tensor in tensors(run(tmp_path / "c").path).items()}
    names = sorted(weights)
    (tmp_path / "c" / "model.safetensors").unlink()
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: weights[name] for name in names if places[name] == shard}
        checkpoints.safetensors(tmp_path / "c" / shard, part)
    index = tmp_path / "c" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    again = tensors(run(tmp_path / "c", force=True).path)
    assert all(np.array_equal(again[name].data, data) for name, data in whole.items())

    index.write_text(json.dumps({"weight_map": places | {names[0]: "../model-0.safetensors"}}))
    with pytest.raises(ModelError, match="which is outside this folder"):
        run(tmp_path / "c", force=True)
    index.write_text(json.dumps({"weight_map": places | {"made.up": "model-0.safetensors"}}))
    with pytest.raises(ModelError, match="'made.up' is not in model-0"):
        run(tmp_path / "c", force=True)


def test_the_file_records_its_provenance_template_and_sampling(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c", "Qwen2ForCausalLM")
    (tmp_path / "c" / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.5, "top_k": 9})
    )
    header = read_header(run(tmp_path / "c").path)
    (source,) = cast(tuple[str], header.metadata["galago.convert.source"])
    assert re.fullmatch(r"model.safetensors sha256:[0-9a-f]{64}", source)
    assert header.metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert header.metadata["general.sampling.temp"] == 0.5 and header.metadata["general.sampling.top_k"] == 9
    weights = Weights(tmp_path / "made.gguf")
    assert weights.text_of(weights.eos) == "<|im_end|>" and not weights.adds_bos
    assert weights.control_texts == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert weights.user_defined_texts == ("<think>",)


def test_padding_rows_of_the_embeddings_become_unused_tokens(tmp_path: Path) -> None:
    size = checkpoints.size_of(checkpoints.sentence_piece())
    weights = checkpoints.decoder(tmp_path / "c", vocab_size=size + 5)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = np.concatenate([weights[name], weights[name][:5]])
    checkpoints.safetensors(tmp_path / "c" / "model.safetensors", weights)
    result = run(tmp_path / "c")
    assert Weights(result.path).vocab_size == size + 5 and not result.selftest.mismatches


def test_a_sliding_window_limits_the_context(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c", "MistralForCausalLM", sliding_window=100)
    result = run(tmp_path / "c")
    assert read_header(result.path).metadata["llama.context_length"] == 100
    assert "the context beyond 100 tokens (of 256)" in result.left_out[0]


def test_rope_scaling_is_converted(tmp_path: Path) -> None:
    llama3 = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    checkpoints.decoder(tmp_path / "c", rope_scaling=llama3)
    factors = tensors(run(tmp_path / "c").path)["rope_freqs.weight"].data
    assert factors[0] == 1 and factors[-1] == 8 and (np.diff(factors) >= 0).all()
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.0}
    checkpoints.change(tmp_path / "c" / "config.json", rope_scaling=yarn)
    header = read_header(run(tmp_path / "c", force=True).path)
    assert header.metadata["llama.rope.scaling.type"] == "yarn"
    assert header.metadata["llama.rope.scaling.attn_factor"] == pytest.approx(1 / 1.1386, rel=1e-4)


def test_tensors_are_converted_in_bounded_chunks(tmp_path: Path) -> None:
    rows, read = 3 * CHUNK_WEIGHTS // checkpoints.WIDTH, []

    def rows_of(begin: int, end: int) -> np.ndarray:
        read.append((begin, end))
        return np.zeros((end - begin, checkpoints.WIDTH), np.float32)

    target = OutputTensor("t", (rows, checkpoints.WIDTH), rows_of, row_step=24)
    write(tmp_path / "t.gguf", "llama", {}, [target], FloatType.F16, lambda _share: None)
    assert all((end - begin) * checkpoints.WIDTH <= CHUNK_WEIGHTS and begin % 24 == 0 for begin, end in read)
    assert read_header(tmp_path / "t.gguf").tensors[0].shape == (checkpoints.WIDTH, rows) and read[-1][1] == rows


def edit_config(**entries: Any) -> Any:
    return lambda folder: checkpoints.change(folder / "config.json", **entries)


def edit_tokenizer(edit: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        edit(tokenizer)
        path.write_text(json.dumps(tokenizer))

    return change


def edit_weights(edit: Any) -> Any:
    def change(folder: Path) -> None:
        weights = checkpoints.decoder_weights(checkpoints.size_of(checkpoints.bpe()), False, True, False)
        edit(weights)
        checkpoints.safetensors(folder / "model.safetensors", weights)

    return change


def use_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def poison(weights: checkpoints.Weights, value: float = np.nan) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value


WRONG = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "pickle": (use_pickle, "a pickle, which can run any code"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "truncated": (truncate, "truncated; download it again"),
    "NaN": (edit_weights(poison), "mlp.up_proj.weight' contains NaN or infinity"),
    "too large for f16": (
        edit_weights(lambda w: poison(w, 1e6)),
        "1e.06, which is too large for f16",
    ),
    "missing tensor": (edit_weights(lambda w: w.pop("model.norm.weight")), "tensor model.norm.weight is missing"),
    "other shape": (
        edit_weights(lambda w: w.update({"model.norm.weight": np.ones(31, np.float32)})),
        r"has the shape \[31\], but config.json implies \[32\]",
    ),
    "unknown tensor": (
        edit_weights(lambda w: w.update(extra=np.ones(2, np.float32))),
        "1 tensors are unknown.*'extra'",
    ),
    "unknown family": (edit_config(architectures=["Gemma9ForCausalLM"]), "as --converter DIR"),
    "no family": (edit_config(architectures=None), "names no architecture"),
    "quantized": (edit_config(quantization_config={"quant_method": "gptq"}), "already quantized .*gptq"),
    "unknown RoPE scaling": (
        edit_config(rope_scaling={"rope_type": "longrope"}),
        "'longrope' is not supported",
    ),
    "unknown activation": (edit_config(hidden_act="relu"), "hidden_act is 'relu'"),
    "too many layers": (edit_config(num_hidden_layers=100000), "num_hidden_layers is 100000"),
    "a size that is text": (edit_config(hidden_size="32"), "hidden_size is '32', not a positive whole number"),
    "heads that do not divide the width": (edit_config(num_attention_heads=5), "do not divide"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json: is not JSON"),
    "deeply nested JSON": (lambda f: (f / "config.json").write_text("[" * 10**6), "config.json: is not JSON"),
    "unknown pre-tokenizer": (
        edit_tokenizer(lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "\\w+"})),
        "splitting text into words is not supported",
    ),
    "unknown ignore_merges": (
        edit_tokenizer(lambda t: t["model"].update(ignore_merges=True)),
        "not supported, with ignore_merges",
    ),
    "normalizer": (
        edit_tokenizer(lambda t: t.update(normalizer={"type": "NFKC"})),
        "rewrites text before splitting",
    ),
    "another kind of tokenizer": (edit_tokenizer(lambda t: t["model"].update(type="Unigram")), "of kind 'Unigram'"),
    "two tokens with one id": (edit_tokenizer(lambda t: t["model"]["vocab"].update(zz=3)), "share the id 3"),
    "an id beyond the vocabulary": (
        edit_tokenizer(lambda t: t["model"]["vocab"].update(zz=9999)),
        "allows 268 tokens",
    ),
    "unknown special token": (
        lambda f: checkpoints.change(f / "tokenizer_config.json", eos_token="<none>"),
        "eos_token is '<none>', which is not a token",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_unsupported_checkpoints_are_refused_without_leftover_files(tmp_path: Path, wrong: str) -> None:
    folder = tmp_path / "c"
    checkpoints.decoder(folder, "Qwen2ForCausalLM")
    (tmp_path / "made.gguf").write_bytes(b"existing file")
    spoil, message = WRONG[wrong]
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        run(folder, FloatType.F16, force=True)
    assert (tmp_path / "made.gguf").read_bytes() == b"existing file"
    assert {path.name for path in tmp_path.iterdir()} == {"c", "made.gguf"}


def test_a_tokenizer_that_llamacpp_gets_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.decoder(tmp_path / "c", "Qwen2ForCausalLM")
    path = tmp_path / "c" / "tokenizer.json"
    path.write_text(path.read_text().replace('"ic', '"22').replace('"i", "c"', '"2", "2"'))
    run(tmp_path / "c")
    known = dict.fromkeys(
        pretokenizers._KNOWN, "gpt-2"
    )  # which keeps 22 as one word, where Qwen2 splits between digits
    monkeypatch.setattr(pretokenizers, "_KNOWN", known)
    with pytest.raises(ModelError, match="texts differently from the original tokenizer"):
        convert_checkpoint(tmp_path / "c", tmp_path / "other.gguf", FloatType.F32, False, False, no_progress)
    assert not (tmp_path / "other.gguf").exists()


def test_a_disk_that_is_too_full_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.decoder(tmp_path / "c")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10**7))
    with pytest.raises(ConfigError, match="only 0.01 GB are free in"):
        run(tmp_path / "c")


def galago(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_converts_and_replaces_a_file_only_with_force(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c", "Qwen3ForCausalLM", tied=True)
    checkpoints.safetensors(tmp_path / "c" / "other.safetensors", {})
    target = tmp_path / "made.gguf"
    done = galago(tmp_path / "c", "-o", target, "--type", "bf16")
    assert done.returncode == 0, done.stderr
    assert "galago: left out: the file other.safetensors: the weights are in model.safetensors" in done.stderr
    assert re.search(r"made.gguf: qwen3, 24 tensors, .*\n.*\n  tokenizes (\d+) of \1 texts exactly", done.stdout)
    again = galago(tmp_path / "c", "-o", target)
    assert again.returncode == 1 and "already exists; use --force to replace it" in again.stderr
    forced = galago(tmp_path / "c", "-o", target, "--force", "--json")
    assert json.loads(forced.stdout)["architecture"] == "qwen3" and forced.returncode == 0
    assert tensors(target)["blk.0.attn_q.weight"].tensor_type.name == "F16"


def test_a_file_left_by_a_killed_run_is_deleted(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c")
    (tmp_path / f".made.gguf.x{TEMPORARY_SUFFIX}").write_bytes(b"left by a killed run")
    run(tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"c", "made.gguf"}
