"""A running server, and sample media with their questions, for tests over HTTP."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from fakes.waiting import wait_until

DATA = Path(__file__).parents[1] / "data"
WORKER_PROGRAM = "galago.runtime.worker.main"
SAMPLES: list[dict[str, str]] = json.loads((DATA / "samples.json").read_text("utf-8"))


def data_uri(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def image_part(path: Path) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(path)}}


def audio_part(path: Path) -> dict[str, Any]:
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(path.read_bytes()).decode(), "format": "wav"},
    }


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def media_parts(name: str) -> list[dict[str, Any]]:
    return [image_part(DATA / name) if name.endswith(".png") else audio_part(DATA / name)]


class Server:
    """A running `galago serve` and the lines it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if "listening on " in line:
                self.url = line.split("listening on ")[1].strip()

    def running(self) -> int:
        """Number of running requests; updated once a second."""
        return self._metric("requests_running")

    def counted(self, name: str) -> int:
        """The value of a counter, such as requests_cancelled; updated once a second."""
        return self._metric(f"{name}_total")

    def _metric(self, name: str) -> int:
        match = re.search(rf"^galago_{name}{{.* (\d+)", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        assert match
        return int(match[1])

    def worker(self) -> psutil.Process:
        """The process that runs the model. A child that has not become it yet must not be stopped: its parent waits."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            assert self.process.poll() is None, f"the server ended: {self.lines}"
            found[:] = children_running(WORKER_PROGRAM, self.process.pid)
            return bool(found)

        wait_until(is_there)
        (worker,) = found
        return worker

    def wait_until_ready(self, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.url and httpx.get(f"{self.url}/health", timeout=seconds).status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self.lines}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stderr
        self._reader.join(5)
        self.process.stderr.close()

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, **options)

    def post(self, body: Any, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=30, **options)

    def ask(self, content: Any, **options: Any) -> httpx.Response:
        return self.post({"messages": [{"role": "user", "content": content}], **options})


def children_running(module: str, parent: int | None = None) -> list[psutil.Process]:
    """The children of a process, by default of this one, that run a module of Python. Zombies have no command."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.NoSuchProcess):
            if module in child.cmdline():
                found.append(child)
    return found


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Server]:
    """A server with one model: the built-in one, unless the arguments name another."""
    given = () if "--model" in arguments else ("--model", "builtin")
    with serving_any(*given, *arguments, **environment) as server:
        yield server


@contextmanager
def serving_any(*arguments: str, **environment: str) -> Iterator[Server]:
    """A server that loads any model when a request names it, unless the arguments name one."""
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    server = Server(process)
    try:
        yield server
    finally:
        server.stop()
