"""One table of the main figures next to llama-server, in less than 20 minutes; the default of `scripts/bench`.

Unless marked otherwise, each figure is Galago's divided by llama-server's, from rounds in which both take turns. A line
that was measured while other programs used the machine is marked as unreliable.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from galago.models.device import this_machine

from . import memory, speed, stalls
from .servers import WORDS, Files, Server, ask, busy_cores, galago, llama_server, random_model, spread

CLIENTS = (1, 4, 8)
WITH_TOP_K: dict[str, Any] = {"temperature": 0.7, "top_k": 40, "top_p": 1.0, "min_p": 0.0}
WITHOUT_TOP_K = WITH_TOP_K | {"top_k": 0}
QUIET_SHARE = 0.1
"""Share of the machine's CPU time that other programs may use."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES), help="all by default")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="weights to measure in place of random ones (lines tokens, first)")
    parser.add_argument("--idle-seconds", type=int, default=60, help="duration of the line idle")


def main(options: argparse.Namespace) -> None:
    machine = this_machine()
    print(f"{machine.processor}, {machine.logical_cores} cores, {options.threads} threads, {options.rounds} rounds")
    for name in options.lines:
        LINES[name](options)


def _row(label: str, values: Sequence[float], quiet: bool, unit: str = "") -> None:
    shown = spread(values) if len(values) > 1 else f"{values[0]:.3f}"
    print(f"{label:<58} {shown}{unit}{'' if quiet else '  (not quiet)'}", flush=True)


def _is_quiet() -> bool:
    """Whether other programs hardly use the machine at the moment."""
    return bool(psutil.cpu_percent(interval=1) < 100 * QUIET_SHARE)


def _model(options: argparse.Namespace) -> Files:
    return Files(options.model.stem, options.model) if options.model else random_model("135m", "Q4_0")


@contextmanager
def _both(model: Files, threads: int | None = None) -> Iterator[list[Server]]:
    ours: list[object] = ["--ctx", 8192, "--slots", 8]
    theirs: list[object] = ["-c", 8192, "-np", 8, "-kvu", "--cache-ram", 0]
    if threads is not None:
        ours, theirs = [*ours, "--threads", threads], [*theirs, "-t", threads, "-tb", threads]
    with galago(model, ours) as here, llama_server(model, theirs) as there:
        yield [here, there]


def _ratios(samples: dict[str, list[speed.Sample]], value: str) -> list[float]:
    ours, theirs = ([getattr(sample, value) for sample in side] for side in samples.values())
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _tokens(options: argparse.Namespace) -> None:
    with _both(_model(options), options.threads) as servers:
        for label, fields in (("top_k 40", WITH_TOP_K), ("no top_k", WITHOUT_TOP_K)):
            for clients in CLIENTS:
                quiet = _is_quiet()
                samples = speed.measure(servers, clients, options.rounds, words=50, tokens=96, **fields)
                _row(f"tokens per second, {clients} clients, {label}", _ratios(samples, "rate"), quiet)
                if fields is WITH_TOP_K:
                    tokens = samples["galago"][0].prompt_tokens
                    _row(f"first token of {tokens} tokens, {clients} clients", _ratios(samples, "first"), quiet)


def _first(options: argparse.Namespace) -> None:
    with _both(_model(options), options.threads) as servers:
        for words in (650, 2600):
            quiet = _is_quiet()
            samples = speed.measure(servers, 1, max(options.rounds // 2, 3), words=words, tokens=2, warmup=1)
            tokens = samples["galago"][0].prompt_tokens
            _row(f"first token of {tokens} tokens, alone", _ratios(samples, "first"), quiet)


def _busy(options: argparse.Namespace) -> None:
    for label, count in (("one busy process", 1), ("one busy process for each core", psutil.cpu_count() or 1)):
        quiet = _is_quiet()
        with busy_cores(count), _both(_model(options)) as servers:
            samples = speed.measure(servers, 1, max(options.rounds // 2, 3), words=50, tokens=64, **WITH_TOP_K)
            _row(f"tokens per second next to {label}", _ratios(samples, "rate"), quiet)


def _overhead(options: argparse.Namespace) -> None:
    """Galago's own cost: time between two steps, and CPU time of the API process."""
    with galago(_model(options), ["--ctx", 8192, "--slots", 8, "--threads", options.threads]) as server:
        words = random.Random(0)
        for clients in (1, 4):
            quiet = _is_quiet()
            prompts = [" ".join(words.choices(WORDS, k=50)) for _ in range(clients)]
            with ThreadPoolExecutor(clients) as pool:
                busy, cpu, begin = _busy_seconds(server), _cpu_seconds(server.process), time.perf_counter()
                answers = list(pool.map(lambda prompt: ask(server, prompt, 400, **WITHOUT_TOP_K), prompts))
                seconds = time.perf_counter() - begin
            share = 100 * (_cpu_seconds(server.process) - cpu) / seconds
            between = 1000 * (seconds - (_busy_seconds(server) - busy)) / max(answer.tokens for answer in answers)
            _row(f"milliseconds between two steps, {clients} streams, no top_k", [between], quiet)
            _row(f"API process at {clients} streams, of a core", [share], quiet, " %")


def _idle(options: argparse.Namespace) -> None:
    with galago(_model(options), ["--threads", options.threads]) as server:
        ask(server, "Hello", 8)
        time.sleep(2)
        processes = [server.process, *server.process.children(recursive=True)]
        before = sum(map(_cpu_seconds, processes))
        time.sleep(options.idle_seconds)
        share = 100 * (sum(map(_cpu_seconds, processes)) - before) / options.idle_seconds
        _row("all processes while idle, of a core", [share], quiet=True, unit=" %")


def _start(options: argparse.Namespace) -> None:
    quiet = _is_quiet()
    starts = argparse.Namespace(shape="135m", threads=options.threads, rounds=options.rounds, baseline=None)
    ours, theirs = memory.start_times(starts, {}).values()
    _row("start to first token", [a / b for a, b in zip(ours, theirs, strict=True)], quiet)


def _beside(options: argparse.Namespace) -> None:
    """A long prompt during a stream, compared with the time that llama-server takes for the prompt alone."""
    words, measured = random.Random(0), stalls.Stalls()
    alone: list[float] = []
    quiet = _is_quiet()
    with _both(_model(options), options.threads) as (ours, theirs):
        for turn in range(max(options.rounds // 2, 3) + 1):
            prompt = " ".join(words.choices(WORDS, k=2600))
            stalls.run_round(ours, prompt, measured if turn else stalls.Stalls())
            alone.append(ask(theirs, prompt, 2).first)
    _row("long prompt during a stream: the stream's longest pause", measured.longest_seconds, quiet, " s")
    ratios = [a / b for a, b in zip(measured.first, alone[1:], strict=True)]
    _row("long prompt during a stream: its first token, theirs alone", ratios, quiet)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _busy_seconds(server: Server) -> float:
    """Seconds that the engine has spent computing; the worker reports them once a second."""
    time.sleep(1.1)
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("galago_busy_seconds_total"))


LINES: dict[str, Callable[[argparse.Namespace], None]] = {
    "tokens": _tokens,
    "first": _first,
    "busy": _busy,
    "overhead": _overhead,
    "start": _start,
    "beside": _beside,
    "idle": _idle,
}
