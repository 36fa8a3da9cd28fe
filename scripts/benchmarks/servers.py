"""Runs Galago's server and llama-server on the same model, and times every piece of their answers."""

from __future__ import annotations

import compileall
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from galago.quantize.variants.schemes import find
from galago.runtime.llamacpp.quantizer import quantize

from . import llama_cpp_build, random_gguf

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = llama_cpp_build.SOURCE / "models/ggml-vocab-llama-bpe.gguf"
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 1}
WORDS = (ROOT / "LICENSE").read_text("utf-8").split()


@dataclass(frozen=True)
class Files:
    """The files of a model to benchmark."""

    name: str
    weights: Path
    projector: Path | None = None


@dataclass(frozen=True)
class Server:
    name: str
    url: str
    process: psutil.Process


@dataclass
class Answer:
    """An answer with the time of each piece of text, on the clock of `time.perf_counter`, and its usage."""

    asked: float = 0.0
    times: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    error: str | None = None

    @property
    def first(self) -> float:
        """Seconds from asking to the first text."""
        return self.times[0] - self.asked

    @property
    def last(self) -> float:
        return self.times[-1] - self.asked

    @property
    def tokens(self) -> int:
        return int(self.usage["completion_tokens"])


def random_model(shape: str, scheme: str, with_projector: bool = False) -> Files:
    """A random-weight model, with or without a projector; created on first use."""
    target = ROOT / "build" / "bench" / f"random-{shape}-{scheme}.gguf"
    projector = target.with_name(f"random-{shape}-mmproj.gguf") if with_projector else None
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        full, part = target.with_name(f"random-{shape}-F16.gguf"), target.with_suffix(".part")
        random_gguf.write(VOCABULARY, full, shape)
        if full != target:
            quantize(full, part, find(scheme).ftype)
            full.unlink()
            part.rename(target)
    if projector is not None and not projector.exists():
        random_gguf.write_projector(projector, shape)
    return Files(f"random {shape} {scheme}", target, projector)


def builtin() -> Files:
    folder = ROOT / "models/builtin"
    return Files("builtin", folder / "text-Q8_0.gguf", folder / "mmproj-Q8_0.gguf")


@contextmanager
def galago(files: Files, options: Sequence[object] = (), checkout: Path | None = None) -> Iterator[Server]:
    """Galago's server, from this checkout or, as "baseline", from another one with its own .venv."""
    python = checkout / ".venv/bin/python" if checkout else sys.executable
    _compile(checkout or ROOT)
    command = [python, "-m", "galago.runtime.cli.main", "serve", "--model", files.weights]
    command += ["--mmproj", files.projector] if files.projector else []
    with running("baseline" if checkout else "galago", [*command, *options]) as server:
        yield server


def _compile(checkout: Path) -> None:
    """Compiles the modules, as an installer does: with PYTHONDONTWRITEBYTECODE set, each start would compile them."""
    for folder in ("models", "quantize", "runtime"):
        compileall.compile_dir(checkout / folder, quiet=1)


@contextmanager
def llama_server(files: Files, options: Sequence[object] = ()) -> Iterator[Server]:
    command = [llama_cpp_build.PROGRAMS / "llama-server", "-m", files.weights, "--host", "127.0.0.1"]
    command += ["--mmproj", files.projector] if files.projector else []
    with running("llama-server", [*command, *options]) as server:
        yield server


@contextmanager
def running(name: str, command: Sequence[object]) -> Iterator[Server]:
    port = _free_port()
    full = [str(word) for word in (*command, "--port", port)]
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(full, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            if not _is_ready(url, process):
                log.seek(0)
                raise SystemExit(f"{name} does not start: {log.read()[-500:]}")
            yield Server(name, url, process)
        finally:
            if process.is_running():
                process.send_signal(signal.SIGTERM)
            process.wait(30)


def _free_port() -> int:
    """A TCP port that no other server on this machine uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str, process: psutil.Process, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    return False


def ask(
    server: Server,
    content: object,
    tokens: int,
    answer: Answer | None = None,
    leave: threading.Event | None = None,
    **fields: object,
) -> Answer:
    """Streams an answer of exactly `tokens` tokens to one message, or to the messages of a chat.

    Fills `answer` if it is given, so that other threads can watch it grow; disconnects when `leave` is set. An error is
    stored in the answer, not raised.
    """
    messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    body = {
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **SAMPLING,
        **fields,
    }
    answer = answer or Answer()
    # llama-server may close a kept-alive connection during the client's next request, so each request gets a new one.
    # Creating a client takes 20 ms, which are not counted.
    with httpx.Client(timeout=600) as client:
        answer.asked = time.perf_counter()
        try:
            with client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as lines:
                if lines.status_code != 200:
                    lines.read()
                    answer.error = lines.text
                    return answer
                for line in lines.iter_lines():
                    _read(line, answer)
                    if leave is not None and leave.is_set():
                        break
        except httpx.TransportError as error:
            answer.error = repr(error)
    return answer


def _read(line: str, answer: Answer) -> None:
    if not line.startswith("data: {"):
        return
    chunk = json.loads(line[6:])
    if "error" in chunk:
        answer.error = chunk["error"]["message"]
        return
    answer.usage = chunk.get("usage") or answer.usage
    text = chunk["choices"] and chunk["choices"][0]["delta"].get("content")
    if text:
        answer.times.append(time.perf_counter())
        answer.text += text


def spread(values: Sequence[float]) -> str:
    """Median and quartiles, as all benchmarks print them."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f})"


def picture(seed: int) -> dict[str, object]:
    """A content part with an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (512, 512, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=1)
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"}}


@contextmanager
def busy_cores(count: int | None = None) -> Iterator[None]:
    """Keeps this many cores busy with one process each; by default, all of them."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(count or os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
