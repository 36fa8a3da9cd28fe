"""The doctor turns what its child processes do into a diagnosis and a command."""

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
    """A self-test that dies at given types and computes wrong results for others."""

    def __init__(
        self, dies_at: Sequence[str] = (), death_signal: int = signal.SIGSEGV, wrong: Sequence[str] = ()
    ) -> None:
        self.dies_at, self.death_signal, self.wrong, self.runs = dies_at, death_signal, wrong, 0

    def __call__(self, schemes: Sequence[Scheme]) -> tuple[list[dict[str, Any]], int, str]:
        self.runs += 1
        lines: list[dict[str, Any]] = [BUILD]
        for scheme in schemes:
            lines.append({"start": scheme.name})
            if scheme.name in self.dies_at:
                return lines, -self.death_signal, ""
            lines.append({"done": scheme.name, "divergence": 4.0 if scheme.name in self.wrong else 1e-5})
        return lines, 0, ""


def test_a_working_build_needs_no_fix() -> None:
    findings = examine(SOME, FakeChild())
    assert findings.worked == ["F16", "Q8_0", "Q4_0", "Q4_K_M"]
    assert remedy(findings, machine()) == ""
    assert "4 weight types work" in report(machine(), findings)


def test_every_type_is_tested_even_if_some_kill_the_child() -> None:
    child = FakeChild(dies_at=["Q8_0", "Q4_K_M"])
    findings = examine(SOME, child)
    assert (findings.worked, list(findings.failed), child.runs) == (["F16", "Q4_0"], ["Q8_0", "Q4_K_M"], 2)
    assert findings.failed["Q8_0"] == "was killed by SIGSEGV"


def test_the_amx_fault_is_recognized_and_its_fix_named() -> None:
    findings = examine(SOME, FakeChild(dies_at=["Q8_0"]))
    assert "AMX" not in remedy(findings, machine("avx2", "amx_int8")), "this build does not use AMX"
    findings.build = "0.5 | CPU : AVX2 = 1 | AMX_INT8 = 1 | "
    advice = remedy(findings, machine("avx2", "amx_int8"))
    assert "AMX" in advice and "-U__AMX_INT8__" in advice and "scripts/bootstrap --rebuild" in advice


def test_a_build_for_another_processor_is_recognized() -> None:
    advice = remedy(examine(SOME, FakeChild(dies_at=["F16"], death_signal=signal.SIGILL)), machine("amx_int8"))
    assert "another processor" in advice and "scripts/bootstrap --rebuild" in advice


def test_wrong_results_are_reported() -> None:
    findings = examine(SOME, FakeChild(wrong=["Q4_0"]))
    assert findings.failed == {"Q4_0": "wrong results"}
    assert "GGML_NATIVE=OFF" in remedy(findings, machine())


def test_a_result_that_is_not_a_number_is_wrong() -> None:
    lines: list[dict[str, Any]] = [BUILD, {"start": "F16"}, {"done": "F16", "divergence": None}]
    assert examine(SOME[:1], lambda _: (lines, 0, "")).failed == {"F16": "wrong results"}


def test_a_missing_library_is_reported_with_the_command() -> None:
    findings = examine(SOME, lambda _: ([], 1, "ModuleNotFoundError: No module named 'llama_cpp'"))
    advice = remedy(findings, machine())
    assert "No module named 'llama_cpp'" in advice and "scripts/bootstrap --rebuild" in advice
    assert "cannot be loaded" in report(machine(), findings)


def test_a_library_that_dies_while_it_loads_is_reported() -> None:
    assert "another processor" in remedy(examine(SOME, lambda _: ([], -signal.SIGILL, "")), machine())
    assert "SIGSEGV" in remedy(examine(SOME, lambda _: ([], -signal.SIGSEGV, "")), machine())


@pytest.mark.parametrize(
    ("backends", "devices", "words"),
    [
        ([], [], "not supported by this build"),
        (["CUDA"], [], "none found by CUDA"),
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


def test_the_real_child_computes_correctly() -> None:
    findings = examine(SOME, run_probe)
    assert findings.worked == [s.name for s in SOME] and findings.build and findings.devices


def test_a_killed_child_is_a_finding() -> None:
    def killed_probe(schemes: Sequence[Scheme]) -> tuple[list[dict[str, Any]], int, str]:
        code = "import os, json; print(json.dumps({'start': 'F16'}), flush=True); os.kill(os.getpid(), 11)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return [{"start": schemes[0].name}], done.returncode, ""

    assert examine(SOME[:1], killed_probe).failed == {"F16": "was killed by SIGSEGV"}


def test_this_machine_is_described() -> None:
    this = this_machine()
    assert this.physical_cores >= 1 and this.total_memory_bytes > this.available_memory_bytes > 0 and this.processor
