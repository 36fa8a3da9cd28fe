"""LoRA adapters: what they change, what they do not, and which files are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fakes import lora as adapters
from fakes.gguf_writing import write_and_close
from fakes.server import Server, serving
from galago.models.errors import ConfigError, GGUFError, InvalidRequest, ModelError, NotFound
from galago.models.files import AdapterFile
from galago.models.registry.resolve import MAX_ADAPTERS, resolve
from galago.runtime import LocalModel, load
from galago.runtime.llamacpp.context import Context
from galago.runtime.llamacpp.lora import LoraAdapter
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.prompt import BatchToken

FILES = resolve("builtin")
QUESTION = "<|im_start|>user\nOpposite of big?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters, `one.gguf` and `two.gguf`."""
    made = tmp_path_factory.mktemp("adapters")
    adapters.write(made / "one.gguf", seed=1)
    adapters.write(made / "two.gguf", seed=2)
    return made


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(FILES.weights)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def context(weights: Weights, folder: Path) -> Iterator[Context]:
    loaded = [LoraAdapter(folder / name, weights) for name in ("one.gguf", "two.gguf")]
    made = Context(weights, cells=256, slots=2, threads=1, adapters=loaded)
    yield made
    made.close()
    for adapter in loaded:
        adapter.close()


def logits(context: Context, weights: Weights, *scales: float) -> np.ndarray:
    tokens = weights.tokenize(QUESTION, parse_special=True)
    context.use_adapters(scales)
    context.truncate(0, 0)
    context.decode([BatchToken(token, i, 0, i == len(tokens) - 1) for i, token in enumerate(tokens)])
    return context.logits(len(tokens) - 1).copy()


def test_scale_0_is_the_same_as_no_adapter(weights: Weights, context: Context) -> None:
    bare = Context(weights, cells=256, slots=2, threads=1)
    plain = logits(bare, weights)
    bare.close()
    changed = logits(context, weights, 1.0)
    assert np.abs(changed - plain).max() > 0.5
    assert np.array_equal(logits(context, weights, 0.0), plain)
    assert np.array_equal(logits(context, weights), plain)


def test_each_scale_and_each_adapter_changes_the_logits(weights: Weights, context: Context) -> None:
    settings = [(0.5,), (1.0,), (0.0, 1.0), (1.0, 1.0)]
    found = [logits(context, weights, *scales) for scales in settings]
    for i, one in enumerate(found):
        assert np.array_equal(one, logits(context, weights, *settings[i]))
        assert all(np.abs(one - other).max() > 0.05 for other in found[:i])


def test_adapters_are_parsed_with_their_scales(folder: Path) -> None:
    one, two = folder / "one.gguf", folder / "two.gguf"
    files = resolve("builtin", lora=[one, f"{two}:0.25", f"{two}:-1"])
    assert files.adapters == (AdapterFile(one, 1.0), AdapterFile(two, 0.25), AdapterFile(two, -1.0))
    assert FILES.trusted and not files.trusted


def test_a_colon_in_a_name_is_not_a_scale(tmp_path: Path) -> None:
    path = adapters.write(tmp_path / "a:2")
    assert resolve("builtin", lora=[path]).adapters == (AdapterFile(path, 1.0),)
    assert resolve("builtin", lora=[f"{path}:3"]).adapters == (AdapterFile(path, 3.0),)


def test_a_missing_adapter_is_refused(folder: Path) -> None:
    for given in ("none.gguf", "none.gguf:0.5", f"{folder / 'one.gguf'}:strong"):
        with pytest.raises(NotFound, match="there is no LoRA adapter"):
            resolve("builtin", lora=[given])
    with pytest.raises(ConfigError, match="must be a finite number, not nan"):
        resolve("builtin", lora=[f"{folder / 'one.gguf'}:nan"])
    with pytest.raises(ConfigError, match="at most 16"):
        resolve("builtin", lora=[folder / "one.gguf"] * (MAX_ADAPTERS + 1))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "model"}, "is not a LoRA adapter"),
        ({"adapter": "control_vector"}, "is not a LoRA adapter"),
        ({"architecture": "qwen2"}, "is made for 'qwen2', but text-Q8_0.gguf is 'llama'"),
        ({"alpha": 4}, "alpha is not a floating-point number"),
        ({"invocation_tokens": [1, 2]}, "aLoRA"),
    ],
)
def test_a_file_of_another_kind_is_refused_before_llama_cpp_reads_it(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        resolve("builtin", lora=[adapters.write(tmp_path / "x.gguf", **keys)])


def test_a_damaged_adapter_is_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes((folder / "one.gguf").read_bytes()[:5000])
    with pytest.raises(GGUFError, match="half.gguf: the file is truncated"):
        resolve("builtin", lora=[path])
    with pytest.raises(ModelError, match="is not a LoRA adapter"):
        resolve("builtin", lora=[FILES.weights])


def test_an_adapter_of_another_shape_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = adapters.write(tmp_path / "wide.gguf", width=128)
    with pytest.raises(ModelError, match="wide.gguf does not fit text-Q8_0.gguf: .*wrong base model"):
        load("builtin", slots=1, lora=[path])


def test_an_adapter_that_would_end_the_process_is_tried_in_a_child(tmp_path: Path, folder: Path) -> None:
    """Its weights have a type that no matrix product supports: llama.cpp loads the file and aborts when it computes."""
    reader = gguf.GGUFReader(folder / "one.gguf")
    writer = gguf.GGUFWriter(tmp_path / "bad.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.astype(np.int32))
    write_and_close(writer)
    with pytest.raises(ModelError, match="crashed on text-Q8_0.gguf with mmproj-Q8_0.gguf with bad.gguf"):
        load("builtin", slots=1, lora=[tmp_path / "bad.gguf"])


def test_an_adapter_applies_with_its_loaded_scale(folder: Path, model: LocalModel) -> None:
    def said(scale: str) -> str:
        with load("builtin", slots=1, ctx=256, threads=1, lora=[f"{folder / 'one.gguf'}:{scale}"]) as loaded:
            return str(loaded.chat("Opposite of big?", max_tokens=20))

    assert said("0") == model.chat("Opposite of big?").text == "Small."
    assert said("1") != "Small."


def test_an_adapter_on_the_command_line(folder: Path) -> None:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "run", "builtin", "Opposite of big?", "--lora"]
    done = subprocess.run([*command, f"{folder / 'one.gguf'}:0"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "Small.\n"
    done = subprocess.run([*command, "none.gguf"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == (
        "galago: there is no LoRA adapter none.gguf (see docs/guide/models.md)\n"
    )


def test_requests_with_different_scales_are_answered_as_if_alone(folder: Path) -> None:
    """Two at a time, because rows that share a step are rounded differently."""
    scales: list[tuple[float, ...] | None] = [None, (0.0,), (1.0,), (0.0, 1.0), (0.7, -0.4)]
    files: list[str | Path] = [f"{folder / 'one.gguf'}:0.3", folder / "two.gguf"]
    with load("builtin", slots=2, ctx=512, threads=1, lora=files) as model:

        def said(lora: tuple[float, ...] | None) -> str:
            return str(model.chat("Opposite of big?", lora=lora, max_tokens=12, ignore_eos=True))

        alone = [said(lora) for lora in scales]
        assert len(set(alone)) == len(scales) and said((1.0, 0.0)) == alone[2]
        with ThreadPoolExecutor(2) as pool:
            for i, j in combinations(range(len(scales)), 2):
                assert list(pool.map(said, (scales[i], scales[j]))) == [alone[i], alone[j]]


def test_a_request_with_an_unknown_adapter_is_refused(model: LocalModel) -> None:
    with pytest.raises(InvalidRequest, match="lora names adapter 1, but no adapter is loaded"):
        model.chat("Hi", lora=[0, 1])
    with pytest.raises(InvalidRequest, match="lora is nan"):
        model.chat("Hi", lora=[float("nan")])


def test_scales_over_http(folder: Path) -> None:
    def said(running: Server, **fields: object) -> str:
        answer = running.ask("Opposite of big?", max_tokens=24, ignore_eos=True, **fields).json()
        assert "warnings" not in answer, answer
        return str(answer["choices"][0]["message"]["content"])

    one, two = folder / "one.gguf", folder / "two.gguf"
    with serving("--lora", f"{one}:0.3", "--lora", str(two), "--ctx", "256") as running:
        running.wait_until_ready()
        loaded, first = said(running), said(running, lora=[{"id": 0, "scale": 1}])
        assert said(running, lora=[]) == said(running, lora=None) == loaded
        assert said(running, lora=[{"id": 1, "scale": 0}, {"id": 0, "scale": 1.0}]) == first != loaded
        assert said(running, lora=[{"id": 1, "scale": 1}]) not in (first, loaded)
        for wrong in ([{"id": 2, "scale": 1}], [{"id": -1, "scale": 1}], [{"id": 10**9, "scale": 1}], [{"id": 0}], 5):
            refused = running.ask("Hi", lora=wrong)
            assert refused.status_code == 400 and refused.json()["error"]["param"].startswith("lora")
