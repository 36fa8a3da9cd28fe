"""The doctor: what children do and die of becomes plain words and a command."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from galago.models.device import Machine, this_machine
from galago.quantize.variants.schemes import SCHEMES, Scheme
from galago.runtime.cli.doctor import Findings, examine, remedy, report, run_probe, warning

BUILD = {"build": "0.5 | CPU : AVX = 1 | AVX2 = 0 | ", "backends": ["CPU"], "gpu_backends": [], "devices": []}
SOME = [SCHEMES[name] for name in ("F16", "Q8_0", "Q4_0", "Q4_K_M")]


def machine(*features: str) -> Machine:
    return Machine("Linux", "a processor", features, 2, 2, 8 << 30, 4 << 30)


class FakeChild:
    """Dies at the types it is told to, as a child does; wrong numbers for others."""

    def __init__(self, dies_at: Sequence[str] = (), of: int = signal.SIGSEGV, wrong: Sequence[str] = ()) -> None:
        self.dies_at, self.of, self.wrong, self.runs = dies_at, of, wrong, 0

    def __call__(self, schemes: Sequence[Scheme]) -> tuple[list[dict[str, Any]], int, str]:
        self.runs += 1
        lines: list[dict[str, Any]] = [BUILD]
        for scheme in schemes:
            lines.append({"start": scheme.name})
            if scheme.name in self.dies_at:
                return lines, -self.of, ""
            lines.append({"done": scheme.name, "divergence": 4.0 if scheme.name in self.wrong else 1e-5})
        return lines, 0, ""


def test_a_sound_build_needs_nothing() -> None:
    findings = examine(SOME, FakeChild())
    assert findings.worked == ["F16", "Q8_0", "Q4_0", "Q4_K_M"]
    assert remedy(findings, machine()) == ""
    assert "4 weight types right" in report(machine(), findings)


def test_every_type_is_tried_though_some_kill_the_child() -> None:
    child = FakeChild(dies_at=["Q8_0", "Q4_K_M"])
    findings = examine(SOME, child)
    assert (findings.worked, list(findings.failed), child.runs) == (["F16", "Q4_0"], ["Q8_0", "Q4_K_M"], 2)
    assert findings.failed["Q8_0"] == "killed by SIGSEGV"


def test_the_amx_fault_is_recognised_and_mended() -> None:
    findings = examine(SOME, FakeChild(dies_at=["Q8_0"]))
    assert "AMX" not in remedy(findings, machine("avx2", "amx_int8")), "the build has none of it"
    findings.build = "0.5 | CPU : AVX2 = 1 | AMX_INT8 = 1 | "
    advice = remedy(findings, machine("avx2", "amx_int8"))
    assert "AMX" in advice and "-U__AMX_INT8__" in advice and "scripts/bootstrap --rebuild" in advice


def test_a_build_for_another_processor_is_recognised() -> None:
    advice = remedy(examine(SOME, FakeChild(dies_at=["F16"], of=signal.SIGILL)), machine("amx_int8"))
    assert "another processor" in advice and "scripts/bootstrap --rebuild" in advice


def test_wrong_numbers_are_not_overlooked() -> None:
    findings = examine(SOME, FakeChild(wrong=["Q4_0"]))
    assert findings.failed == {"Q4_0": "wrong numbers"}
    assert "GGML_NATIVE=OFF" in remedy(findings, machine())


def test_numbers_that_are_none_are_wrong() -> None:
    lines: list[dict[str, Any]] = [BUILD, {"start": "F16"}, {"done": "F16", "divergence": None}]
    assert examine(SOME[:1], lambda _: (lines, 0, "")).failed == {"F16": "wrong numbers"}


def test_a_library_that_is_missing_is_told_with_the_command() -> None:
    findings = examine(SOME, lambda _: ([], 1, "ModuleNotFoundError: No module named 'llama_cpp'"))
    advice = remedy(findings, machine())
    assert "No module named 'llama_cpp'" in advice and "scripts/bootstrap --rebuild" in advice
    assert "cannot be loaded" in report(machine(), findings)


def test_a_library_that_dies_while_it_loads_is_told_too() -> None:
    assert "another processor" in remedy(examine(SOME, lambda _: ([], -signal.SIGILL, "")), machine())
    assert "SIGSEGV" in remedy(examine(SOME, lambda _: ([], -signal.SIGSEGV, "")), machine())


@pytest.mark.parametrize(
    ("backends", "devices", "words"),
    [
        ([], [], "no backend compiled in"),
        (["CUDA"], [], "none found, though CUDA is"),
        (
            ["CUDA"],
            [{"kind": "GPU", "name": "CUDA0", "description": "Card", "free_memory": 1 << 30, "total_memory": 2 << 30}],
            "CUDA0 Card, 1.0 of 2.0 GiB free",
        ),
    ],
)
def test_the_gpu_is_reported(backends: list[str], devices: list[dict[str, Any]], words: str) -> None:
    findings = Findings(build="0.5 | ", backends=["CPU", *backends], gpu_backends=backends, devices=devices)
    assert words in report(machine(), findings)
    assert ("finds no GPU" in warning(findings)) == (backends != [] and devices == [])


def test_the_real_child_computes_right() -> None:
    findings = examine(SOME, run_probe)
    assert findings.worked == [s.name for s in SOME] and findings.build and findings.devices


def test_the_real_child_can_be_killed_without_harm() -> None:
    def killed(schemes: Sequence[Scheme]) -> tuple[list[dict[str, Any]], int, str]:
        code = "import os, json; print(json.dumps({'start': 'F16'}), flush=True); os.kill(os.getpid(), 11)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return [{"start": schemes[0].name}], done.returncode, ""

    assert examine(SOME[:1], killed).failed == {"F16": "killed by SIGSEGV"}


def test_this_machine_is_described() -> None:
    here = this_machine()
    assert here.physical_cores >= 1 and here.total_memory > here.available_memory > 0 and here.processor
