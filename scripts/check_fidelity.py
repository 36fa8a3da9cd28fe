"""Compares what `galago evaluate` measures on a text with what llama-perplexity does, on the same tokens.

    scripts/check-fidelity [--rounds N] [--threads N] [--models builtin,random]

Builds llama-perplexity first (`scripts/build-peer`). Two models: the built-in one, trained, and one of random weights
in the shape of a 135M with a vocabulary of 128,256; each in F16, and as Q4_0 against that. Both sides write the
baseline's probabilities and read them again for the variant, in turn, and the median time of the rounds counts. Exit
code 1 where divergence, perplexity or the share of equal first choices differ by more than 1 %, the speed is below 0.8
of llama-perplexity's, or memory passes 1.5 GB.
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

from benchmarks import random_gguf
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import samples
from galago.quantize.evaluate import combinations, fidelity_job, summary
from galago.quantize.evaluate.fidelity_job import STRETCH, FidelityJob
from galago.quantize.records import Records
from galago.quantize.variants import schemes
from galago.runtime.config import worker_environment
from galago.runtime.llamacpp.weights import Weights

CLOSE, FAST, SMALL = 0.01, 0.8, 1.5e9
VOCABULARY = "models/ggml-vocab-llama-bpe.gguf"
STRETCHES = {"builtin": 200, "random": 8}
_TRIES = 5
"""llama-perplexity now and then ends before the thread that writes its log does, and the last lines are lost."""
Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("program", type=Path, help="llama-perplexity")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--models", default="builtin,random")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text(samples.builtin_text(), encoding="utf-8")
        passed = [check(model, given, text, folder) for model in given.models.split(",")]
    return 0 if all(passed) else 1


def check(model: str, given: argparse.Namespace, text: Path, folder: Path) -> bool:
    base = builtin_folder() / "text-F16.gguf"
    if model == "random":
        base = folder / "random-F16.gguf"
        sources = given.program.parents[2] / "src/vendor/llama.cpp"
        random_gguf.write(sources / VOCABULARY, base, "135m")
    variant = combinations.made(base, schemes.find("Q4_0"), folder)
    count = STRETCHES[model]
    ours, theirs = list[Figures](), list[Figures]()
    for _ in range(given.rounds):
        ours.append(own(base, variant, text, count, given.threads, folder))
        theirs.append(peer(given.program, base, variant, text, count, given.threads, folder))
    print(f"{model}: {count} stretches of {STRETCH} tokens, {given.threads} threads, {given.rounds} rounds")
    passed = True
    for figure in ("base perplexity", "perplexity", "KL", "same token"):
        here, there = ours[0][figure], theirs[0][figure]
        passed &= abs(here / there - 1) <= CLOSE
        print(f"  {figure:<16}{here:>12.6g}{there:>12.6g}  {here / there - 1:+.3%}")
    for figure in ("base seconds", "variant seconds"):
        ratios = sorted(b[figure] / a[figure] for a, b in zip(ours, theirs, strict=True))
        passed &= statistics.median(ratios) >= FAST
        here, there = (statistics.median(one[figure] for one in side) for side in (ours, theirs))
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"  {figure:<16}{here:>12.2f}{there:>12.2f}  {statistics.median(ratios):.2f} times the speed ({span})")
    peak = max(one["peak"] for one in ours)
    passed &= peak <= SMALL
    print(f"  {'peak MB':<16}{peak / 1e6:>12.0f}{max(one['peak'] for one in theirs) / 1e6:>12.0f}")
    print(f"  {'passed' if passed else 'FAILED'}", flush=True)
    return passed


def own(base: Path, variant: Path, text: Path, count: int, threads: int, folder: Path) -> Figures:
    for name in ("rows", "base", "variant"):
        (folder / name).unlink(missing_ok=True)
    job = FidelityJob(str(base), "", (), (str(text),), count, str(folder / "rows"), "", str(folder / "base"), threads)
    before = timed(fidelity_job.command(job), worker_environment())
    after_job = replace(job, weights=str(variant), base=job.records, records=str(folder / "variant"))
    after = timed(fidelity_job.command(after_job), worker_environment())
    kept = Records(folder / "base").found
    alone = summary.compare(kept, kept)["text"]
    compared = summary.compare(Records(folder / "variant").found, kept)["text"]
    return {
        "base perplexity": alone["perplexity"],
        "perplexity": compared["perplexity"],
        "KL": compared["kl_mean"],
        "same token": compared["top1"],
        "base seconds": before[0],
        "variant seconds": after[0],
        "peak": max(before[1], after[1]),
    }


def peer(program: Path, base: Path, variant: Path, text: Path, count: int, threads: int, folder: Path) -> Figures:
    file = folder / "theirs.logits"
    file.unlink(missing_ok=True)
    usual = ["-f", text, "-c", STRETCH, "--chunks", count, "-t", threads, "-ngl", 0, "--kl-divergence-base", file]
    before = timed([str(part) for part in (program, "-m", base, *usual)])
    for _ in range(_TRIES):
        after = timed([str(part) for part in (program, "-m", variant, *usual, "--kl-divergence")])
        if "Same top p" in after[2]:
            break
    check_tokens(file, base, text, count)
    return {
        "base perplexity": found(r"Final estimate: PPL = ([\d.]+)", before[2]),
        "perplexity": found(r"Mean PPL\(Q\)\s*:\s*([\d.]+)", after[2]),
        "KL": found(r"Mean\s+KLD:\s*([\d.]+)", after[2]),
        "same token": found(r"Same top p:\s*([\d.]+)", after[2]) / 100,
        "base seconds": before[0],
        "variant seconds": after[0],
        "peak": max(before[1], after[1]),
    }


def check_tokens(file: Path, base: Path, text: Path, count: int) -> None:
    """llama-perplexity's file begins with the tokens it read; they must be those that Galago reads."""
    weights = Weights(base, gpu_layers=0)
    begin = [weights.bos] if weights.adds_bos else []
    expected = begin + weights.tokenize(text.read_text(encoding="utf-8"), parse_special=False)
    weights.close()
    with file.open("rb") as opened:
        opened.seek(len("_logits_") + 3 * 4)
        tokens = np.frombuffer(opened.read(4 * count * STRETCH), np.int32)
    if tokens.tolist() != expected[: len(tokens)]:
        sys.exit("llama-perplexity read other tokens")


def found(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"llama-perplexity did not say {pattern}:\n{text[-2000:]}")
    return float(match[1])


def timed(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, int, str]:
    """Seconds, the most bytes resident, and what was said."""
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode:
        sys.exit(f"{json.dumps(command)} failed:\n{text[-2000:]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), text


if __name__ == "__main__":
    sys.exit(main())
