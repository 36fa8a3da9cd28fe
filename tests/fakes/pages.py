"""Runs the code blocks of a documentation page, in order, in a folder that holds the files the pages talk about.

`sh` and `python` blocks must succeed. In a `console` block every `$` line runs and prints what follows it, where a line
`...` stands for any lines. `galago serve` runs in the background until the page ends. A block after a comment
`<!-- not run: REASON -->` is left out. Other blocks (`json`, `text`) are not code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from fakes import checkpoints, hub, lora
from fakes.server import Server
from galago.models.registry.resolve import builtin_folder

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(<!-- not run: (?P<reason>.*?) -->\n)?(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    reason: str | None
    """Why it is not run."""


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [Block(m["language"], textwrap.dedent(m["code"]), m["reason"]) for m in found]


def fill(folder: Path) -> None:
    """Writes every file that the pages mention: models, media, data."""
    models = builtin_folder()
    for name, source in {
        "model.gguf": "text-Q8_0.gguf",
        "model-F16.gguf": "text-F16.gguf",
        "mmproj.gguf": "mmproj-Q8_0.gguf",
        "mmproj-F16.gguf": "mmproj-F16.gguf",
        "photo.png": "samples/shapes.png",
        "clip.wav": "samples/speech.wav",
    }.items():
        shutil.copy(models / source, folder / name)
    shutil.copytree(models / "samples", folder / "models/builtin/samples")
    shutil.copy(models / "text-Q8_0.gguf", folder / "models/other.gguf")
    lm_studio = folder / ".lmstudio/models/acme/tiny"
    lm_studio.mkdir(parents=True)
    shutil.copy(models / "text-Q8_0.gguf", lm_studio / "tiny-Q8_0.gguf")
    lora.write(folder / "adapter.gguf")
    checkpoints.decoder(folder / "checkpoint")
    fruits = {"type": "array", "items": {"enum": ["apple", "pear"]}, "maxItems": 3}
    schema = {"type": "object", "properties": {"fruits": fruits}}
    (folder / "fruits.json").write_text(json.dumps(schema))
    (folder / "notes.txt").write_text("The opposite of big is small. " * 100)
    picture = [{"type": "image", "file": "photo.png"}, {"type": "text", "text": "How many shapes are there?"}]
    questions = [("What day comes after Wednesday?", "Thursday."), ("Opposite of big?", "Small."), (picture, "Six.")]
    chats = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in questions * 4
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Monday"]
    rows = [{"question": f"What day comes after {a}?", "answer": f"{b}."} for a, b in zip(days, days[1:], strict=False)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _video(folder / "video.mp4")


def _video(path: Path) -> None:
    import av
    import numpy as np

    with av.open(path, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=Fraction(5))
        stream.width = stream.height = 64
        for shade in (0, 80, 160, 240):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8))
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


class Page:
    """Runs blocks in a folder, against a local Hub."""

    def __init__(self, folder: Path, hub_url: str) -> None:
        self._folder = folder
        self._port = _free_port()
        self._servers: list[Server] = []
        bin_folder = str(Path(sys.executable).parent)
        self._environment = os.environ | {
            "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
            "HOME": str(folder),
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(folder / ".hf"),
            "XDG_DATA_HOME": str(folder / ".data"),
            "XDG_CONFIG_HOME": str(folder / ".config"),
            "COLUMNS": "120",
        }

    def run(self, block: Block) -> None:
        code = block.code.replace("8080", str(self._port))
        if block.language == "python":
            self._finish([sys.executable, "-c", code])
        elif block.language == "console":
            for command, expected in _transcript(code):
                _compare(command, self._finish(["bash", "-ec", command]), expected)
        else:
            self._shell(code)

    def _shell(self, code: str) -> None:
        if "galago serve" not in code:
            self._finish(["bash", "-ec", code])
            return
        command = f"exec {code.strip()} --port {self._port}"
        process = subprocess.Popen(
            ["bash", "-ec", command], stderr=subprocess.PIPE, text=True, env=self._environment, cwd=self._folder
        )
        server = Server(process)
        self._servers.append(server)
        server.wait_until_ready()

    def _finish(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment, cwd=self._folder)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def close(self) -> None:
        for server in self._servers:
            server.stop()


def _transcript(code: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, *expected = part.rstrip("\n").split("\n")
        yield command, expected


def _compare(command: str, output: str, expected: list[str]) -> None:
    pattern = "\n".join("(?:.*\n)*.*" if line == "..." else re.escape(line) for line in expected)
    assert re.fullmatch(pattern, output.rstrip("\n")), f"$ {command}\n{output}\ninstead of\n" + "\n".join(expected)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def run_page(page: Path, folder: Path) -> None:
    """Runs a whole page in an empty folder."""
    fill(folder)
    models = builtin_folder()
    with ExitStack() as stack:
        local = stack.enter_context(hub.running())
        files = {
            "Qwen3.5-0.8B-UD-Q4_K_XL.gguf": (models / "text-Q8_0.gguf").read_bytes(),
            "mmproj-F16.gguf": (models / "mmproj-F16.gguf").read_bytes(),
        }
        local.put("unsloth/Qwen3.5-0.8B-GGUF", files)
        runner = Page(folder, local.url)
        stack.callback(runner.close)
        for block in blocks(page):
            if block.reason is None and block.language in ("sh", "console", "python"):
                runner.run(block)
