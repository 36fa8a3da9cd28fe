"""Compares the predictions of `galago fit` with measurements: a worker's memory and its tokens per second.

Uses random-weight models of real shapes, which the first run creates. Memory is the proportional set size (PSS) of the
worker after its context is full and, with a projector, after an image. Speed is that of one request without speculative
decoding, predicted from a machine benchmark of the same minute. Linux only. Exits with 1 if a prediction is too far
off.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from galago.models.capacity.throughput import MachineBenchmark, estimate_speed, matrix_types
from galago.models.files import ModelFiles
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig, default_threads
from galago.runtime.inference.footprint import footprint_function
from galago.runtime.inference.machine_benchmark import run
from galago.runtime.pool.llama_build import installed_build
from galago.runtime.types.events import Finished
from galago.runtime.types.messages import Image, Message, Text
from galago.runtime.types.placement import ON_CPU, LoadPlan
from galago.runtime.types.request import Request, Sampling
from galago.runtime.worker.supervisor import WorkerSupervisor

from .servers import ROOT, random_model

MAX_MEMORY_EXCESS = 0.08
MAX_MEMORY_SHORTFALL = 0.03
MAX_SPEED_ERROR = 0.20
"""Accepted relative errors of predictions."""
CASES = (
    ("135m", "q4_0", 2048, False), ("135m", "q8_0", 8192, True), ("135m", "f16", 8192, False),
    ("500m", "q4_0", 8192, True), ("500m", "q8_0", 2048, False), ("500m", "f16", 2048, True),
    ("1b", "q4_0", 2048, True), ("1b", "q8_0", 8192, False), ("1b", "f16", 8192, False), ("1b", "q4_0", 8192, False),
)  # fmt: skip
SHAPES = tuple(dict.fromkeys(case[0] for case in CASES))
SLOTS, PROMPT, ANSWER = 4, 512, 40
PICTURE = ROOT / "tests/data/picture-1.png"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--what", nargs="+", choices=("memory", "speed"), default=("memory", "speed"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--threads", type=int, default=default_threads())


def main(options: argparse.Namespace) -> None:
    cases = [case for case in CASES if case[0] in options.shapes]
    right = True
    if "memory" in options.what:
        print("model            context  projector  predicted  measured     off  (MB)")
        for shape, kind, cells, with_projector in cases:
            right &= _compare_memory(_files(shape, kind, with_projector), cells)
    if "speed" in options.what:
        print("model          tokens/s: predicted  measured     off  first token: predicted  measured     off")
        for shape in dict.fromkeys(case[0] for case in cases):
            kinds = dict.fromkeys(case[1] for case in cases if case[0] == shape)
            models = [_files(shape, kind, False) for kind in kinds]
            benchmark = run({name for files in models for name in matrix_types(files.header)}, options.threads)
            for files in models:
                right &= _compare_speed(files, benchmark)
    if not right:
        raise SystemExit(1)


def _files(shape: str, kind: str, with_projector: bool) -> ModelFiles:
    model = random_model(shape, kind.upper(), with_projector)
    return replace(resolve(model.weights, model.projector), trusted=True)


def _compare_memory(files: ModelFiles, cells: int) -> bool:
    config = ModelConfig(cells, 1, SLOTS, cache_mib=0)
    features = installed_build().features
    predicted = footprint_function(files, config, ON_CPU, features, server=False)(cells, SLOTS).needed
    with _worker(files, config) as (worker, process):
        _ask(worker, " hello" * (cells - 64))
        if files.projector:
            _ask(worker, "x", Image(PICTURE.read_bytes(), PICTURE.name))
        measured = pss(process.pid)
    off = predicted / measured - 1
    print(
        f"{files.weights.stem:16} {cells:7}  {'yes' if files.projector else 'no':9}  "
        f"{predicted / 1e6:9.1f} {measured / 1e6:9.1f}  {off:+6.1%}",
        flush=True,
    )
    return bool(-MAX_MEMORY_SHORTFALL <= off <= MAX_MEMORY_EXCESS)


def _compare_speed(files: ModelFiles, benchmark: MachineBenchmark) -> bool:
    expected = estimate_speed(files.header, benchmark, 1024, PROMPT + ANSWER // 2)
    assert expected is not None
    with _worker(files, ModelConfig(1024, benchmark.threads, 1, cache_mib=0)) as (worker, _):
        answers = [_ask(worker, f"{i}" + " hello" * (PROMPT - 16), tokens=ANSWER) for i in range(2)]
    rate = max(answer.timings.tokens_per_second(answer.usage.completion_tokens) or 0 for answer in answers)
    first = min(answer.timings.first_token_seconds for answer in answers)
    off, off_first = expected.tokens_per_second / rate - 1, expected.first_token_seconds / first - 1
    print(
        f"{files.weights.stem:24} {expected.tokens_per_second:9.1f} {rate:9.1f}  {off:+6.1%}"
        f" {expected.first_token_seconds:23.2f} {first:9.2f}  {off_first:+6.1%}",
        flush=True,
    )
    return abs(off) <= MAX_SPEED_ERROR


@contextmanager
def _worker(files: ModelFiles, config: ModelConfig) -> Iterator[tuple[WorkerSupervisor, psutil.Process]]:
    before = set(psutil.Process().children())
    with closing(WorkerSupervisor(files, lambda: LoadPlan(config))) as worker:
        [process] = set(psutil.Process().children()) - before
        yield worker, process


def _ask(worker: WorkerSupervisor, text: str, *media: Image, tokens: int = 8) -> Finished:
    message = Message("user", (*media, Text(text)))
    request = Request((message,), Sampling(0.0), max_tokens=tokens, ignore_eos=True, cache=False)
    *_, end = worker.generate(request)
    assert isinstance(end, Finished), end
    return end


def pss(pid: int) -> int:
    match = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024
