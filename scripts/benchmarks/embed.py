"""Time of one request with 64 texts, with Galago and llama-server, on a random-weight BERT."""

from __future__ import annotations

import argparse
import random
import time
from contextlib import ExitStack

import httpx

from . import random_gguf
from .servers import ROOT, VOCABULARY, WORDS, Files, Server, galago, llama_server, spread

_TEXTS = 64


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--words", type=int, nargs="+", default=[8, 32, 128], help="words in a text")
    parser.add_argument("--threads", type=int, default=2)


def main(options: argparse.Namespace) -> None:
    files = _model()
    threads = ["--threads", options.threads]
    with ExitStack() as stack:
        ours = stack.enter_context(galago(files, threads))
        theirs = stack.enter_context(llama_server(files, [*threads, "--embedding"]))
        for words in options.words:
            times: dict[str, list[float]] = {"galago": [], "llama-server": []}
            for turn in range(options.rounds + 1):
                texts = [" ".join(random.choices(WORDS, k=words)) for _ in range(_TEXTS)]
                taken = {server.name: _seconds(server, texts) for server in ((ours, theirs), (theirs, ours))[turn % 2]}
                for name, seconds in taken.items() if turn else ():  # the first round is warm-up
                    times[name].append(seconds)
            ratios = [a / b for a, b in zip(*times.values(), strict=True)]
            print(f"{_TEXTS} texts of {words} words: " + ", ".join(f"{n} {spread(s)} s" for n, s in times.items()))
            print(f"  ratio {spread(ratios)}", flush=True)


def _model() -> Files:
    target = ROOT / "build/bench/random-minilm-F16.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        random_gguf.write_bert(VOCABULARY.with_name("ggml-vocab-bert-bge.gguf"), target)
    return Files("random minilm", target)


def _seconds(server: Server, texts: list[str]) -> float:
    with httpx.Client(timeout=600) as client:  # creating a client takes 20 ms, which are not counted
        begin = time.perf_counter()
        answer = client.post(f"{server.url}/v1/embeddings", json={"input": texts})
        seconds = time.perf_counter() - begin
    assert answer.status_code == 200 and len(answer.json()["data"]) == _TEXTS, answer.text[:500]
    return seconds
