"""Measures what a variant costs on this machine: loading time, tokens per second, media, memory and energy.

Each round loads the variant in a new process. Rounds of several variants alternate, so that other load on the machine
affects all of them. The best round counts.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import psutil

from ...models.registry.resolve import builtin_folder
from ...models.sensors import EnergyMeter
from ...runtime.python_api import LocalModel, Reply, load
from ...runtime.types.messages import Audio, Image, Message, Part, Text
from ...runtime.types.request import Request, Sampling
from .passages import GRAY_IMAGE, SILENCE
from .variant_grid import ModelVariant

STREAMS = 4
_ANSWER_TOKENS = 48
_MIN_MEASURING_SECONDS = 1.0
"""A small model's speed is measured for this long; a large model takes longer for one answer."""
_LONG_PROMPT = "The quick brown fox jumps over the lazy dog and the cat sits on the mat while it rains all day. " * 6

CostFigures: TypeAlias = dict[str, float]
"""The figures of one round, by the names that results use; those of memory begin with `memory_`."""


def measure(variant: ModelVariant, threads: int | None, gpu_layers: int) -> CostFigures:
    """Measures one round. Raises `GalagoError`."""
    other_children = {process.pid for process in psutil.Process().children()}
    begin = time.perf_counter()
    projector = variant.projector.path if variant.projector else None
    with load(
        variant.model.path, mmproj=projector, threads=threads, slots=STREAMS, gpu_layers=gpu_layers, isolated=True
    ) as model:
        figures = {"load_seconds": time.perf_counter() - begin}
        _ask(model, "Hi", _ANSWER_TOKENS)
        workers = [process for process in psutil.Process().children() if process.pid not in other_children]
        figures |= _speed(model) | _media(model)
        figures |= {name: float(size) for process in workers[:1] for name, size in memory(process.pid).items()}
    return figures


def _speed(model: LocalModel) -> CostFigures:
    """Measures one stream, then several concurrent streams.

    The rates of several streams are totals: of prompts until the last one is read, of tokens from the first one on.
    """
    first_token_seconds = statistics.median(_ask(model, "Hi", 1).timings.first_token_seconds for _ in range(3))
    meter = EnergyMeter()
    replies, deadline = list[Reply](), time.perf_counter() + _MIN_MEASURING_SECONDS
    while not replies or time.perf_counter() < deadline:
        replies.append(_ask(model, _LONG_PROMPT, _ANSWER_TOKENS))
    joules = meter.joules()
    figures = {
        "first_token_seconds": first_token_seconds,
        "prefill_tokens_per_second": statistics.median(map(_prefill_rate, replies)),
        "decode_tokens_per_second": statistics.median(map(_decode_rate, replies)),
    }
    if joules is not None:
        figures["joules_per_answer"] = joules / len(replies)
    with ThreadPoolExecutor(STREAMS) as pool:
        concurrent = list(pool.map(lambda i: _ask(model, f"{i} {_LONG_PROMPT}", _ANSWER_TOKENS), range(STREAMS)))
    first, last = (pick(reply.timings.first_token_seconds for reply in concurrent) for pick in (min, max))
    end = max(reply.timings.total_seconds for reply in concurrent)
    prompt, completion = (
        sum(getattr(reply.usage, f"{kind}_tokens") for reply in concurrent) for kind in ("prompt", "completion")
    )
    figures["prefill_tokens_per_second_4"] = prompt / max(last, 1e-6)
    figures["decode_tokens_per_second_4"] = completion / max(end - first, 1e-6)
    return figures


def _media(model: LocalModel) -> CostFigures:
    """Measures the seconds that an image or audio clip adds before the first token. The first of two is a warm-up."""
    figures: CostFigures = {}
    folder = builtin_folder() / "samples"
    without_media = _ask(model, "What is it?", 1).timings.first_token_seconds
    parts: dict[str, Sequence[Part]] = {}
    if model.info.vision:
        parts["image_seconds"] = [GRAY_IMAGE, Image((folder / "shapes.png").read_bytes())]
    if model.info.audio:
        parts["audio_seconds"] = [SILENCE, Audio((folder / "speech.wav").read_bytes())]
    for name, media in parts.items():
        seconds = [_ask(model, "What is it?", 1, part).timings.first_token_seconds for part in media]
        figures[name] = max(seconds[-1] - without_media, 0.0)
    return figures


def _prefill_rate(reply: Reply) -> float:
    seconds = reply.timings.first_token_seconds - reply.timings.prompt_seconds
    return reply.usage.prompt_tokens / seconds if seconds > 0 else 0.0


def _decode_rate(reply: Reply) -> float:
    return reply.timings.tokens_per_second(reply.usage.completion_tokens) or 0.0


def _ask(model: LocalModel, text: str, tokens: int, part: Part | None = None) -> Reply:
    message = Message("user", (*([part] if part else []), Text(text)))
    request = Request((message,), Sampling(temperature=0), max_tokens=tokens, ignore_eos=True, cache=False)
    with model.stream(request) as answer:
        for _ in answer:
            pass
        return answer.reply


def memory(pid: int) -> dict[str, int]:
    """Returns the bytes of a process: `memory_steady` now, `memory_peak` so far, and the parts of the current bytes.

    The parts are `memory_own`, and `memory_mapped` from files (mostly weights). They and the peak are known on Linux
    only.
    """
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        fields = {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
        names = {"steady": "VmRSS", "peak": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
        return {f"memory_{name}": fields[field] for name, field in names.items() if field in fields}
    resident = psutil.Process(pid).memory_info().rss
    return {"memory_steady": resident, "memory_peak": resident}


def best(rounds: Sequence[CostFigures]) -> CostFigures:
    """Returns the highest rate, the fewest seconds, and the median of everything else.

    Other load on the machine makes a variant slower, never faster.
    """
    figures = {}
    for name in dict.fromkeys(name for each in rounds for name in each):
        values = [each[name] for each in rounds if name in each]
        pick = max if "per_second" in name else min if name.endswith("seconds") else statistics.median
        figures[name] = float(pick(values))
    return figures


def alternate_rounds(
    variants: Sequence[ModelVariant], count: int, measure_round: Callable[[ModelVariant, int], CostFigures]
) -> dict[str, list[CostFigures]]:
    """Measures all variants `count` times, every other time in reverse order. Returns the rounds by variant."""
    rounds: dict[str, list[CostFigures]] = {variant.name: [] for variant in variants}
    for number in range(count):
        for variant in variants if number % 2 == 0 else reversed(variants):
            rounds[variant.name].append(measure_round(variant, number))
    return rounds
