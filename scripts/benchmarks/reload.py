"""Time from a request for an unloaded model to its first token, against the start of llama-server."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from .servers import Files, Server, ask, llama_server, random_model, running, spread


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="135m")
    parser.add_argument("--scheme", default="Q4_0")
    parser.add_argument("--model", type=Path, help="a GGUF file in place of random weights")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)


def main(options: argparse.Namespace) -> None:
    if options.model:
        files = Files(options.model.stem, options.model.resolve(), None)
    else:
        files = random_model(options.shape, options.scheme)
    flags = ["-t", options.threads, "-tb", options.threads, "-c", 8192, "-np", 4, "-kvu"]
    ours: list[float] = []
    theirs: list[float] = []
    with _galago(files, options.threads) as server:
        name = next(card["id"] for card in _models(server) if card["id"] != "builtin")
        for turn in range(options.rounds + 1):
            httpx.post(f"{server.url}/v1/models/{name}/unload", timeout=60)
            begin = time.perf_counter()
            answer = ask(server, "Hello", 1, model=name)
            if answer.error is not None:
                raise SystemExit(f"galago answered: {answer.error}")
            reloaded = time.perf_counter() - begin
            begin = time.perf_counter()
            with llama_server(files, flags) as other:
                ask(other, "Hello", 1)
                started = time.perf_counter() - begin
            if turn:  # the first fills the page cache, and tries the unknown model
                ours.append(reloaded)
                theirs.append(started)
    print(f"galago: {statistics.median(ours):.2f} s from a request for an unloaded model to its first token")
    print(f"llama-server: {statistics.median(theirs):.2f} s from its start to the first token")
    print(f"ratio {spread([a / b for a, b in zip(ours, theirs, strict=True)])}")


@contextmanager
def _galago(files: Files, threads: int) -> Iterator[Server]:
    """A server that loads models on demand; only the built-in one and the given one are installed."""
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
            os.environ[variable] = f"{folder}/{variable.lower()}"
        command = [sys.executable, "-m", "galago.runtime.cli.main"]
        subprocess.run([*command, "import", files.weights], check=True, stdout=subprocess.DEVNULL)
        limits = ["--threads", threads, "--ctx", 8192, "--slots", 4]
        with running("galago", [*command, "serve", "--keep-alive", "-1", *limits]) as server:
            yield server


def _models(server: Server) -> list[dict[str, str]]:
    cards: list[dict[str, str]] = httpx.get(f"{server.url}/v1/models").json()["data"]
    return cards
