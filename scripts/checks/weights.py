"""Runs the real commands on weights, projectors and adapters, each with a single fault.

    scripts/check weights [--every N] [--seconds N] [COMMAND...]        default: every 40th file, 10 s, all commands

Each command must answer, or print one line and exit with 1, within the time and 1 GB. A signal, a traceback or anything
else is printed, and the check exits with 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from fakes import bert, crafted, experts, lora
from galago.models.registry.resolve import builtin_folder

MEMORY_BYTES = 1 << 30
TEXT = builtin_folder() / "text-Q8_0.gguf"

COMMANDS: dict[str, list[str]] = {
    "show": ["show", "FILE"],
    "list": ["list"],
    "import": ["import", "FILE"],
    "fit": ["fit", "FILE"],
    "run": ["run", "FILE", "Hi", "--max-tokens", "2"],
    "quantize": ["quantize", "FILE", "-o", "OUT", "--scheme", "Q4_0", "--no-calibration", "--force", "--requantize"],
    "calibrate": ["calibrate", "FILE", "-o", "OUT", "--force", "--chunks", "1", "--chunk", "64"],
}
"""Command lines. FILE is the file that is tried, and OUT one to write."""
WITH_MODEL = {"mmproj": "--mmproj", "adapter": "--lora"}
"""Kinds of files that `run` takes in addition to the built-in model."""


def originals(folder: Path) -> Iterator[tuple[str, Path]]:
    """Good files of each kind."""
    yield "model", TEXT
    yield "mmproj", builtin_folder() / "mmproj-Q8_0.gguf"
    yield "embedding", bert.write(folder / "bert.gguf")
    experts.write(folder / "experts.gguf")
    yield "experts", folder / "experts.gguf"
    yield "adapter", lora.write(folder / "lora.gguf")


def command_line(name: str, kind: str, path: Path, out: Path) -> list[str]:
    if name == "run" and kind in WITH_MODEL:
        words = ["run", "builtin", "Hi", "--max-tokens", "2", WITH_MODEL[kind], "FILE"]
    else:
        words = COMMANDS[name]
    words = [{"FILE": str(path), "OUT": str(out)}.get(word, word) for word in words]
    return [sys.executable, "-m", "galago.runtime.cli.main", *words]


def problem(command: list[str], environment: dict[str, str], seconds: float) -> str:
    """Runs a command. Returns what is wrong with its end, or an empty text."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
        watched, peak, used = psutil.Process(process.pid), 0, 0.0
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(each.memory_info().rss for each in family))
                used = max(used, sum(sum(each.cpu_times()[:2]) for each in family))
                process.wait(0.05)
            except psutil.Error:
                continue
            except subprocess.TimeoutExpired:
                if used > seconds or peak > MEMORY_BYTES:
                    for each in family:
                        each.kill()
                    process.wait()
                    return f"it took {used:.0f} s of CPU time and {peak >> 20} MiB"
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()
    if process.returncode < 0:
        return f"signal {-process.returncode}"
    if "Traceback" in text or process.returncode not in (0, 1):
        return f"code {process.returncode}: {text.splitlines()[-1] if text else ''}"
    if process.returncode == 1 and len(text.splitlines()) != 1:
        return f"{len(text.splitlines())} lines of error"
    return ""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("scripts/check weights", description=__doc__)
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], metavar="COMMAND")
    parser.add_argument("--every", type=int, default=40, metavar="N", help="try every Nth file")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="CPU time for each command")
    options = parser.parse_args(arguments)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = dict(os.environ, XDG_CACHE_HOME=f"{name}/cache", XDG_DATA_HOME=f"{name}/data", HF_HUB_OFFLINE="1")
        for kind, original in originals(folder):
            for number, (label, model) in enumerate(crafted.variants(crafted.read(original))):
                if number % options.every:
                    continue
                path = model.write(folder / "crafted.gguf")
                for command in options.commands or COMMANDS:
                    line = command_line(command, kind, path, folder / "out.gguf")
                    wrong = problem(line, environment, options.seconds)
                    outcomes["wrong" if wrong else "right"] += 1
                    if wrong:
                        print(f"{command}: {kind}: {label}: {wrong}", flush=True)
    print(f"{outcomes['right']} right, {outcomes['wrong']} wrong")
    return 1 if outcomes["wrong"] else 0
