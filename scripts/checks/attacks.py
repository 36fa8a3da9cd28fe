"""Attacks a real server while a neighbour streams short answers, and shows the effects on both.

    scripts/check attacks [NAME...] [--seconds S] [--list]

`galago serve` runs the built-in model, with a chat template that turns hostile at certain words. The neighbour asks a
question with a known answer every 50 ms. Meanwhile one attack after another runs for a few seconds, each in a process
of its own, since some take much memory. The attacks are functions in the modules of `attack_inputs/`.

Exits with 1 if the neighbour gets a wrong answer, loses one or waits too long, if the API process holds too much
memory, or if the API process or the worker is restarted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fakes.hostile_templates import sleeping_bombs
from galago.models.registry.resolve import resolve

from .attack_inputs import names
from .attack_inputs.target import Target

ROOT = Path(__file__).resolve().parents[2]

QUESTION, ANSWER = "What day comes after Wednesday?", "Thursday"
_HEADERS = {"content-type": "application/json", "user-agent": "neighbour"}
"""The name makes the neighbour another client than the attacks."""
PAUSE_SECONDS = 0.05
"""Time between two questions of the neighbour."""
PATIENCE_SECONDS = 30
"""Time after which a question without an answer counts as lost."""
MAX_WAIT_SECONDS = 1.0
MAX_WAIT_RATIO = 20
"""Longest wait as a multiple of that on the quiet server, for slow machines; the larger limit applies."""
MAX_API_BYTES = 300 * 10**6
MAX_ADDRESS_BYTES = 4 << 30
"""Address space of each process of the server, so that a successful attack does not take this machine's memory."""
SETTLE_SECONDS = 1.0
"""Time after an attack for the server to end its last requests."""
OVERTIME_SECONDS = 20
"""Time after which an attack that does not end is killed."""


@dataclass
class Neighbour:
    """The neighbour's results: answers that are wrong or lost, and the longest time without a text."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0


@dataclass
class Outcome:
    """The results of one attack. `restarts` counts those of the API process and of the worker."""

    name: str
    statuses: dict[str, int]
    neighbour: Neighbour
    api_bytes: int
    worker_bytes: int
    restarts: int

    def problems(self, quiet_seconds: float) -> list[str]:
        found = [f"wrong or lost, such as {text!r}" for text in self.neighbour.wrong[:1]]
        if not self.neighbour.answers:
            found.append("no answer")
        if self.neighbour.longest > max(MAX_WAIT_SECONDS, MAX_WAIT_RATIO * quiet_seconds):
            found.append("waited too long")
        if self.api_bytes > MAX_API_BYTES:
            found.append("API process too large")
        if self.restarts:
            found.append("restarted")
        return found


class Server:
    """A running `galago serve`, with its process and its worker."""

    def __init__(self, process: psutil.Popen, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def worker(self) -> psutil.Process | None:
        """The worker, which is the largest child: video decoders and grammar compilers are smaller."""
        children = self.process.children() if self.process.is_running() else []
        return max(children, key=_bytes, default=None)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    log, template = folder / "server.log", folder / "template.jinja"
    template.write_text(sleeping_bombs(resolve("builtin").header.chat_template or ""), "utf-8")
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--model", "builtin", "--port", "0"]
    command += ["--store", str(folder / "store"), "--chat-template", str(template)]
    with log.open("w") as output:
        words = [str(word) for word in command]
        process = psutil.Popen(words, stdout=output, stderr=output, cwd=ROOT, preexec_fn=_limit_memory)
        try:
            yield Server(process, _port_when_ready(process, log), log)
        finally:
            if process.is_running():
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except psutil.TimeoutExpired:
                process.kill()


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))


def _port_when_ready(process: psutil.Popen, log: Path) -> int:
    while process.poll() is None:
        text = log.read_text("utf-8")
        if "is ready" in text:
            return int(text.partition("listening on http://")[2].split()[0].rpartition(":")[2])
        time.sleep(0.05)
    raise SystemExit(f"the server does not start: {log.read_text('utf-8')[-1000:]}")


@contextmanager
def neighbour(port: int) -> Iterator[Neighbour]:
    """Asks until the block ends, then waits for outstanding answers."""
    found, ended, lock = Neighbour(), threading.Event(), threading.Lock()

    def ask() -> None:
        text, seconds = _ask(port)
        with lock:
            found.answers += 1
            found.longest = max(found.longest, seconds)
            if ANSWER not in text:
                found.wrong.append(text[:100])

    def ask_all() -> None:
        with ThreadPoolExecutor(64) as pool:
            while not ended.wait(PAUSE_SECONDS):
                pool.submit(ask)

    asking = threading.Thread(target=ask_all)
    asking.start()
    try:
        yield found
    finally:
        ended.set()
        asking.join()


def _ask(port: int) -> tuple[str, float]:
    """The answer to one question, or the error, and the longest time without a text."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    text, longest, last = "", 0.0, time.monotonic()
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), _HEADERS)
        response = connection.getresponse()
        if response.status != 200:
            text = f"status {response.status}: {response.read().decode()}"
        else:
            for line in response:
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                text += _text_in(line)
    except (OSError, http.client.HTTPException) as error:
        text = repr(error)
    finally:
        connection.close()
    return text, max(longest, time.monotonic() - last)


def _text_in(line: bytes) -> str:
    if not line.startswith(b"data: {"):
        return ""
    chunk: dict[str, Any] = json.loads(line[6:])
    if "error" in chunk:
        return f"error: {chunk['error']['message']}"
    return str(chunk["choices"][0]["delta"].get("content") or "") if chunk["choices"] else ""


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class Watch:
    """Samples the memory of both processes, and notices when they are replaced."""

    def __init__(self, server: Server) -> None:
        self.api_bytes = self.worker_bytes = 0
        self._server = server
        self._worker = server.worker
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self.api_bytes = max(self.api_bytes, _bytes(self._server.process))
            if self._worker is not None:
                self.worker_bytes = max(self.worker_bytes, _bytes(self._worker))

    @property
    def restarts(self) -> int:
        api_ended = self._server.process.poll() is not None
        return int(api_ended) + int(self._worker is None or not self._worker.is_running())


def attack(server: Server, name: str, seconds: float) -> Outcome:
    """Runs one attack next to the neighbour. Without a name, the neighbour runs alone."""
    with Watch(server) as watch, neighbour(server.port) as found:
        statuses = _run_attack(server.port, name, seconds) if name else {}
        time.sleep(SETTLE_SECONDS if name else seconds)
    return Outcome(name, statuses, found, watch.api_bytes, watch.worker_bytes, watch.restarts)


def _run_attack(port: int, name: str, seconds: float) -> dict[str, int]:
    command = [sys.executable, "-m", "checks.attack_inputs", str(port), name, str(seconds)]
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + OVERTIME_SECONDS, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        return {type(error).__name__: 1}
    statuses: dict[str, int] = json.loads(ran.stdout)
    return statuses


def _row(outcome: Outcome, quiet_seconds: float) -> str:
    statuses = " ".join(f"{status}:{count}" for status, count in sorted(outcome.statuses.items())) or "-"
    found, longest = outcome.neighbour, outcome.neighbour.longest
    wait = f"{longest:.2f} s ({longest / quiet_seconds:.1f}x)"
    return (
        f"{outcome.name or 'quiet':<44} {statuses:<30} {len(found.wrong):>3} of {found.answers:<4} {wait:>16} "
        f"{outcome.api_bytes / 1e6:>5.0f} MB {outcome.worker_bytes / 1e6:>6.0f} MB {outcome.restarts:>8}"
        f"  {', '.join(outcome.problems(quiet_seconds)) or 'ok'}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/check attacks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks, or parts of their names; default: all")
    parser.add_argument("--seconds", type=float, default=4, help="duration of each attack")
    parser.add_argument("--list", action="store_true", help="list the attacks")
    options = parser.parse_args(arguments)
    chosen = [name for name in names() if not options.names or any(part in name for part in options.names)]
    if options.list:
        print("\n".join(chosen))
        return 0
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    print(f"{'attack':<44} {'statuses':<30} {'wrong or lost':<11} {'longest wait':>14}  API process  worker restarts")
    with tempfile.TemporaryDirectory() as folder:
        return int(_attack_all(chosen, options.seconds, Path(folder)))


def _attack_all(chosen: Sequence[str], seconds: float, folder: Path) -> bool:
    """Prints a row for each attack; starts the server again if one ends it. Returns whether there was a problem."""
    failed, quiet, left = False, None, list(chosen)
    while left or quiet is None:
        with serving(folder) as server:
            Target(server.port).wait_for_answer()
            while server.process.poll() is None and (left or quiet is None):
                outcome = attack(server, "" if quiet is None else left.pop(0), seconds)
                quiet = quiet or outcome
                print(_row(outcome, quiet.neighbour.longest), flush=True)
                failed = failed or bool(outcome.problems(quiet.neighbour.longest))
        if failed:
            print(f"the server's log ends with: {server.log.read_text('utf-8')[-1000:]}")
    return failed
