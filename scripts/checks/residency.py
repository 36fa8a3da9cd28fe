"""Six models in a budget for about three: right answers, memory within the budget, and processes that are killed.

`scripts/check residency [--model FILE] [--requests N] [--kills N]`

Serves the built-in model, a reranker, two embedding models, a random-weight 135M model and, given `--model`, one of the
user's. Clients send requests in random order; meanwhile the proportional set
size of the server and its children is read every 50 ms, and workers are killed while they load, answer or unload.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import psutil

from benchmarks import random_gguf
from fakes import bert
from fakes.server import WORKER_PROGRAM, Server, children_running, serving_any
from galago.models.capacity.memory import SERVER_BYTES
from galago.models.registry.resolve import resolve

SAMPLE_SECONDS = 0.05
MAX_EXCESS = 1.05
"""Most memory that may be used, as a multiple of the budget."""

CACHE_MIB = 8
MODELS_AT_ONCE = 3

MIN_RETURNED = 0.98
"""The part of a model's memory that must be back once it is unloaded."""

Requests: TypeAlias = dict[str, tuple[str, dict[str, Any]]]
"""The path and body of a request to each model."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("scripts/check residency", description=__doc__)
    parser.add_argument("--model", type=Path, help="a chat model of your own, such as Gemma 3 270M")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
            os.environ[variable] = f"{folder}/{variable.lower()}"
        asks = _install(Path(folder), options.model)
        wrong = _answers_within_budget(asks, options.requests)
        wrong += _killed_processes(asks, options.requests, options.kills)
    print("all as it should be" if not wrong else f"{wrong} findings")
    return int(wrong > 0)


def _install(folder: Path, own: Path | None) -> Requests:
    """Makes and imports the models. Returns the path and body of a request to each."""
    from galago.runtime.cli.main import main as galago

    files = [folder / f"{name}.gguf" for name in ("reranker", "embedder", "chat", "small-embedder")]
    reranker, embedder, chat, small = files
    bert.write(reranker, "rank", bert.Shape(width=256, layers=6, inner=1024))
    bert.write(embedder, "mean", bert.Shape(width=384, layers=12, inner=1536))
    bert.write(small, "mean")
    random_gguf.write(resolve("builtin").weights, chat, "135m")
    for file in [*files, *([own] if own else [])]:
        if galago(["import", str(file)]) != 0:
            raise SystemExit(f"{file} could not be imported")
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "Opposite of big?"}], "temperature": 0}
    completed: dict[str, Any] = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    requests = {
        "builtin": ("/v1/chat/completions", said),
        "reranker": ("/v1/rerank", {"query": "a b", "documents": ["a", "b c", "c"]}),
        "embedder": ("/v1/embeddings", {"input": ["a b", "c"]}),
        "small-embedder": ("/v1/embeddings", {"input": "a b c"}),
        "chat": ("/v1/completions", completed),
    }
    if own:
        requests[_imported_name(own)] = ("/v1/completions", completed)
    return requests


def _imported_name(file: Path) -> str:
    from galago.models.registry import imported

    return next(entry.name for entry in imported.read_list() if entry.weights[0].samefile(file))


@contextmanager
def _serving(memory: int | None = None) -> Iterator[Server]:
    limit = () if memory is None else ("--memory", f"{memory / 1e6:.3f}MB")
    with serving_any(*limit, "--cache-ram", str(CACHE_MIB), "--parallel", "2") as server:
        server.wait_until_ready()
        yield server


def _ask(server: Server, name: str, request: tuple[str, dict[str, Any]]) -> tuple[str, Any]:
    """The name of the model that answered, and what it answered, or the error."""
    path, body = request
    try:
        answer = httpx.post(f"{server.url}{path}", json={"model": name, **body}, timeout=300).json()
    except httpx.HTTPError as error:
        return "", repr(error)
    if "error" in answer:
        return "", answer["error"]["message"]
    return answer["model"], _rounded([answer.get(key) for key in ("choices", "results", "data")])


def _rounded(value: Any) -> Any:
    """A value with its numbers rounded: they depend a little on what is computed at the same time."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value


def _answers_within_budget(requests: Requests, count: int) -> int:
    """Counts what is wrong while clients ask for models in random order."""
    with _serving() as server:
        expected = {name: _ask(server, name, request) for name, request in requests.items()}
        status = {name: httpx.post(f"{server.url}/v1/models/{name}/load").json() for name in requests}
    sizes = {name: int(one["memory_bytes"]) for name, one in status.items()}
    budget = SERVER_BYTES + sum(sorted(sizes.values())[-MODELS_AT_ONCE:])
    print(f"{len(sizes)} models, together {sum(sizes.values()) / 1e6:.0f} MB; a budget of {budget / 1e6:.0f} MB")
    with _serving(budget) as server, _sampling(server) as samples:
        names = random.Random(0).choices(list(requests), k=count)
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda name: _ask(server, name, requests[name]), names))
        loads = sum(" was loaded in " in line for line in server.lines)
        returned = [_returned(server, name, sizes[name]) for name in requests]
    wrong = [(name, answer) for name, answer in zip(names, answers, strict=True) if answer != expected[name]]
    print(f"{count} requests, {loads} loads, {len(wrong)} wrong answers {[*map(str, wrong[:3])]}")
    excess = sum(one > MAX_EXCESS * budget for one in samples)
    print(f"memory: at most {max(samples) / budget:.2f} of the budget in {len(samples)} samples, {excess} beyond")
    print(f"memory that is back after unloading, of what loading took: {', '.join(f'{one:.3f}' for one in returned)}")
    return len(wrong) + excess + sum(one < MIN_RETURNED for one in returned)


def _returned(server: Server, name: str, size: int) -> float:
    """Loads a model, unloads it, and returns the part of its memory that the system has again."""
    for other in httpx.get(f"{server.url}/v1/models").json()["data"]:
        if other["loaded"]:
            httpx.post(f"{server.url}/v1/models/{other['id']}/unload", timeout=60)
    before = _memory(server)
    httpx.post(f"{server.url}/v1/models/{name}/load", timeout=300)
    loaded = _memory(server)
    httpx.post(f"{server.url}/v1/models/{name}/unload", timeout=60)
    return (loaded - _memory(server)) / max(loaded - before, 1)


def _killed_processes(requests: Requests, count: int, kills: int) -> int:
    """Counts answers that are wrong or missing while workers are killed at random times."""
    with _serving() as server:
        expected = {name: _ask(server, name, request) for name, request in requests.items()}
    smallest = min(requests)  # all models are loaded again and again, as none is kept
    with _serving() as server:
        done = threading.Event()
        killer = threading.Thread(target=_kill, args=(server, kills, done))
        killer.start()
        names = random.Random(1).choices(list(requests), k=count)
        bodies = {name: (path, {**body, "keep_alive": 0}) for name, (path, body) in requests.items()}
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda name: _ask(server, name, bodies[name]), names))
            while killer.is_alive():
                answers.append(_ask(server, smallest, bodies[smallest]))
                names.append(smallest)
        done.set()
        killer.join()
    ends = Counter(
        "right" if answer == expected[name] else "error" if answer[0] == "" else "wrong"
        for name, answer in zip(names, answers, strict=True)
    )
    errors = Counter(text for end, text in answers if end == "")
    print(f"{kills} kills: {dict(ends)}; errors: {dict(errors.most_common(5))}")
    for name, answer in zip(names, answers, strict=True):
        if answer[0] and answer != expected[name]:
            print(f"{name} answered {str(answer):.300} instead of {str(expected[name]):.300}")
    return ends["wrong"] + ends["error"]


def _kill(server: Server, kills: int, done: threading.Event) -> None:
    """Kills workers at random times: while they start, load, answer or exit."""
    times = random.Random(2)
    while kills and not done.is_set():
        time.sleep(times.uniform(0.5, 4.0))
        if workers := children_running(WORKER_PROGRAM, server.process.pid):
            with suppress(psutil.NoSuchProcess):
                times.choice(workers).kill()
                kills -= 1


@contextmanager
def _sampling(server: Server) -> Iterator[list[int]]:
    """Reads the memory of a server and its children every 50 ms."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(_memory(server))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _memory(server: Server) -> int:
    """The proportional set size in bytes, which counts a page that several processes map once."""
    total = 0
    parent = psutil.Process(server.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.Error, OSError):
            total += int(process.memory_full_info().pss)
    return total
