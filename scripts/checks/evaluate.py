"""Checks the confidence intervals and recommendations of `galago evaluate`, on variants of the built-in model.

    scripts/check evaluate intervals [--variant Q4_0] [--projector Q8_0] [--drawn 100]
    scripts/check evaluate stability [--variants Q8_0,Q4_0] [--runs 10]

`intervals` evaluates a variant on all held-out questions, then on 40 random subsets, and counts how often each 95 %
interval contains the value of the full set. Exits with 1 if one does so fewer than 36 times. `stability` repeats whole
evaluations, every second one next to a busy process per core, and counts how often each variant is recommended. Exits
with 1 unless one variant is recommended in 90 % of the runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from galago.models.paths import cache_folder
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate import runtime_cost, variant_summary
from galago.quantize.evaluate.evaluation import EvaluationPlan, measure_quality
from galago.quantize.evaluate.record_log import Record
from galago.quantize.evaluate.variant_grid import variant_grid

DRAWS = 40
MIN_HITS = 36
FigureReader = Callable[[dict[str, Any], str], tuple[float, float, float] | None]


def figure(part: str, value: str, low: str, high: str) -> FigureReader:
    """Returns a reader of one figure of a modality: its value, and the bounds of its interval."""

    def read(variant: dict[str, Any], sense: str) -> tuple[float, float, float] | None:
        figures = variant[part].get(sense)
        return None if figures is None else (figures[value], figures[low], figures[high])

    return read


FIGURES: dict[str, FigureReader] = {
    "KL": figure("fidelity", "kl_mean", "kl_low", "kl_high"),
    "same token": figure("fidelity", "top1", "top1_low", "top1_high"),
    "perplexity ratio": figure("fidelity", "perplexity_ratio", "ratio_low", "ratio_high"),
    "nats from looking": figure("looks", "mean", "low", "high"),
    "right answers": figure("tasks", "accuracy", "low", "high"),
}


def intervals(given: argparse.Namespace) -> int:
    folder = cache_folder() / "evaluations"
    pair = variant_grid("builtin", None, [given.variant], [given.projector], folder / "variants")
    base, variant = pair[0], next(c for c in pair if c.model.name == given.variant and c.projector is not None
                                  and given.projector in c.projector.name)  # fmt: skip
    plan = EvaluationPlan([base, variant], [builtin_folder() / "heldout.zip"], folder, threads=1)
    scored, answered = measure_quality(plan, lambda line, _share: print(line, end="\r", file=sys.stderr))

    def summarize(select: Callable[[Sequence[Record]], list[Record]]) -> dict[str, Any]:
        records = select(scored[variant.name]), select(answered[variant.name])
        return variant_summary.summarize_variant(
            variant, runtime_cost.CostFigures(), *records, scored[base.name], answered[base.name]
        )

    whole, rng = summarize(list), np.random.default_rng(5)
    hits: Counter[tuple[str, str]] = Counter()
    for _ in range(DRAWS):
        part = summarize(lambda records: subset(records, given.drawn, rng))
        for name, read in FIGURES.items():
            for sense in whole["tasks"]:
                full, partial = read(whole, sense), read(part, sense)
                if full and partial:
                    hits[name, sense] += partial[1] <= full[0] <= partial[2]
    print(
        f"\n{variant.name}: intervals that contain the full set's value, of {DRAWS} draws of {given.drawn} per modality"
    )
    for (name, sense), count in hits.items():
        print(f"  {name:<18}{sense:<7}{count:>3}  {FIGURES[name](whole, sense)[0]:.4g}")  # type: ignore[index]
    return 0 if min(hits.values()) >= MIN_HITS else 1


def subset(records: Sequence[Record], count: int, rng: np.random.Generator) -> list[Record]:
    """Draws `count` records of each modality, without replacement."""
    result: list[Record] = []
    for sense in dict.fromkeys(record["sense"] for record in records):
        own = [record for record in records if record["sense"] == sense]
        result += [own[i] for i in rng.choice(len(own), min(count, len(own)), replace=False)]
    return result


def stability(given: argparse.Namespace) -> int:
    chosen: Counter[str] = Counter()
    for run in range(given.runs):
        with tempfile.TemporaryDirectory() as cache, busy_cores(run % 2 == 1):
            pair = [str(builtin_folder() / "text-F16.gguf"), "--mmproj", str(builtin_folder() / "mmproj-F16.gguf")]
            command = [".venv/bin/galago", "evaluate", *pair, "--variants", given.variants, "--quick", "--threads", "1",
                       "--json", f"{cache}/results.json"]  # fmt: skip
            begin = time.perf_counter()
            subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": cache}, check=True, capture_output=True)
            recommended = json.loads(Path(cache, "results.json").read_text(encoding="utf-8"))["recommended"]
        chosen[recommended["variant"]] += 1
        load = "next to busy processes" if run % 2 else "alone"
        print(f"{run + 1}, {load}, {time.perf_counter() - begin:.0f} s: {recommended['reason']}", flush=True)
    print(", ".join(f"{name} {count} times" for name, count in chosen.most_common()))
    return 0 if max(chosen.values()) >= 0.9 * given.runs else 1


@contextlib.contextmanager
def busy_cores(enabled: bool) -> Iterator[None]:
    count = (os.cpu_count() or 1) if enabled else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("intervals")
    one.add_argument("--variant", default="Q4_0")
    one.add_argument("--projector", default="Q8_0")
    one.add_argument("--drawn", type=int, default=100)
    one.set_defaults(check=intervals)
    other = kinds.add_parser("stability")
    other.add_argument("--variants", default="Q8_0,Q4_0")
    other.add_argument("--runs", type=int, default=10)
    other.set_defaults(check=stability)
    given = parser.parse_args(arguments)
    return int(given.check(given))
