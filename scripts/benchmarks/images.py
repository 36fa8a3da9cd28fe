"""Time to the first token of questions about an image: first turn, next turn, new conversation, after a restart.

Compares Galago with llama-server on a random-weight model, in alternating rounds. The time after a restart, with a
cache folder, is compared with Galago's own first turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict

from .servers import Server, ask, galago, llama_server, picture, random_model, spread

QUESTION, AGAIN = "What is in this picture?", "And what else?"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)


def main(options: argparse.Namespace) -> None:
    model = random_model("smolvlm500m", "Q4_0", with_projector=True)
    seconds_by_server: dict[str, dict[str, list[float]]] = {
        "galago": defaultdict(list),
        "llama-server": defaultdict(list),
    }
    threads = options.threads
    with (
        galago(model, ["--threads", threads, "--ctx", 4096, "--slots", 4]) as ours,
        llama_server(model, ["-t", threads, "-tb", threads, "-c", 4096, "-np", 4, "-kvu"]) as theirs,
    ):
        for turn in range(options.rounds + 1):
            for server in (ours, theirs) if turn % 2 else (theirs, ours):
                for what, seconds in _talk(server, turn).items():
                    if turn:  # the first round is warm-up
                        seconds_by_server[server.name][what].append(seconds)
    print(f"{model.name}, {threads} threads, {options.rounds} rounds: seconds to the first token")
    for what in seconds_by_server["galago"]:
        here, there = (seconds_by_server[name][what] for name in seconds_by_server)
        ratio = spread([a / b for a, b in zip(here, there, strict=True)])
        print(
            f"  {what:<34} galago {statistics.median(here):6.2f}  llama-server {statistics.median(there):6.2f}"
            f"  ratio {ratio}",
            flush=True,
        )
    _restart(options)


def _talk(server: Server, turn: int) -> dict[str, float]:
    shown = picture(turn)
    first = [{"role": "user", "content": [shown, {"type": "text", "text": QUESTION}]}]
    answer = ask(server, first, 8)
    second = [*first, {"role": "assistant", "content": answer.text}, {"role": "user", "content": AGAIN}]
    other = [{"role": "user", "content": [{"type": "text", "text": f"Number {turn}. Look at this."}, shown]}]
    return {
        "first turn": answer.first,
        "second turn": ask(server, second, 8).first,
        "same image in a new conversation": ask(server, other, 8).first,
    }


def _restart(options: argparse.Namespace) -> None:
    model = random_model("smolvlm500m", "Q4_0", with_projector=True)
    ratios = []
    for turn in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--threads", options.threads, "--ctx", 4096, "--cache-dir", folder]
            message = [picture(1000 + turn), {"type": "text", "text": QUESTION}]
            seconds = []
            for _ in ("cold", "again"):
                with galago(model, flags) as server:
                    ask(server, "Hello", 2)
                    seconds.append(ask(server, message, 8).first)
            ratios.append(seconds[1] / seconds[0])
    print(f"  the same after a restart, with a cache folder: {spread(ratios)} of the first turn")
