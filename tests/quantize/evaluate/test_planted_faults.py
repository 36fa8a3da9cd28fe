"""Faults that measuring text alone would miss: ignored media, damaged layers, mismatched projectors, one answer to all.

Each is planted in a copy of the built-in model and evaluated as a variant of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fakes.heldout import part_of_heldout
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate import runtime_cost
from galago.quantize.evaluate.evaluation import EvaluationPlan, evaluate
from galago.quantize.evaluate.variant_grid import ModelVariant, VariantFile
from galago.quantize.evaluate.verdict import Constraints, recommend
from galago.runtime.llamacpp.weights import Weights

TEXT, PROJECTOR = builtin_folder() / "text-F16.gguf", builtin_folder() / "mmproj-F16.gguf"


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copies a GGUF file and changes its tensors in place."""
    shutil.copy(source, target)
    change({tensor.name: tensor.data for tensor in gguf.GGUFReader(target, "r+").tensors})
    return target


def zero(tensors: dict[str, Any], begin: str) -> None:
    for name, data in tensors.items():
        if name.startswith(begin):
            data[:] = 0


def one_bit(tensors: dict[str, Any]) -> None:
    """Rounds every matrix of the image encoder to signs with one shared magnitude."""
    for name, data in tensors.items():
        if name.startswith(("v.", "mm.model")) and name.endswith("weight") and data.ndim >= 2:
            data[:] = (np.sign(data) * np.abs(data.astype(np.float32)).mean()).astype(data.dtype)


def shuffled(tensors: dict[str, Any]) -> None:
    """Shuffles the weights, like a projector of the right shape made for another model."""
    for name in ("mm.model.mlp.1.weight", "mm.model.mlp.3.weight"):
        flat = tensors[name].reshape(-1)
        flat[:] = np.random.default_rng(0).permutation(flat)


def affirmative(tensors: dict[str, Any], chain: list[int]) -> None:
    """Makes each token of `chain` predict the next one, whatever comes before.

    Layers add nothing, so the logits are products of embeddings. Token i is 3^i (d[i-1] + d[i]) with orthogonal d, so
    its product with the next token is three times that with itself, and zero with all others.
    """
    for name, data in tensors.items():
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            data[:] = 0
    tensors["output_norm.weight"][:] = 1
    embeddings = tensors["token_embd.weight"]
    embeddings[:] = 0
    for i, token in enumerate(chain):
        embeddings[token, i : i + 2] = 3.0**i
    embeddings[chain[0], 0] = 0


def without_marker(source: Path, target: Path) -> Path:
    """Makes the chat template drop the media markers."""
    template = str(gguf.GGUFReader(source).fields["tokenizer.chat_template"].contents())
    start, end = template.index("{%- if tools %}"), template.index("{%- for m in messages %}")
    changed = template[:start] + template[end:].replace("m['content']", "m['content']|replace('\ufdd1','')", 1)
    room = len(template.encode()) - len(changed.encode())
    assert room >= 4 and changed.count("replace") == 1
    data = source.read_bytes()
    assert data.count(template.encode()) == 1
    target.write_bytes(data.replace(template.encode(), changed.encode() + b"{#" + b" " * (room - 4) + b"#}"))
    return target


def yes_chain() -> list[int]:
    """Returns the last token of a prompt, the tokens of "Yes.", and the end-of-turn token."""
    weights = Weights(TEXT, gpu_layers=0)
    chain = [weights.tokenize("<|im_start|>assistant\n", parse_special=True)[-1]]
    chain += [*weights.tokenize("Yes.", parse_special=False), weights.eos]
    weights.close()
    assert len(set(chain)) == len(chain)
    return chain


FAULTS = ("no audio", "one bit", "image layer", "audio layer", "wrong projector", "no marker", "yes")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("faults")
    projector_faults = {
        "no audio": lambda tensors: zero(tensors, "a."),
        "one bit": one_bit,
        "image layer": lambda tensors: zero(tensors, "v.blk.1."),
        "audio layer": lambda tensors: zero(tensors, "a.blk.1."),
        "wrong projector": shuffled,
    }
    whole = (VariantFile("text", TEXT), VariantFile("projector", PROJECTOR))
    variant_pairs = [ModelVariant(*whole)]
    for name, change in projector_faults.items():
        path = changed(PROJECTOR, folder / f"{name}.gguf", change)
        variant_pairs.append(ModelVariant(whole[0], VariantFile(name, path)))
    chain = yes_chain()
    texts = {
        "no marker": without_marker(TEXT, folder / "no marker.gguf"),
        "yes": changed(TEXT, folder / "yes.gguf", lambda tensors: affirmative(tensors, chain)),
    }
    variant_pairs += [ModelVariant(VariantFile(name, path), whole[1]) for name, path in texts.items()]
    questions = part_of_heldout(folder / "asked.zip", 12, ("text", "image", "speech"))
    plan = EvaluationPlan(variant_pairs, [questions], folder / "work", rounds=1, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_cost, "measure", lambda *_: {"decode_tokens_per_second": 9.0})
        results = evaluate(plan, lambda *_: None)["variants"]
    return dict(zip(("whole", *FAULTS), results, strict=True))


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ("no audio", ["ignores audio although its text is good"]),
        ("one bit", ["ignores images although its text is good"]),
        ("image layer", ["ignores images although its text is good"]),
        ("audio layer", []),
        ("wrong projector", ["ignores images although its text is good"]),
        ("no marker", ["fails on 100% of the questions on images", "fails on 100% of the questions on audio"]),
        ("yes", ["gives one and the same answer to 100% of questions on images"]),
    ],
)
def test_a_fault_is_reported_and_not_recommended(
    variants: dict[str, dict[str, Any]], fault: str, messages: list[str]
) -> None:
    whole, hurt = variants["whole"], variants[fault]
    assert not whole["warnings"]
    assert set(hurt["warnings"]) or fault == "audio layer"  # on so few questions its 8 points fewer may be chance
    for text in messages:
        assert any(text in warning for warning in hurt["warnings"]), hurt["warnings"]
    smaller = hurt | {"bytes": hurt["bytes"] // 2}
    assert recommend([whole, smaller], whole, Constraints())["variant"] == whole["name"]


def test_undamaged_modalities_are_not_blamed(variants: dict[str, dict[str, Any]]) -> None:
    assert not any("audio" in warning for warning in variants["one bit"]["warnings"])
    assert not any("images" in warning for warning in variants["no audio"]["warnings"])
    assert variants["wrong projector"]["fidelity"]["text"]["kl_mean"] == 0
