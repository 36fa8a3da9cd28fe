"""Traces one chat request through a real server and its worker: which files run, on which threads, in which order.

    scripts/check request_trace [--json]

A plain streamed chat is sent to `galago serve` with the built-in model, twice on one connection: once to warm up, and
once with every project function recorded by `sys.setprofile` in all processes. The number of threads is fixed: when
the thread tuner changes it, llama.cpp logs that, and its log callback is in `llamacpp/library.py`.

Prints the files in order of first entry and the hand-overs between threads. `docs/architecture.md` shows this trace;
a test compares the two.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).parent / "trace_hook"

BACKGROUND_THREADS = ("galago-heartbeat", "galago-beat")
"""Threads that run on their own schedule, whether or not there is a request."""

_PROCESSES = {"server": "/server/", "worker": "/worker/", "renderer": "/template_renderer.py"}
"""Processes by a part of the name of a file that only they run."""


@dataclass
class ProcessTrace:
    """The threads and files that one process ran for the request, in order of first entry."""

    name: str
    threads: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    first_thread: dict[str, str] = field(default_factory=dict)
    functions: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Trace:
    processes: list[ProcessTrace]

    @property
    def files(self) -> list[str]:
        """Every project file that ran, in order of first entry; a file that ran in both processes counts once."""
        return list(dict.fromkeys(name for process in self.processes for name in process.files))

    @property
    def thread_crossings(self) -> int:
        """Hand-overs between threads of one process: each further thread takes the request over once."""
        return sum(len(process.threads) - 1 for process in self.processes)


def trace() -> Trace:
    """Runs a server, sends the request, and returns what was recorded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        armed = folder / "armed"
        armed.write_bytes(b"\0")
        with _server(folder) as port:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
                _chat(connection, "Spell ehn.")
                _set(armed, 1)
                _chat(connection, "What day comes after Wednesday?")
                _set(armed, 0)
        return _read(folder)


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "GALAGO_TEST_TRACE_ROOT": str(ROOT),
        "GALAGO_TEST_TRACE_DIR": str(folder),
    }
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--model", "builtin", "--port", "0"]
    command += ["--threads", "2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            port = next(int(found[1]) for line in lines if (found := re.search(r"http://[^ ]*:(\d+)", line)))
            next(line for line in lines if "ready" in line)
            yield port
        finally:
            server.terminate()
            server.wait()


def _chat(connection: http.client.HTTPConnection, question: str) -> None:
    body = {"model": "builtin", "messages": [{"role": "user", "content": question}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200 or "data: [DONE]" not in text:
        raise SystemExit(f"the request failed with status {response.status}: {text[:500]}")
    time.sleep(0.2)  # lets the last bookkeeping of both processes run


def _set(armed: Path, value: int) -> None:
    with armed.open("r+b") as file:
        file.write(bytes([value]))


def _read(folder: Path) -> Trace:
    processes: list[tuple[float, ProcessTrace]] = []
    for path in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text("utf-8").rstrip("\0").splitlines()]
        rows = sorted((row for row in rows if row["thread"] not in BACKGROUND_THREADS), key=lambda row: row["time"])
        if not rows:
            continue
        found = ProcessTrace(next(name for name, part in _PROCESSES.items() if any(part in r["file"] for r in rows)))
        for row in rows:
            if row["thread"] not in found.threads:
                found.threads.append(row["thread"])
            if row["file"] not in found.files:
                found.files.append(row["file"])
                found.first_thread[row["file"]] = row["thread"]
            found.functions.setdefault(row["file"], []).append(row["function"])
        processes.append((rows[0]["time"], found))
    return Trace([process for _, process in sorted(processes, key=lambda pair: pair[0])])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/check request_trace", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print threads, files and functions as JSON")
    options = parser.parse_args(arguments)
    found = trace()
    if options.json:
        print(json.dumps([asdict(process) for process in found.processes], indent=1))
        return 0
    for process in found.processes:
        print(f"{process.name}: threads {', '.join(process.threads)}")
        for name in process.files:
            print(f"  {name}")
    print(f"{len(found.files)} files, {found.thread_crossings} thread crossings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
