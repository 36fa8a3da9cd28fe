"""A child process reports what the installed llama.cpp can do: once, or each time if it has a GPU backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galago.models.errors import EngineError
from galago.models.json_file import seal, unseal
from galago.runtime.llamacpp.devices import describe_build
from galago.runtime.pool import llama_build
from galago.runtime.pool.llama_build import installed_build
from galago.runtime.process import spawn
from galago.runtime.process.spawn import ChildResult
from galago.runtime.types.placement import Device, LlamaBuild

CPU: dict[str, Any] = {"features": ["AVX2"], "gpu_backends": [], "gpus": []}
GPU: dict[str, Any] = {
    "features": [],
    "gpu_backends": ["CUDA"],
    "gpus": [{"name": "CUDA0", "description": "Card", "kind": "GPU", "free_memory": 7, "total_memory": 9}],
}


class FakeChild:
    """Replaces the program, and counts how often it is started."""

    def __init__(self, result: ChildResult) -> None:
        self.result = result
        self.starts = 0

    def __call__(self, program: str, **_options: object) -> ChildResult:
        self.starts += 1
        return self.result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(llama_build, "cache_folder", lambda: tmp_path)
    return tmp_path / "llama_build.json"


def answer_with(monkeypatch: pytest.MonkeyPatch, result: ChildResult) -> FakeChild:
    child = FakeChild(result)
    monkeypatch.setattr(spawn, "run_module", child)
    return child


def test_the_child_says_what_this_process_would() -> None:
    assert installed_build() == describe_build()


def test_a_build_without_gpu_backends_is_asked_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    child = answer_with(monkeypatch, ChildResult(0, json.dumps(CPU).encode()))
    assert installed_build() == installed_build() == LlamaBuild(frozenset({"AVX2"}))
    assert child.starts == 1
    monkeypatch.setattr(llama_build, "_key", lambda: "another build")
    installed_build()
    assert child.starts == 2 and list(json.loads(unseal(cache.read_bytes()))) == ["another build"]


def test_a_build_with_gpu_backends_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    child = answer_with(monkeypatch, ChildResult(0, json.dumps(GPU).encode()))
    assert installed_build().gpus == installed_build().gpus == (Device("CUDA0", "Card", "GPU", 7, 9),)
    assert child.starts == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"x": {}}', '{"x": {"features": 1, "gpu_backends": [], "gpus": []}}'])
def test_a_damaged_file_is_replaced(monkeypatch: pytest.MonkeyPatch, cache: Path, content: str) -> None:
    cache.write_bytes(seal(content.encode()))
    monkeypatch.setattr(llama_build, "_key", lambda: "x")
    answer_with(monkeypatch, ChildResult(0, json.dumps(CPU).encode()))
    assert installed_build().features == {"AVX2"}
    assert json.loads(unseal(cache.read_bytes())) == {"x": CPU}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ChildResult(-4), "the process that loaded it was killed by SIGILL"),
        (ChildResult(1, stderr=b"Traceback\nllama.cpp cannot be loaded (no such file)\n"), "no such file"),
        (ChildResult(-15, timeout_seconds=120.0), "did not finish within 120 s"),
        (ChildResult(0, b"nonsense"), "exited with code 0"),
    ],
)
def test_a_build_that_cannot_be_loaded_is_an_error(
    monkeypatch: pytest.MonkeyPatch, cache: Path, result: ChildResult, reason: str
) -> None:
    answer_with(monkeypatch, result)
    with pytest.raises(EngineError, match=reason):
        installed_build()
    assert not cache.exists()
