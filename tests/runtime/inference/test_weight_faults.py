"""Models that load but compute nothing useful are refused, or reported in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import bert, faulty_models
from galago.models.errors import ModelError
from galago.runtime.config import ModelConfig
from galago.runtime.inference import load_check
from galago.runtime.inference.embedder import Embedder
from galago.runtime.inference.generator import Generator
from galago.runtime.process import spawn
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request, Sampling
from galago.runtime.types.tasks import Embed, Rerank

CONFIG = ModelConfig(256, threads=1, slots=1, gpu_layers=0)
NAN = "the model computes NaN or infinity instead of "
EVEN = "the model finds all tokens equally likely"
ENDLESS = "the model's file names no end token of its vocabulary"
LONELY = "the model has a single expert in each layer"


def opened(path: Path) -> Generator:
    return Generator(faulty_models.as_trusted(path), CONFIG)


def asked(model: Generator, text: str, **settings: object) -> list[Event]:
    request = Request((Message("user", (Text(text),)),), Sampling(0.0), **{"max_tokens": 4, **settings})  # type: ignore[arg-type]
    return list(model.generate(request))


@pytest.mark.parametrize("fault", ["nan", "infinity"])
def test_a_model_that_computes_no_numbers_is_refused_when_it_is_loaded(fault: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=NAN + "the probabilities of the next token: .* download it again"):
        opened(faulty_models.write(fault, tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("fault", "warnings"),
    [
        ("none", []),
        ("zeros", [EVEN]),
        ("one expert", [LONELY]),
        ("one expert used", []),
        ("no end token", [ENDLESS]),
        ("end token beyond the vocabulary", [ENDLESS]),
        ("end token that is a word", []),
    ],
)
def test_a_fault_is_told_with_every_answer(fault: str, warnings: list[str], tmp_path: Path) -> None:
    model = opened(faulty_models.write(fault, tmp_path / "model.gguf"))
    started, *_, end = asked(model, "Hi")
    model.close()
    assert isinstance(started, Started) and isinstance(end, Finished)
    assert started.warnings == model.info.warnings and len(started.warnings) == len(warnings)
    for found, expected in zip(started.warnings, warnings, strict=True):
        assert found.startswith(expected) and "\n" not in found


def test_only_the_request_that_reaches_the_damage_fails(tmp_path: Path) -> None:
    """With an error on its stream, also where log-probabilities or a grammar are asked for."""
    model = opened(faulty_models.write("nan embedding", tmp_path / "model.gguf"))
    for settings in ({}, {"logprobs": 2}, {"regex": "[ab]+"}):
        *_, end = asked(model, faulty_models.SAID_TOKEN, **settings)
        assert isinstance(end, Failed) and type(end.error) is ModelError and end.error.message.startswith(NAN)
    assert isinstance(asked(model, "Hi")[-1], Finished)
    model.close()


def test_the_end_token_that_llama_cpp_assumes_does_not_end_an_answer(tmp_path: Path) -> None:
    """It has a fixed number, which is a word of this vocabulary."""
    model = opened(faulty_models.write("no end token", tmp_path / "model.gguf"))
    end = asked(model, "Hi", max_tokens=8)[-1]
    assert isinstance(end, Finished) and end.reason == "length" and end.usage.completion_tokens == 8
    assert not model._weights.end_tokens and model._weights.eos == -1
    constrained = asked(model, "Hi", max_tokens=8, regex="[ab]{3}")
    model.close()
    text = "".join(event.text for event in constrained if isinstance(event, Delta))
    assert re.fullmatch("[ab]{3}", text) and isinstance(constrained[-1], Finished) and constrained[-1].reason == "stop"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no expert used", r"model.gguf says that 0 of its 4 experts compute each token \(llama.expert_used_count\)"),
        ("more experts used than there are", "model.gguf says that 5 of its 4 experts compute each token"),
    ],
)
@pytest.mark.parametrize("as_draft", [False, True])
def test_a_number_of_experts_that_cannot_be_is_refused(
    fault: str, message: str, as_draft: bool, tmp_path: Path
) -> None:
    """Before llama.cpp ends the process that tries the file."""
    path = faulty_models.write(fault, tmp_path / "model.gguf")
    whole = faulty_models.write("none", tmp_path / "whole.gguf")
    files = faulty_models.as_trusted(*((whole, path) if as_draft else (path,)))
    object.__setattr__(files, "trusted", False)
    with pytest.raises(ModelError, match=message):
        load_check.check_loading(files)


@pytest.mark.parametrize(
    ("said", "told"),
    [(f"{NAN}x", f"model.gguf: {NAN}x"), ("model.gguf has no tokenizer", "model.gguf has no tokenizer")],
)
def test_the_load_check_names_the_file(said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = faulty_models.write("none", tmp_path / "model.gguf")
    result = spawn.ChildResult(1, stdout=f"{said}\n".encode())
    monkeypatch.setattr(spawn, "run_module", lambda *_given, **_options: result)
    monkeypatch.setattr(load_check, "cache_folder", lambda: tmp_path)
    with pytest.raises(ModelError) as error:
        load_check.check_paths(path, None)
    assert error.value.message == told


def embedder(path: Path, begins: Iterable[str], value: float, pooling: str) -> Embedder:
    bert.write(path, pooling)
    for begin in begins:
        faulty_models.filled(path, begin, value)
    return Embedder(faulty_models.as_trusted(path), ModelConfig(threads=1))


@pytest.mark.parametrize("pooling", ["mean", "cls", "rank"])
def test_an_embedding_model_that_computes_no_numbers_is_refused(pooling: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=NAN + "vectors or scores"):
        embedder(tmp_path / "bert.gguf", ["blk.0.attn_q"], np.nan, pooling)


@pytest.mark.parametrize("pooling", ["mean", "rank"])
def test_an_embedding_model_of_zeros_is_told(pooling: str, tmp_path: Path) -> None:
    model = embedder(tmp_path / "bert.gguf", [""], 0.0, pooling)
    model.close()
    assert [warning[:30] for warning in model.info.warnings] == ["the model computes only zeros,"]


def test_only_the_text_that_reaches_the_damage_has_no_vector(tmp_path: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["token_embd.weight"][bert.VOCABULARY.index("▁dog")] = np.nan

    for pooling in ("mean", "rank"):
        path = faulty_models.changed(bert.write(tmp_path / f"{pooling}.gguf", pooling), tmp_path / "bert.gguf", spoil)
        model = Embedder(faulty_models.as_trusted(path), ModelConfig(threads=1))
        tasks: list[Any] = [Embed((text,)) if pooling == "mean" else Rerank("cat", (text,)) for text in ("dog", "cat")]
        with pytest.raises(ModelError, match=NAN):
            model.run_task(tasks[0])
        model.run_task(tasks[1])
        model.close()
