"""`galago doctor`: says what this machine and its llama.cpp build can do, and how to mend what they cannot.

Whatever may crash runs in a child process, so the doctor lives to tell.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from ...models.device import Machine, this_machine
from ...models.registry.name import BUILTIN
from ...models.registry.resolve import resolve
from ...quantize.variants.schemes import SCHEMES, Scheme
from ..config import default_threads

MAX_DIVERGENCE = 0.5
"""Nats from F32 at which a type's products are called wrong: Q2_K stays below 0.001 here, noise is above 3."""
_TIMEOUT = 120.0
_NO_AMX = "-DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"

Probe = Callable[[Sequence[Scheme]], tuple[list[dict[str, Any]], int, str]]
"""Computes with the given types in a child; returns its JSON lines, its exit status, and its last words."""


@dataclass
class Findings:
    """What the child processes showed. `failed` maps a weight type to what went wrong with it."""

    build: str = ""
    backends: list[str] = field(default_factory=list)
    gpu_backends: list[str] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    worked: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    died_of: set[int] = field(default_factory=set)
    unloadable: str = ""


def doctor(
    check: Annotated[bool, typer.Option("--check", help="say only what is wrong; exit 1 if anything is")] = False,
) -> int:
    """Check this machine and its llama.cpp build."""
    machine = this_machine()
    findings = examine([s for s in SCHEMES.values() if not s.needs_calibration], run_probe)
    advice = remedy(findings, machine)
    if not check:
        print(report(machine, findings))
    if advice:
        print(advice if check else f"\n{advice}")
        return 1
    worry = warning(findings)
    if worry:
        print(worry if check else f"\n{worry}")
    elif not check:
        print("\nEverything works.")
    return 0


def examine(schemes: Sequence[Scheme], probe: Probe) -> Findings:
    """Computes with every type; where the child dies, notes of which type and goes on with the rest in another."""
    findings = Findings()
    left = list(schemes)
    while left:
        lines, status, last_words = probe(left)
        started = ""
        for line in lines:
            _note(findings, line)
            started = line.get("start", started)
        if status == 0:
            break
        if not started:
            findings.unloadable = f"{_death(status)}{': ' + last_words if last_words else ''}"
            findings.died_of.add(-status)
            break
        findings.failed[started] = _death(status)
        findings.died_of.add(-status)
        left = left[[s.name for s in left].index(started) + 1 :]
    return findings


def _note(findings: Findings, line: dict[str, Any]) -> None:
    if "build" in line:
        findings.build, findings.backends = line["build"], line["backends"]
        findings.gpu_backends, findings.devices = line["gpu_backends"], line["devices"]
    elif "done" in line:
        divergence = line["divergence"]
        if divergence is None or divergence > MAX_DIVERGENCE:
            findings.failed[line["done"]] = "wrong numbers"
        else:
            findings.worked.append(line["done"])


def _death(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def run_probe(schemes: Sequence[Scheme]) -> tuple[list[dict[str, Any]], int, str]:
    """The real probe, over the built-in model."""
    command = [sys.executable, "-P", "-m", "galago.runtime.llamacpp.programs.selftest", str(resolve(BUILTIN).weights)]
    command += [f"{s.name}={s.ftype}" for s in schemes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        output, status, errors = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        output, status, errors = _text(error.stdout), 1, f"no answer within {_TIMEOUT:.0f} s"
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    words = errors.strip().splitlines()
    return lines, status, words[-1] if words else ""


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def remedy(findings: Findings, machine: Machine) -> str:
    """What is wrong and the command that mends it; empty where nothing is."""
    if findings.unloadable and signal.SIGILL not in findings.died_of and not findings.build:
        return f"llama.cpp cannot be loaded ({findings.unloadable}). Build it:\n  {_rebuild('')}"
    if not findings.failed and not findings.unloadable:
        return ""
    what = ", ".join(f"{name} ({why})" for name, why in findings.failed.items()) or findings.unloadable
    if signal.SIGILL in findings.died_of:
        cause, flags = "llama.cpp was built for another processor than this one.", ""
    elif "amx_int8" in machine.features and "AMX_INT8 = 1" in findings.build:
        cause = "gcc 12 and older mistranslate llama.cpp's AMX code; this processor has AMX. Build without it:"
        flags = _NO_AMX
    else:
        cause, flags = "This build computes wrongly here. Build for any processor of this kind:", "-DGGML_NATIVE=OFF"
    return f"Matrix products fail: {what}.\n{cause}\n  {_rebuild(flags)}"


def _rebuild(flags: str) -> str:
    prefix = f'CMAKE_ARGS="{flags}" ' if flags else ""
    script = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap"
    if script.exists():
        return f"{prefix}scripts/bootstrap --rebuild"
    return (
        f"{prefix}pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
    )


def report(machine: Machine, findings: Findings) -> str:
    """The findings in a person's words."""
    gib = 1024**3
    rows = [
        ("Galago", f"{metadata.version('galago')}, Python {sys.version.split()[0]}, {machine.system}"),
        ("Processor", f"{machine.processor}: {' '.join(machine.features) or 'no known vector features'}"),
        ("Cores", f"{machine.physical_cores} physical, {machine.logical_cores} logical"),
        ("Threads", f"{default_threads()} unless told otherwise"),
        ("Memory", f"{machine.available_memory / gib:.1f} of {machine.total_memory / gib:.1f} GiB available"),
        ("llama.cpp", _build_line(findings)),
        ("GPU", _gpu_line(findings)),
        ("Products", _products_line(findings)),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def _build_line(findings: Findings) -> str:
    if not findings.build:
        return f"cannot be loaded ({findings.unloadable})"
    version, _, features = findings.build.partition(" | ")
    enabled = [
        part.split(" = ")[0].split(": ")[-1].strip() for part in features.split("|") if part.strip().endswith("1")
    ]
    return f"{version} (llama-cpp-python {metadata.version('llama-cpp-python')}), built with {' '.join(enabled)}"


def _gpu_line(findings: Findings) -> str:
    gpus = _gpus(findings)
    if gpus:
        gib = 1024**3
        return "; ".join(
            f"{d['name']} {d['description']}, {d['free_memory'] / gib:.1f} of {d['total_memory'] / gib:.1f} GiB free"
            for d in gpus
        )
    if findings.gpu_backends:
        return f"none found, though {', '.join(findings.gpu_backends)} is compiled in: models run on the CPU"
    return "no backend compiled in (scripts/bootstrap --backend cuda|vulkan|metal adds one)"


def warning(findings: Findings) -> str:
    """What works, but not as it could: a GPU backend without a GPU. Empty where there is nothing of the kind."""
    if not findings.gpu_backends or _gpus(findings):
        return ""
    names = ", ".join(findings.gpu_backends)
    return (
        f"Warning: this build computes with {names}, which finds no GPU: everything runs on the CPU.\n"
        "Check the GPU's driver and that this user may use it; without a GPU, build for the CPU:\n"
        "  scripts/bootstrap --backend cpu"
    )


def _gpus(findings: Findings) -> list[dict[str, Any]]:
    return [device for device in findings.devices if "GPU" in device["kind"]]


def _products_line(findings: Findings) -> str:
    parts = [f"{len(findings.worked)} weight types right: {' '.join(findings.worked)}"] if findings.worked else []
    parts += [f"{name} {why}" for name, why in findings.failed.items()]
    return "; ".join(parts) or "none computed"
