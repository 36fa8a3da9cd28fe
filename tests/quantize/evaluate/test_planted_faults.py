"""Variants that a look at their text would pass: blind, deaf, hurt, mismatched or with one answer to everything.

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
from galago.quantize.evaluate.combinations import Combination, File
from galago.quantize.evaluate.evaluation import EvaluationPlan, evaluate
from galago.quantize.evaluate.verdict import Constraints, recommend
from galago.runtime.llamacpp.weights import Weights

TEXT, EYES = builtin_folder() / "text-F16.gguf", builtin_folder() / "mmproj-F16.gguf"


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a GGUF file whose tensors are changed in place."""
    shutil.copy(source, target)
    change({tensor.name: tensor.data for tensor in gguf.GGUFReader(target, "r+").tensors})
    return target


def silence(tensors: dict[str, Any], begin: str) -> None:
    for name, data in tensors.items():
        if name.startswith(begin):
            data[:] = 0


def one_bit(tensors: dict[str, Any]) -> None:
    """Every matrix of the eyes rounded to a sign and a size that all of it shares."""
    for name, data in tensors.items():
        if name.startswith(("v.", "mm.model")) and name.endswith("weight") and data.ndim >= 2:
            data[:] = (np.sign(data) * np.abs(data.astype(np.float32)).mean()).astype(data.dtype)


def shuffled(tensors: dict[str, Any]) -> None:
    """A projector of the right shape that was made for another model: the same numbers, elsewhere."""
    for name in ("mm.model.mlp.1.weight", "mm.model.mlp.3.weight"):
        flat = tensors[name].reshape(-1)
        flat[:] = np.random.default_rng(0).permutation(flat)


def affirmative(tensors: dict[str, Any], chain: list[int]) -> None:
    """Only the last token counts, and behind each of `chain` the next one is likeliest.

    Layers add nothing, so that the logits are products of embeddings: token i is 3^i (d[i-1] + d[i]), with orthogonal
    d, and so its product with the next is three times that with itself, and that with all others nothing.
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
    """The chat template drops what stands for pictures and sounds."""
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
    """The token that a prompt ends with, those of "Yes.", and the one that ends an answer."""
    weights = Weights(TEXT, gpu_layers=0)
    chain = [weights.tokenize("<|im_start|>assistant\n", parse_special=True)[-1]]
    chain += [*weights.tokenize("Yes.", parse_special=False), weights.eos]
    weights.close()
    assert len(set(chain)) == len(chain)
    return chain


FAULTS = ("deaf", "one bit", "eye layer", "ear layer", "wrong projector", "no marker", "yes")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("faults")
    eyes = {
        "deaf": lambda tensors: silence(tensors, "a."),
        "one bit": one_bit,
        "eye layer": lambda tensors: silence(tensors, "v.blk.1."),
        "ear layer": lambda tensors: silence(tensors, "a.blk.1."),
        "wrong projector": shuffled,
    }
    whole = (File("text", TEXT), File("eyes", EYES))
    combinations = [Combination(*whole)]
    for name, change in eyes.items():
        path = changed(EYES, folder / f"{name}.gguf", change)
        combinations.append(Combination(whole[0], File(name, path)))
    chain = yes_chain()
    texts = {
        "no marker": without_marker(TEXT, folder / "no marker.gguf"),
        "yes": changed(TEXT, folder / "yes.gguf", lambda tensors: affirmative(tensors, chain)),
    }
    combinations += [Combination(File(name, path), whole[1]) for name, path in texts.items()]
    asked = part_of_heldout(folder / "asked.zip", 12, ("text", "image", "speech"))
    plan = EvaluationPlan(combinations, [asked], folder / "work", rounds=1, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_cost, "measure", lambda *_: {"decode_tokens_per_second": 9.0})
        found = evaluate(plan, lambda *_: None)["variants"]
    return dict(zip(("whole", *FAULTS), found, strict=True))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("deaf", ["has stopped hearing though its text is fine"]),
        ("one bit", ["has stopped seeing though its text is fine"]),
        ("eye layer", ["has stopped seeing though its text is fine"]),
        ("ear layer", []),
        ("wrong projector", ["has stopped seeing though its text is fine"]),
        ("no marker", ["cannot take 100% of the questions on pictures", "cannot take 100% of the questions on sounds"]),
        ("yes", ["says one and the same answer to 100% of questions on pictures"]),
    ],
)
def test_a_fault_is_told_and_not_recommended(variants: dict[str, dict[str, Any]], fault: str, says: list[str]) -> None:
    whole, hurt = variants["whole"], variants[fault]
    assert not whole["warnings"]
    assert set(hurt["warnings"]) or fault == "ear layer"  # on so few questions its 8 points fewer may be chance
    for text in says:
        assert any(text in warning for warning in hurt["warnings"]), hurt["warnings"]
    smaller = hurt | {"bytes": hurt["bytes"] // 2}
    assert recommend([whole, smaller], whole, Constraints())["variant"] == whole["name"]


def test_a_sense_that_is_not_hurt_is_not_blamed(variants: dict[str, dict[str, Any]]) -> None:
    assert not any("hear" in warning for warning in variants["one bit"]["warnings"])
    assert not any("see" in warning for warning in variants["deaf"]["warnings"])
    assert variants["wrong projector"]["fidelity"]["text"]["kl_mean"] == 0
