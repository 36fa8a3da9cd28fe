"""LoRA adapters in the forms that PEFT writes change a model as PEFT does, or are refused with advice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import checkpoints
from fakes.checkpoints import INNER, LAYERS, WIDTH
from galago.models.errors import ConfigError, ModelError
from galago.models.gguf.reader import read_header
from galago.quantize.convert.conversion import ConversionResult, convert_checkpoint
from galago.quantize.convert.gguf_writer import FloatType
from galago.quantize.convert.lora import convert_adapter, is_adapter
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.lora import LoraAdapter
from galago.runtime.llamacpp.reference import compute
from galago.runtime.llamacpp.weights import Weights

Arrays = checkpoints.Weights
TOKENS = [5, 260, 17, 3, 263, 90, 91, 92, 1, 40]
VOCABULARY = checkpoints.size_of(checkpoints.sentence_piece())
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
    "lm_head": (VOCABULARY, WIDTH),
    "embed_tokens": (WIDTH, VOCABULARY),  # of the change to the transposed matrix
}


def module(name: str, layer: int) -> str:
    return {"lm_head": "lm_head", "embed_tokens": "model.embed_tokens"}.get(name, f"model.layers.{layer}.{name}")


def matrices(names: tuple[str, ...], rank: int = 3, **ranks: int) -> Arrays:
    """The tensors of an adapter that changes these modules, in all layers."""
    random = np.random.default_rng(5)
    result: Arrays = {}
    for layer in range(LAYERS):
        for name in names:
            rows, columns = SHAPES[name]
            own = ranks.get(name.split(".")[-1], rank)
            a, b = random.standard_normal((own, columns)) / 4, random.standard_normal((rows, own)) / 4
            at = f"base_model.model.{module(name, layer)}.lora_"
            kinds = ("embedding_A", "embedding_B") if name == "embed_tokens" else ("A.weight", "B.weight")
            result |= {f"{at}{kinds[0]}": a.astype(np.float32), f"{at}{kinds[1]}": b.astype(np.float32)}
    return result


def merged(weights: Arrays, adapter: Arrays, scales: dict[str, float]) -> Arrays:
    """The model's weights with the adapter's changes, `scales` times B·A, by the last part of the module's name."""
    changed = dict(weights)
    for name, values in weights.items():
        path = name.removesuffix(".weight")
        scale = scales.get(path.split(".")[-1], scales[""])
        at = f"base_model.model.{path}.lora_"
        if f"{at}A.weight" in adapter:
            product = adapter[f"{at}B.weight"] @ adapter[f"{at}A.weight"]
            changed[name] = np.asarray(values + scale * product, np.float32)
        elif f"{at}embedding_A" in adapter:
            product = (adapter[f"{at}embedding_B"] @ adapter[f"{at}embedding_A"]).T
            changed[name] = np.asarray(values + scale * product, np.float32)
    return changed


def write(folder: Path, tensors: Arrays, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    checkpoints.safetensors(folder / "adapter_model.safetensors", tensors)
    usual = {"peft_type": "LORA", "lora_alpha": 6, "r": 3, "bias": "none", "base_model_name_or_path": "acme/base"}
    (folder / "adapter_config.json").write_text(json.dumps(usual | settings))
    return folder


def run(folder: Path, base: Path, strict: bool = False) -> ConversionResult:
    target = folder.parent / "adapter.gguf"
    return convert_adapter(folder, base, target, FloatType.F32, False, no_progress, strict)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "base"
    checkpoints.decoder(folder)
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> Iterator[Weights]:
    made = convert_checkpoint(base, base.with_name("m.gguf"), FloatType.F32, False, False, no_progress)
    weights = Weights(made.path)
    yield weights
    weights.close()


def named(adapter: Arrays) -> Arrays:
    return {re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", name): values for name, values in adapter.items()}


def unprefixed(adapter: Arrays) -> Arrays:
    return {name.replace("base_model.model.model.", "base_model.model."): values for name, values in adapter.items()}


def unchanged(adapter: Arrays) -> Arrays:
    return adapter


BOTH = ("self_attn.q_proj", "mlp.down_proj")

EQUAL: dict[
    str, tuple[tuple[str, ...], dict[str, int], dict[str, Any], dict[str, float], Callable[[Arrays], Arrays]]
] = {
    "plain": (BOTH, {}, {}, {"": 2.0}, unchanged),
    "rank-stabilized": (BOTH, {}, {"use_rslora": True}, {"": 6 / 3**0.5}, unchanged),
    "another rank": (BOTH, {"q_proj": 2}, {"rank_pattern": {"q_proj": 2}}, {"": 2.0, "q_proj": 3.0}, unchanged),
    "another rank, rank-stabilized": (
        BOTH,
        {"q_proj": 2},
        {"rank_pattern": {"q_proj": 2}, "use_rslora": True},
        {"": 6 / 3**0.5, "q_proj": 6 / 2**0.5},
        unchanged,
    ),
    "another alpha": (
        BOTH,
        {},
        {"alpha_pattern": {"^model.layers.[01].mlp.down_proj": 12}},
        {"": 2.0, "down_proj": 4.0},
        unchanged,
    ),
    "another rank and alpha": (
        BOTH,
        {"down_proj": 4},
        {"rank_pattern": {r".*\.(up|down)_proj": 4}, "alpha_pattern": {"mlp.down_proj": 10}},
        {"": 2.0, "down_proj": 2.5},
        unchanged,
    ),
    "an adapter's name in the tensors' names": (BOTH, {}, {}, {"": 2.0}, named),
    "made for the model without its head": (BOTH, {}, {}, {"": 2.0}, unprefixed),
    "some layers": (
        BOTH,
        {},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"": 2.0},
        lambda adapter: {name: values for name, values in adapter.items() if ".1." in name},
    ),
    "the output matrix": ((*BOTH, "lm_head"), {}, {}, {"": 2.0}, unchanged),
    "the embeddings": ((*BOTH, "embed_tokens"), {}, {}, {"": 2.0}, unchanged),
    "both, of other ranks": (
        ("lm_head", "embed_tokens"),
        {"lm_head": 5},
        {"rank_pattern": {"lm_head": 5}, "alpha_pattern": {"embed_tokens": 3}},
        {"": 2.0, "lm_head": 1.2, "embed_tokens": 1.0},
        unchanged,
    ),
}


@pytest.mark.parametrize("case", EQUAL)
def test_an_adapter_changes_logits_as_peft_does(tmp_path: Path, base: Path, model: Weights, case: str) -> None:
    names, ranks, settings, scales, change = EQUAL[case]
    adapter = matrices(names, **ranks)
    if case == "some layers":
        adapter = change(adapter)
    result = run(write(tmp_path / "lora", change(adapter), **settings), base, strict=True)
    loaded = LoraAdapter(result.path, model)
    ours = compute(model, TOKENS, [loaded])
    loaded.close()
    weights = checkpoints.decoder(tmp_path / "again")
    theirs = checkpoints.decoder_logits(merged(weights, adapter, scales), TOKENS)
    assert np.abs(ours - theirs).max() < 1e-3 < np.abs(theirs - checkpoints.decoder_logits(weights, TOKENS)).max()


ONE = matrices(("self_attn.q_proj",))

REFUSED: dict[str, tuple[dict[str, Any], Callable[[Arrays], Arrays], str]] = {
    "PiSSA": ({"init_lora_weights": "pissa"}, unchanged, "path_initial_model_for_weight_conversion=INITIAL"),
    "PiSSA by iterations": ({"init_lora_weights": "pissa_niter_16"}, unchanged, "does not fit the original model"),
    "OLoRA": ({"init_lora_weights": "olora"}, unchanged, "initialized with 'olora'"),
    "CorDA": ({"init_lora_weights": "corda"}, unchanged, "initialized with 'corda'"),
    "LoftQ": ({"init_lora_weights": "loftq"}, unchanged, "initialized with 'loftq'"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, unchanged, "initialized with 'lora_ga'"),
    "DoRA": ({"use_dora": True}, unchanged, r"uses use_dora True.*merge_and_unload\(\)"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, unchanged, r"uses modules_to_save.*merge_and_unload\(\)"),
    "parameters": ({"target_parameters": ["experts.up"]}, unchanged, "uses target_parameters"),
    "activated LoRA": ({"alora_invocation_tokens": [3]}, unchanged, "activated LoRA.*cannot be merged"),
    "KaSA": ({"kasa_config": {"beta": 1}}, unchanged, "uses kasa_config"),
    "no effect": ({"lora_alpha": 0}, unchanged, "changes nothing"),
    "made by MLX": ({"peft_type": None, "lora_parameters": {"rank": 8}}, unchanged, "made by MLX; fuse it"),
    "a rank that the settings do not say": ({"r": 4}, unchanged, "has the rank 3, but the settings say 4"),
    "a pattern that never ends": ({"alpha_pattern": {"(a+)+b": 3}}, unchanged, "is too complex"),
    "a pattern that is none": ({"alpha_pattern": {"(": 3}}, unchanged, "not a regular expression"),
    "two adapters": ({}, lambda a: a | named(matrices(("mlp.down_proj",))), "several adapters"),
    "a norm": (
        {},
        lambda a: a | {"base_model.model.model.norm.weight": np.ones(WIDTH, np.float32)},
        "changes 'base_model.model.model.norm.weight'",
    ),
    "a layer that the model lacks": (
        {},
        lambda a: {name.replace("layers.1.", "layers.7."): values for name, values in a.items()},
        "changes 'base_model.model.model.layers.7",
    ),
    "trained embeddings": (
        {},
        lambda a: a | {"base_model.model.model.embed_tokens.weight": np.ones((VOCABULARY, WIDTH), np.float32)},
        r"replaces the model's .*merge_and_unload\(\)",
    ),
    "more embeddings": (
        {},
        lambda a: a | {"base_model.model.lm_head.base_layer.weight": np.ones((VOCABULARY + 1, WIDTH), np.float32)},
        "replaces the model's",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_gguf_cannot_express_are_refused_with_what_to_do(tmp_path: Path, base: Path, case: str) -> None:
    settings, change, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        run(write(tmp_path / "lora", change(dict(ONE)), **settings), base)
    assert not list(tmp_path.glob("*.gguf*"))


TIED: dict[str, dict[str, Any]] = {
    "by its config": {"tied": True},
    "as a model without a head": {"architectures": ["LlamaModel"]},
    "by default": {"architectures": ["Gemma2ForCausalLM"], "tie_word_embeddings": None},
}


@pytest.mark.parametrize("case", TIED)
@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_an_adapter_of_tied_embeddings_is_refused(tmp_path: Path, name: str, case: str) -> None:
    checkpoints.decoder(tmp_path / "base", **TIED[case])
    with pytest.raises(ModelError, match=f"changes .*{name}.* also uses its embeddings as its output matrix"):
        run(write(tmp_path / "lora", matrices((name,))), tmp_path / "base")


NAMED: dict[str, tuple[dict[str, Any], bool, str]] = {
    "harmless initializations": ({"init_lora_weights": "gaussian"}, False, ""),
    "settings of training": (
        {"lora_dropout": 0.1, "target_modules": ["q_proj"], "runtime_config": {"a": 1}},
        False,
        "",
    ),
    "a setting of a later PEFT": ({"use_magic": True}, False, "the setting 'use_magic'"),
    "a setting of a later PEFT that is off": ({"use_magic": False, "magic_config": {}}, False, ""),
    "an initialization of a later PEFT": ({"init_lora_weights": "magic"}, False, "the initialization 'magic'"),
    "a copy of the model's embeddings": ({}, True, ""),
}


@pytest.mark.parametrize("case", NAMED)
def test_what_may_change_an_adapter_and_is_unknown_is_named(tmp_path: Path, base: Path, case: str) -> None:
    settings, with_copy, text = NAMED[case]
    tensors = dict(ONE)
    if with_copy:
        stored = checkpoints.decoder(tmp_path / "again")["model.embed_tokens.weight"]
        tensors["base_model.model.model.embed_tokens.base_layer.weight"] = stored
    folder = write(tmp_path / "lora", tensors, **settings)
    result = run(folder, base)
    metadata = read_header(result.path).metadata
    assert text in " ".join(result.left_out) and bool(text) == bool(result.left_out)
    assert metadata.get("galago.left_out", ()) == result.left_out and metadata["galago.made_from"] == "lora"
    result.path.unlink()
    if text:
        with pytest.raises(ConfigError, match="nothing was converted"):
            run(folder, base, strict=True)


def test_a_model_beside_an_adapter_is_named(tmp_path: Path, base: Path) -> None:
    checkpoints.decoder(tmp_path / "lora")
    result = run(write(tmp_path / "lora", ONE), base)
    assert len(result.left_out) == 1 and result.left_out[0].startswith("the file model.safetensors: ")


def test_a_merged_model_that_kept_its_adapters_settings_is_a_model(tmp_path: Path) -> None:
    folder = write(tmp_path / "lora", ONE)
    assert is_adapter(folder)
    (folder / "config.json").write_text("{}")  # PEFT writes none, but users copy the model's
    assert is_adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    assert not is_adapter(folder)


def test_a_copy_of_embeddings_is_named_if_it_cannot_be_compared(tmp_path: Path, base: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.json").write_bytes((base / "config.json").read_bytes())
    copy = {"base_model.model.lm_head.base_layer.weight": np.ones((VOCABULARY, WIDTH), np.float32)}
    result = run(write(tmp_path / "lora", ONE | copy), config)
    assert "lm_head.base_layer.weight': --base has no weights to compare it with" in result.left_out[0]


@pytest.mark.parametrize("is_own", [False, True])
def test_a_chat_template_of_the_adapters_own_is_named(tmp_path: Path, base: Path, is_own: bool) -> None:
    folder = write(tmp_path / "lora", ONE)
    source = "own {{ messages }}" if is_own else "{{ messages }}"  # the model's
    (folder / "chat_template.jinja").write_text(source)
    left_out = run(folder, base).left_out
    assert bool(left_out) == is_own and ("own chat template" in " ".join(left_out)) == is_own
