"""Measures Galago's HTTP server beside llama-server, and prints ratios, because a shared machine makes times lie.

Both serve the same random-weight model with the same threads, context, slots and sampling. Rounds alternate between
them: so many clients ask at once, each with a prompt of its own so that no cache helps; the first rounds are warm-up
and discarded. Tokens are counted from `usage`. A ratio is taken within each round; the median and the quartiles are
shown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

import random_gguf
from galago.quantize.schemes import find
from galago.runtime.native.quantizer import quantize

ROOT = Path(__file__).resolve().parent.parent
CONTEXT, SLOTS = 8192, 8
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 1}
WORDS = (ROOT / "LICENSE").read_text("utf-8").split()


@dataclass(frozen=True)
class Answer:
    """One streamed answer: when its first and last text came, in seconds after it was asked for, and its tokens."""

    first: float
    last: float
    tokens: int
    prompt_tokens: int


@dataclass(frozen=True)
class Sample:
    """One round: the median time to the first text, and tokens per second: one client's from its first text on, or
    those of several from when they asked."""

    first: float
    rate: float
    prompt_tokens: int


def main() -> None:
    options = _options()
    for shape in options.shapes:
        model = _model(shape, options.scheme, options.peer)
        with ExitStack() as stack:
            if options.busy:
                stack.enter_context(_busy())
            servers = {
                "galago": stack.enter_context(_galago(model, options.threads)),
                "llama-server": stack.enter_context(_llama_server(options.peer, model, options.threads)),
            }
            for clients in options.clients:
                _report(shape, clients, options, _measure(servers, clients, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="path of llama-server")
    parser.add_argument("--shapes", nargs="+", choices=random_gguf.SHAPES, default=list(random_gguf.SHAPES))
    parser.add_argument("--scheme", default="Q4_0")
    parser.add_argument("--clients", type=int, nargs="+", default=[1], help="how many ask at once")
    parser.add_argument("--rounds", type=int, default=12, help="counted rounds of each server")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--words", type=int, default=100, help="length of the prompts")
    parser.add_argument("--tokens", type=int, default=64, help="length of the answers")
    parser.add_argument("--threads", type=int, help="of both; each chooses for itself otherwise")
    parser.add_argument("--busy", action="store_true", help="beside one busy process for each core")
    return parser.parse_args()


def _model(shape: str, scheme: str, peer: Path) -> Path:
    """The quantized random model, made on first use."""
    target = ROOT / "build" / "bench" / f"random-{shape}-{scheme}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        vocabulary = peer.parents[2] / "src/vendor/llama.cpp/models/ggml-vocab-llama-bpe.gguf"
        full, part = target.with_name(f"random-{shape}-F16.gguf"), target.with_suffix(".part")
        random_gguf.write(vocabulary, full, shape)
        quantize(full, part, find(scheme).ftype)
        full.unlink()
        part.rename(target)
    return target


@contextmanager
def _busy() -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def _galago(model: Path, threads: int | None) -> Iterator[str]:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--model", str(model), "--port", "8191"]
    command += ["--ctx", str(CONTEXT), "--slots", str(SLOTS)]
    command += [] if threads is None else ["--threads", str(threads)]
    with _running(command, "http://127.0.0.1:8191") as url:
        yield url


@contextmanager
def _llama_server(program: Path, model: Path, threads: int | None) -> Iterator[str]:
    command = [str(program), "-m", str(model), "--host", "127.0.0.1", "--port", "8192"]
    command += ["-c", str(CONTEXT), "-np", str(SLOTS), "-kvu", "--cache-ram", "0"]
    command += [] if threads is None else ["-t", str(threads), "-tb", str(threads)]
    with _running(command, "http://127.0.0.1:8192") as url:
        yield url


@contextmanager
def _running(command: list[str], url: str) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _measure(servers: dict[str, str], clients: int, options: argparse.Namespace) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in servers}
    words = random.Random(0)
    # llama-server may close a kept-alive connection under its client's next request, so each gets a fresh one
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(timeout=600, limits=limits) as client, ThreadPoolExecutor(clients) as pool:
        for turn in range(options.warmup + options.rounds):
            prompts = [" ".join(words.choices(WORDS, k=options.words)) for _ in range(clients)]
            names = list(servers) if turn % 2 else list(servers)[::-1]
            for name in names:
                ask = partial(_ask, client, servers[name], options.tokens)
                sample = _round(list(pool.map(ask, prompts)))
                if turn >= options.warmup:
                    samples[name].append(sample)
            if sys.stderr.isatty():
                print(f"\rround {turn + 1} of {options.warmup + options.rounds}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return samples


def _round(answers: list[Answer]) -> Sample:
    if len(answers) == 1:
        rate = (answers[0].tokens - 1) / (answers[0].last - answers[0].first)
    else:
        rate = sum(a.tokens for a in answers) / max(a.last for a in answers)
    return Sample(statistics.median(a.first for a in answers), rate, answers[0].prompt_tokens)


def _ask(client: httpx.Client, url: str, tokens: int, prompt: str) -> Answer:
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **SAMPLING,
    }
    started = time.perf_counter()
    first = last = 0.0
    usage: dict[str, int] = {}
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                last = time.perf_counter()
                first = first or last
    return Answer(first - started, last - started, usage["completion_tokens"], usage["prompt_tokens"])


def _report(shape: str, clients: int, options: argparse.Namespace, samples: dict[str, list[Sample]]) -> None:
    ours, theirs = samples["galago"], samples["llama-server"]
    tokens = statistics.median(s.prompt_tokens for s in ours)
    print(
        f"random {shape} {options.scheme}, {clients} at once, {options.threads or 'own choice of'} threads, "
        f"{os.cpu_count()} cores{', all busy' if options.busy else ''}, "
        f"prompts of {tokens:.0f} tokens, answers of {options.tokens}, {options.rounds} rounds"
    )
    for label, unit, scale, value in (
        ("decoding" if clients == 1 else "in all", "tokens/s", 1, lambda s: s.rate),
        ("first token", "ms", 1000, lambda s: s.first),
    ):
        ratios = [value(a) / value(b) for a, b in zip(ours, theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        here, there = (statistics.median(value(s) for s in side) * scale for side in (ours, theirs))
        print(
            f"  {label:<12} galago {here:8.1f}  llama-server {there:8.1f} {unit:<9} "
            f"ratio {middle:.3f} (quartiles {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
