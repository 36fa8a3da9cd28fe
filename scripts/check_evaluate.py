"""Checks what `galago evaluate` says of its own certainty, on variants of the built-in model.

    .venv/bin/python scripts/check_evaluate.py intervals [--variant Q4_0] [--projector Q8_0] [--drawn 100]
    .venv/bin/python scripts/check_evaluate.py stability [--variants Q8_0,Q4_0] [--runs 10]

`intervals` evaluates a variant on all held-out questions, then 40 times on some of each sense drawn from them, and
counts how often each stated interval of 95 % holds what all of them gave; exit code 1 where it is fewer than 36 times.
`stability` evaluates from nothing, every other time beside a busy process for each core, and counts how often each
variant is recommended; exit code 1 where none is in nine of ten.
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
from galago.quantize.evaluate import runtime_cost, summary
from galago.quantize.evaluate.combinations import grid
from galago.quantize.evaluate.evaluation import EvaluationPlan, measured
from galago.quantize.records import Record

DRAWS, LEAST = 40, 36
Find = Callable[[dict[str, Any], str], tuple[float, float, float] | None]


def figure(part: str, value: str, low: str, high: str) -> Find:
    """Reads a figure of a sense with its interval."""

    def find(variant: dict[str, Any], sense: str) -> tuple[float, float, float] | None:
        one = variant[part].get(sense)
        return None if one is None else (one[value], one[low], one[high])

    return find


FIGURES: dict[str, Find] = {
    "KL": figure("fidelity", "kl_mean", "kl_low", "kl_high"),
    "same token": figure("fidelity", "top1", "top1_low", "top1_high"),
    "perplexity ratio": figure("fidelity", "perplexity_ratio", "ratio_low", "ratio_high"),
    "nats from looking": figure("looks", "mean", "low", "high"),
    "right answers": figure("tasks", "accuracy", "low", "high"),
}


def intervals(given: argparse.Namespace) -> int:
    folder = cache_folder() / "evaluations"
    pair = grid("builtin", None, [given.variant], [given.projector], folder / "variants")
    base, variant = pair[0], next(c for c in pair if c.model.name == given.variant and c.projector is not None
                                  and given.projector in c.projector.name)  # fmt: skip
    plan = EvaluationPlan([base, variant], [builtin_folder() / "heldout.zip"], folder, threads=1)
    scored, answered = measured(plan, lambda line, _share: print(line, end="\r", file=sys.stderr))

    def told(keep: Callable[[Sequence[Record]], list[Record]]) -> dict[str, Any]:
        few = keep(scored[variant.name]), keep(answered[variant.name])
        return summary.variant(variant, runtime_cost.Round(), *few, scored[base.name], answered[base.name])

    whole, rng = told(list), np.random.default_rng(5)
    held: Counter[tuple[str, str]] = Counter()
    for _ in range(DRAWS):
        part = told(lambda records: drawn(records, given.drawn, rng))
        for name, find in FIGURES.items():
            for sense in whole["tasks"]:
                full, one = find(whole, sense), find(part, sense)
                if full and one:
                    held[name, sense] += one[1] <= full[0] <= one[2]
    print(f"\n{variant.name}: of {DRAWS} draws of {given.drawn} of each sense, intervals that hold the value of all")
    for (name, sense), count in held.items():
        print(f"  {name:<18}{sense:<7}{count:>3}  {FIGURES[name](whole, sense)[0]:.4g}")  # type: ignore[index]
    return 0 if min(held.values()) >= LEAST else 1


def drawn(records: Sequence[Record], count: int, rng: np.random.Generator) -> list[Record]:
    """So many of each sense."""
    found: list[Record] = []
    for sense in dict.fromkeys(record["sense"] for record in records):
        own = [record for record in records if record["sense"] == sense]
        found += [own[i] for i in rng.choice(len(own), min(count, len(own)), replace=False)]
    return found


def stability(given: argparse.Namespace) -> int:
    chosen: Counter[str] = Counter()
    for run in range(given.runs):
        with tempfile.TemporaryDirectory() as cache, busy(run % 2 == 1):
            pair = [str(builtin_folder() / "text-F16.gguf"), "--mmproj", str(builtin_folder() / "mmproj-F16.gguf")]
            command = [".venv/bin/galago", "evaluate", *pair, "--variants", given.variants, "--quick", "--threads", "1",
                       "--json", f"{cache}/results.json"]  # fmt: skip
            begin = time.perf_counter()
            subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": cache}, check=True, capture_output=True)
            found = json.loads(Path(cache, "results.json").read_text(encoding="utf-8"))["recommended"]
        chosen[found["variant"]] += 1
        beside = "beside busy processes" if run % 2 else "alone"
        print(f"{run + 1}, {beside}, {time.perf_counter() - begin:.0f} s: {found['reason']}", flush=True)
    print(", ".join(f"{name} {count} times" for name, count in chosen.most_common()))
    return 0 if max(chosen.values()) >= 0.9 * given.runs else 1


@contextlib.contextmanager
def busy(wanted: bool) -> Iterator[None]:
    count = (os.cpu_count() or 1) if wanted else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> int:
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
    given = parser.parse_args()
    return int(given.check(given))


if __name__ == "__main__":
    sys.exit(main())
