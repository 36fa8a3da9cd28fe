"""Tokens per second behind a long conversation, with and without flash attention, against llama-server.

Each client has a conversation of its own. Its prompt is sent once, so that the cache has it in the timed rounds, which
measure decoding only. Ratios are computed within each round, in which the servers take turns. A further client then
asks a short question while the cache may still hold the long conversations.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from . import random_gguf
from .servers import WORDS, Server, ask, galago, llama_server, random_model, spread

TOKENS_PER_WORD = 1.21
"""Of the random prompts."""

SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_k": 40, "top_p": 1.0, "min_p": 0.0}
SHORT_TOKENS = 20
"""Length of the prompts of depth 0 and of the short chat."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=random_gguf.SHAPES, default="135m")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1000, 3000], help="tokens before the answer")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="length of the answers")
    parser.add_argument("--threads", type=int, default=2)


def main(options: argparse.Namespace) -> None:
    print(f"{options.shape} Q4_0, {options.threads} threads, answers of {options.tokens} tokens, ratios")
    for clients, depth in itertools.product(options.clients, options.depths):
        with ExitStack() as stack:
            servers = _start(stack, options, clients, depth)
            prompts = _prompts(clients, depth)
            firsts = {server.name: _send(server, prompts, options.tokens)[0] for server in servers}
            _report(f"{clients} clients, depth {depth}", _rates(servers, prompts, options))
            if depth:
                seconds = ", ".join(f"{name} {first:.2f}" for name, first in firsts.items())
                print(f"  first token of the prompts, median of the clients, s: {seconds}", flush=True)
                _report(
                    f"a short chat, {clients} of {depth} tokens in the cache",
                    _rates(servers, _prompts(1, 0, seed=1), options),
                )


def _start(stack: ExitStack, options: argparse.Namespace, clients: int, depth: int) -> list[Server]:
    """llama-server, and Galago with and without flash attention."""
    model, slots = random_model(options.shape, "Q4_0"), clients + 1
    context = (clients * (depth + options.tokens + 64) + 512) // 256 * 256
    ours: list[object] = ["--ctx", context, "--slots", slots, "--threads", options.threads]
    theirs = ["-c", context, "-np", slots, "-kvu", "--cache-ram", 0, "-t", options.threads, "-tb", options.threads]
    servers = [stack.enter_context(llama_server(model, theirs))]
    for choice in ("on", "off"):
        server = stack.enter_context(galago(model, [*ours, "--flash-attention", choice]))
        servers.append(replace(server, name=f"flash attention {choice}"))
    return servers


def _prompts(count: int, depth: int, seed: int = 0) -> list[str]:
    words = random.Random(seed)
    length = max(round((depth or SHORT_TOKENS) / TOKENS_PER_WORD), 1)
    return [" ".join(words.choices(WORDS, k=length)) for _ in range(count)]


def _send(server: Server, prompts: Sequence[str], tokens: int) -> tuple[float, float]:
    """Sends all prompts at once. Returns medians: seconds to the first text, and tokens per second from there on."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: ask(server, prompt, tokens, **SAMPLING), prompts))
    if errors := [answer.error for answer in answers if answer.error]:
        raise SystemExit(f"{server.name}: {errors[0]}")
    rates = [(answer.tokens - 1) / (answer.last - answer.first) for answer in answers]
    return statistics.median(answer.first for answer in answers), statistics.median(rates)


def _rates(servers: Sequence[Server], prompts: Sequence[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of each server in each round, after one that is not counted."""
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    for turn in range(options.rounds + 1):
        for server in servers[:: 1 if turn % 2 else -1]:
            rate = _send(server, prompts, options.tokens)[1]
            if turn:
                rates[server.name].append(rate)
    return rates


def _report(label: str, rates: dict[str, list[float]]) -> None:
    (_, theirs), *ours = rates.items()
    print(f"{label}: llama-server {statistics.median(theirs):.1f} tokens per second for each client", flush=True)
    for name, values in ours:
        print(f"  {name:<22} {spread([a / b for a, b in zip(values, theirs, strict=True)])}", flush=True)
