"""Compares `galago evaluate` with llama-perplexity, on the same tokens.

    scripts/check fidelity [--rounds N] [--threads N] [--models builtin,random]

Builds llama-perplexity first. Compares two models: the built-in one, and a random-weight 135M model with a vocabulary
of 128,256. F16 is the baseline and Q4_0 the variant. Both programs write the baseline's probabilities and read them
for the variant, in alternating rounds; speed is the median over the rounds. Exits with 1 if KL divergence, perplexity
or the top-1 agreement differ by more than 1 %, the speed is below 0.8 times that of llama-perplexity, or memory exceeds
1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import llama_cpp_build, random_gguf
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import samples
from galago.quantize.evaluate import fidelity_job, variant_grid, variant_summary
from galago.quantize.evaluate.fidelity_job import WINDOW_TOKENS, FidelityJob
from galago.quantize.evaluate.record_log import RecordLog
from galago.quantize.variants import schemes
from galago.runtime.environment import worker_environment
from galago.runtime.llamacpp.weights import Weights

MAX_DIFFERENCE = 0.01
MIN_SPEED_RATIO = 0.8
MAX_BYTES = 1.5e9
VOCABULARY = llama_cpp_build.SOURCE / "models/ggml-vocab-llama-bpe.gguf"
STRETCHES = {"builtin": 200, "random": 8}
_TRIES = 5
"""llama-perplexity sometimes exits before its logging thread, and the last lines are lost."""
Figures = dict[str, float]
"""Name -> value. Names with "seconds" are seconds; `peak` is in bytes."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--models", default="builtin,random")
    given = parser.parse_args(arguments)
    program = llama_cpp_build.build("llama-perplexity") / "llama-perplexity"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text(samples.builtin_text(), encoding="utf-8")
        passed = [check(model, program, given, text, folder) for model in given.models.split(",")]
    return 0 if all(passed) else 1


def check(model: str, program: Path, given: argparse.Namespace, text: Path, folder: Path) -> bool:
    base = builtin_folder() / "text-F16.gguf"
    if model == "random":
        base = folder / "random-F16.gguf"
        random_gguf.write(VOCABULARY, base, "135m")
    variant = variant_grid.quantized_file(base, schemes.find("Q4_0"), folder)
    count = STRETCHES[model]
    ours, theirs = list[Figures](), list[Figures]()
    for _ in range(given.rounds):
        ours.append(measure_galago(base, variant, text, count, given.threads, folder))
        theirs.append(measure_llama_perplexity(program, base, variant, text, count, given.threads, folder))
    print(f"{model}: {count} chunks of {WINDOW_TOKENS} tokens, {given.threads} threads, {given.rounds} rounds")
    passed = True
    for figure in ("base perplexity", "perplexity", "KL", "same token"):
        here, there = ours[0][figure], theirs[0][figure]
        passed &= abs(here / there - 1) <= MAX_DIFFERENCE
        print(f"  {figure:<16}{here:>12.6g}{there:>12.6g}  {here / there - 1:+.3%}")
    for figure in ("base seconds", "variant seconds"):
        ratios = sorted(b[figure] / a[figure] for a, b in zip(ours, theirs, strict=True))
        passed &= statistics.median(ratios) >= MIN_SPEED_RATIO
        here, there = (statistics.median(one[figure] for one in side) for side in (ours, theirs))
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"  {figure:<16}{here:>12.2f}{there:>12.2f}  {statistics.median(ratios):.2f} times the speed ({span})")
    peak = max(one["peak"] for one in ours)
    passed &= peak <= MAX_BYTES
    print(f"  {'peak MB':<16}{peak / 1e6:>12.0f}{max(one['peak'] for one in theirs) / 1e6:>12.0f}")
    print(f"  {'passed' if passed else 'FAILED'}", flush=True)
    return passed


def measure_galago(base: Path, variant: Path, text: Path, count: int, threads: int, folder: Path) -> Figures:
    for name in ("rows", "base", "variant"):
        (folder / name).unlink(missing_ok=True)
    job = FidelityJob(str(base), "", (), (str(text),), count, str(folder / "rows"), "", str(folder / "base"), threads)
    before = timed(fidelity_job.command(job), worker_environment())
    after_job = replace(job, weights=str(variant), base=job.records, records=str(folder / "variant"))
    after = timed(fidelity_job.command(after_job), worker_environment())
    baseline = RecordLog(folder / "base").records
    alone = variant_summary.summarize_fidelity(baseline, baseline)["text"]
    compared = variant_summary.summarize_fidelity(RecordLog(folder / "variant").records, baseline)["text"]
    return {
        "base perplexity": alone["perplexity"],
        "perplexity": compared["perplexity"],
        "KL": compared["kl_mean"],
        "same token": compared["top1"],
        "base seconds": before[0],
        "variant seconds": after[0],
        "peak": max(before[1], after[1]),
    }


def measure_llama_perplexity(
    program: Path, base: Path, variant: Path, text: Path, count: int, threads: int, folder: Path
) -> Figures:
    file = folder / "theirs.logits"
    file.unlink(missing_ok=True)
    options = [
        "-f",
        text,
        "-c",
        WINDOW_TOKENS,
        "--chunks",
        count,
        "-t",
        threads,
        "-ngl",
        0,
        "--kl-divergence-base",
        file,
    ]
    before = timed([str(part) for part in (program, "-m", base, *options)])
    for _ in range(_TRIES):
        after = timed([str(part) for part in (program, "-m", variant, *options, "--kl-divergence")])
        if "Same top p" in after[2]:
            break
    check_tokens(file, base, text, count)
    return {
        "base perplexity": number(r"Final estimate: PPL = ([\d.]+)", before[2]),
        "perplexity": number(r"Mean PPL\(Q\)\s*:\s*([\d.]+)", after[2]),
        "KL": number(r"Mean\s+KLD:\s*([\d.]+)", after[2]),
        "same token": number(r"Same top p:\s*([\d.]+)", after[2]) / 100,
        "base seconds": before[0],
        "variant seconds": after[0],
        "peak": max(before[1], after[1]),
    }


def check_tokens(file: Path, base: Path, text: Path, count: int) -> None:
    """Exits unless both programs read the same tokens. llama-perplexity's file begins with its tokens."""
    weights = Weights(base, gpu_layers=0)
    begin = [weights.bos] if weights.adds_bos else []
    expected = begin + weights.tokenize(text.read_text(encoding="utf-8"), parse_special=False)
    weights.close()
    with file.open("rb") as opened:
        opened.seek(len("_logits_") + 3 * 4)
        tokens = np.frombuffer(opened.read(4 * count * WINDOW_TOKENS), np.int32)
    if tokens.tolist() != expected[: len(tokens)]:
        sys.exit("llama-perplexity read different tokens")


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"llama-perplexity did not print {pattern}:\n{text[-2000:]}")
    return float(match[1])


def timed(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, int, str]:
    """Runs a command; returns its seconds, its peak resident bytes and its output."""
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        sys.exit(f"{json.dumps(command)} failed:\n{text[-2000:]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), text
