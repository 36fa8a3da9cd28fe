"""`galago doctor`: tests this machine and its llama.cpp build, and says how to fix what does not work.

llama.cpp runs in child processes, so that a crash is a finding and not the end of the test.
"""

from __future__ import annotations

import json
import signal
import sys
import textwrap
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
from ..process import spawn

MAX_DIVERGENCE = 0.5
"""KL divergence from F32, in nats, above which a type computes wrongly: Q2_K is below 0.001 here, noise above 3."""
_TIMEOUT_SECONDS = 120.0
_NO_AMX = "-DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"

Probe = Callable[[Sequence[Scheme]], tuple[list[dict[str, Any]], int, str]]
"""Computes with the given types in a child process; returns its JSON lines, exit status and last line of errors."""


@dataclass
class Findings:
    """The results of the child processes. `failed` maps a weight type to what went wrong with it."""

    build: str = ""
    backends: list[str] = field(default_factory=list)
    gpu_backends: list[str] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    worked: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    signals: set[int] = field(default_factory=set)
    load_error: str = ""


def doctor(
    check: Annotated[bool, typer.Option("--check", help="print only problems; exit with 1 if there are any")] = False,
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
    problem = warning(findings)
    if problem:
        print(problem if check else f"\n{problem}")
    elif not check:
        print("\nEverything works.")
    return 0


def examine(schemes: Sequence[Scheme], probe: Probe) -> Findings:
    """Tests every type. If the child dies, records the type it died at and tests the rest in another child."""
    findings = Findings()
    remaining = list(schemes)
    while remaining:
        lines, status, last_error = probe(remaining)
        current = ""
        for line in lines:
            _record(findings, line)
            current = line.get("start", current)
        if status == 0:
            break
        findings.signals.add(-status)
        if not current:
            findings.load_error = f"{spawn.describe_exit(status)}{': ' + last_error if last_error else ''}"
            break
        findings.failed[current] = spawn.describe_exit(status)
        remaining = remaining[[scheme.name for scheme in remaining].index(current) + 1 :]
    return findings


def _record(findings: Findings, line: dict[str, Any]) -> None:
    if "build" in line:
        findings.build, findings.backends = line["build"], line["backends"]
        findings.gpu_backends, findings.devices = line["gpu_backends"], line["devices"]
    elif "done" in line:
        divergence = line["divergence"]
        if divergence is None or divergence > MAX_DIVERGENCE:
            findings.failed[line["done"]] = "wrong results"
        else:
            findings.worked.append(line["done"])


def run_probe(schemes: Sequence[Scheme]) -> tuple[list[dict[str, Any]], int, str]:
    """Runs the self-test on the built-in model in a child process."""
    program = "galago.runtime.llamacpp.programs.selftest"
    types = [f"{s.name}={s.ftype}" for s in schemes]
    end = spawn.run_module(program, resolve(BUILTIN).weights, *types, timeout_seconds=_TIMEOUT_SECONDS)
    lines = [json.loads(line) for line in end.stdout.splitlines() if line.startswith(b"{")]
    return (lines, 1, end.ending) if end.timed_out else (lines, end.code, end.last_line)


def remedy(findings: Findings, machine: Machine) -> str:
    """What does not work, and the command that fixes it; empty if everything works."""
    if findings.load_error and signal.SIGILL not in findings.signals and not findings.build:
        return f"llama.cpp cannot be loaded ({findings.load_error}). Build it:\n  {_rebuild('')}"
    if not findings.failed and not findings.load_error:
        return ""
    problems = ", ".join(f"{name} ({reason})" for name, reason in findings.failed.items()) or findings.load_error
    if signal.SIGILL in findings.signals:
        cause, flags = "llama.cpp was built for another processor. Build it for this one:", ""
    elif "amx_int8" in machine.features and "AMX_INT8 = 1" in findings.build:
        cause = "gcc 12 and older miscompile llama.cpp's AMX code, which this processor runs. Build without AMX:"
        flags = _NO_AMX
    else:
        cause = "The cause is not known. Build without optimizations for this exact processor:"
        flags = "-DGGML_NATIVE=OFF"
    return f"Matrix multiplication fails for {problems}.\n{cause}\n  {_rebuild(flags)}"


def _rebuild(flags: str) -> str:
    prefix = f'CMAKE_ARGS="{flags}" ' if flags else ""
    script = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap"
    if script.exists():
        return f"{prefix}scripts/bootstrap --rebuild"
    return (
        f"{prefix}pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
    )


def report(machine: Machine, findings: Findings) -> str:
    """The findings, as a table for people."""
    gib = 1024**3
    rows = [
        ("Galago", f"{metadata.version('galago')}, Python {sys.version.split()[0]}, {machine.system}"),
        ("Processor", f"{machine.processor}: {' '.join(machine.features) or 'no known vector features'}"),
        ("Cores", f"{machine.physical_cores} physical, {machine.logical_cores} logical"),
        ("Threads", f"{default_threads()} by default"),
        (
            "Memory",
            f"{machine.available_memory_bytes / gib:.1f} of {machine.total_memory_bytes / gib:.1f} GiB available",
        ),
        ("llama.cpp", _build_line(findings)),
        ("GPU", _gpu_line(findings)),
        ("Types", _types_line(findings)),
    ]
    return "\n".join(
        textwrap.fill(text, 80, initial_indent=f"{name:<10} ", subsequent_indent=" " * 11, break_on_hyphens=False)
        for name, text in rows
    )


def _build_line(findings: Findings) -> str:
    if not findings.build:
        return f"cannot be loaded ({findings.load_error})"
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
        return f"none found by {', '.join(findings.gpu_backends)}; models run on the CPU"
    return "not supported by this build (scripts/bootstrap --backend cuda|vulkan|metal)"


def warning(findings: Findings) -> str:
    """Warns if the build has a GPU backend that finds no GPU; empty otherwise."""
    if not findings.gpu_backends or _gpus(findings):
        return ""
    names = ", ".join(findings.gpu_backends)
    return (
        f"Warning: this build uses {names}, which finds no GPU, so models run on the CPU.\n"
        "If there is a GPU, check its driver and this user's permissions. If not, build\n"
        "for the CPU:\n"
        "  scripts/bootstrap --backend cpu"
    )


def _gpus(findings: Findings) -> list[dict[str, Any]]:
    return [device for device in findings.devices if "GPU" in device["kind"]]


def _types_line(findings: Findings) -> str:
    parts = [f"{len(findings.worked)} weight types work: {' '.join(findings.worked)}"] if findings.worked else []
    parts += [f"{name} {reason}" for name, reason in findings.failed.items()]
    return "; ".join(parts) or "none tested"
