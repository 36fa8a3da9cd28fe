"""Memory by part (proportional set size) and time from a cold start to the first token, against llama-server."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

from .servers import WORDS, Server, ask, galago, llama_server, random_model, spread


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--rounds", type=int, default=5, help="cold starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baseline", type=Path, help="another checkout of Galago, in place of llama-server")


def main(options: argparse.Namespace) -> None:
    memory: dict[str, dict[str, float]] = {}
    starts = start_times(options, memory)
    for name, parts in memory.items():
        shown = ", ".join(f"{part} {mib:.0f}" for part, mib in parts.items())
        print(f"{name}: {sum(parts.values()):.0f} MiB resident with 4 slots in use ({shown})")
    ours, theirs = (sum(memory[name].values()) for name in starts)
    print(f"memory ratio {ours / theirs:.3f}")
    for name, seconds in starts.items():
        print(f"{name}: {statistics.median(seconds):.2f} s from start to first token")
    print(f"start ratio {spread([a / b for a, b in zip(*starts.values(), strict=True)])}")


def start_times(options: argparse.Namespace, memory: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """Seconds from each start of each server to its first token. The last round also measures their `memory`."""
    starts: dict[str, list[float]] = {"galago": [], "baseline" if options.baseline else "llama-server": []}
    for turn in range(options.rounds):
        for start in (_ours, _theirs) if turn % 2 else (_theirs, _ours):
            begin = time.perf_counter()
            with start(options) as server:
                ask(server, "Hello", 1)
                starts[server.name].append(time.perf_counter() - begin)
                if turn == options.rounds - 1:
                    with ThreadPoolExecutor(4) as pool:
                        list(pool.map(lambda n, to=server: ask(to, " ".join(WORDS[n : n + 300]), 100), range(4)))
                    memory[server.name] = _parts(server.process)
    return starts


def _ours(options: argparse.Namespace) -> AbstractContextManager[Server]:
    return galago(random_model(options.shape, "Q4_0"), _flags(options))


def _theirs(options: argparse.Namespace) -> AbstractContextManager[Server]:
    if options.baseline:
        return galago(random_model(options.shape, "Q4_0"), _flags(options), options.baseline)
    flags = ["-t", options.threads, "-tb", options.threads, "-c", 8192, "-np", 4, "-kvu"]
    return llama_server(random_model(options.shape, "Q4_0"), flags)


def _flags(options: argparse.Namespace) -> list[object]:
    return ["--threads", options.threads, "--ctx", 8192, "--slots", 4]


def _parts(server: psutil.Process) -> dict[str, float]:
    """MiB of each process by part: mapped weights; llama.cpp's buffers for repacked weights, context and compute; and
    the rest."""
    parts: Counter[str] = Counter()
    for number, process in enumerate([server, *server.children(recursive=True)]):
        name = f"worker {number}" if number else "server"
        for mapping in process.memory_maps(grouped=False):
            start, end = (int(address, 16) for address in mapping.addr.split("-"))
            is_heap = start % (64 << 20) == 0  # malloc aligns the heaps of threads to this
            if mapping.path.endswith(".gguf"):
                part = "weights mapped"
            elif mapping.path == "[anon]" and end - start >= 16 << 20 and not is_heap:
                part = "buffers"
            else:
                part = "other"
            parts[f"{name}: {part}"] += mapping.pss / 2**20
    return {part: mib for part, mib in parts.items() if mib >= 0.5}
