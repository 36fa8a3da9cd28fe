"""What is placed on a GPU, and what the user is told about it. The devices are made up; no GPU is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fakes import shapes
from galago.models.errors import ConfigError
from galago.models.files import ModelFiles
from galago.models.registry.resolve import resolve
from galago.runtime import load
from galago.runtime.cli.main import main
from galago.runtime.config import ModelConfig
from galago.runtime.llamacpp import devices
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.pool.placement import place
from galago.runtime.types.placement import Device, LlamaBuild, Placement

BUILTIN = resolve("builtin")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    path = shapes.write(tmp_path_factory.mktemp("shapes") / "8b.gguf", shapes.SHAPES["8B"])
    return replace(resolve(path), projector=BUILTIN.projector)  # its size is what matters here


def build(*free_gib: float, backends: tuple[str, ...] = ("CUDA",)) -> LlamaBuild:
    gpus = (Device(f"CUDA{i}", "Card", "GPU", int(gib * 2**30), 24 << 30) for i, gib in enumerate(free_gib))
    return LlamaBuild(frozenset(), backends, tuple(gpus))


def pretend(monkeypatch: pytest.MonkeyPatch, found: LlamaBuild) -> None:
    """Makes models that are loaded in this process find these GPUs."""
    monkeypatch.setattr(devices, "describe_build", lambda: found)


def test_a_small_model_is_placed_on_the_gpu_as_a_whole() -> None:
    placed = place(BUILTIN, ModelConfig(), build(2))
    layers = int(str(BUILTIN.header.get("llama.block_count")))
    assert placed == Placement(layers + 1, (layers + 1,), True)


def test_a_model_that_fits_in_part_has_a_warning(large: ModelFiles) -> None:
    placed = place(large, ModelConfig(), build(4))
    assert 0 < placed.gpu_layers < 33 and not placed.projector
    assert f"only {placed.gpu_layers} of 33 layers fit on the GPU (4.0 GiB free on CUDA0)" in placed.warnings[0]
    assert "media is encoded on the CPU" in placed.warnings[1]


def test_a_smaller_cache_or_certain_flash_attention_fits_more(large: ModelFiles) -> None:
    plain, certain, small = (
        place(large, config, build(4)).gpu_layers
        for config in (ModelConfig(), ModelConfig(flash_attention="on"), ModelConfig(kv_type="q8_0"))
    )
    assert plain < certain < small


def test_a_model_that_does_not_fit_at_all_has_a_warning(large: ModelFiles) -> None:
    placed = place(large, ModelConfig(), build(0.6))
    assert (placed.gpu_layers, placed.projector) == (0, False)
    assert "nothing of the model fits on the GPU (0.6 GiB free on CUDA0)" in placed.warnings[0]


def test_a_smaller_cache_on_a_cpu_has_a_warning(large: ModelFiles) -> None:
    small = ModelConfig(kv_type="q8_0")
    for placed in (place(large, small, build()), place(large, small, build(0.6))):
        assert "a KV cache of q8_0 makes long prompts and conversations slower on a CPU" in placed.warnings[-1]
    for config, gpus in ((small, build(4)), (ModelConfig(), build())):
        assert "slower on a CPU" not in " ".join(place(large, config, gpus).warnings)


def test_layers_are_split_over_several_gpus(large: ModelFiles) -> None:
    placed = place(large, ModelConfig(), build(4, 4))
    assert placed.gpu_layers == sum(placed.split) == 33 and all(placed.split)


def test_an_explicit_number_of_layers_is_used(large: ModelFiles) -> None:
    assert place(large, ModelConfig(gpu_layers=5), build(4)) == Placement(5, (5,), True)
    placed = place(large, ModelConfig(gpu_layers=99), build(4))
    assert placed.gpu_layers == 33 and "33 layers on the GPU were asked for" in placed.warnings[0]
    assert place(large, ModelConfig(gpu_layers=0), build(4)) == Placement()


def test_a_missing_gpu_is_a_warning_or_an_error_if_layers_were_asked_for() -> None:
    (warning,) = place(BUILTIN, ModelConfig(), build()).warnings
    assert "no GPU was found, though CUDA is compiled in" in warning
    with pytest.raises(ConfigError, match="CUDA finds no GPU"):
        place(BUILTIN, ModelConfig(gpu_layers=1), build())
    assert place(BUILTIN, ModelConfig(), build(backends=())) == Placement()
    with pytest.raises(ConfigError, match="no GPU backend"):
        place(BUILTIN, ModelConfig(gpu_layers=1), build(backends=()))


def test_placement_warnings_are_in_the_model_info_and_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, build())
    with load("builtin", slots=1, ctx=256) as loaded:
        assert "no GPU was found" in loaded.info.warnings[0]
        assert loaded.chat("Opposite of big?").warnings == loaded.info.warnings


def test_llama_cpp_accepts_a_split() -> None:
    """Without a GPU llama.cpp ignores layers and split, so that this proves only the call."""
    for layers, split in ((0, ()), (3, (3,)), (3, (1, 2))):
        Weights(BUILTIN.weights, layers, split=split).close()


def test_a_model_in_several_files_is_not_placed(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "part-00001-of-00002.gguf", shapes.SHAPES["135M"], parts=2)
    shapes.write(tmp_path / "part-00002-of-00002.gguf", shapes.SHAPES["135M"], parts=2)
    assert "several files" in place(resolve(path), ModelConfig(), build(24)).warnings[0]
    assert place(resolve(path), ModelConfig(gpu_layers=7), build(24)).gpu_layers == 7


def test_a_command_prints_placement_warnings_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, build())
    assert main(["run", "builtin", "Opposite of big?", "--ctx", "256"]) == 0
    said = capsys.readouterr()
    assert said.out == "Small.\n" and said.err.count("no GPU was found") == 1
