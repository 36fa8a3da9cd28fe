"""The log file: what is in it, what never is, its size, and `galago logs`."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from fakes.server import Server, serving
from fakes.waiting import wait_until
from galago.runtime.cli.main import main
from galago.runtime.server import log_file
from galago.runtime.server.tracebacks import WithoutMessages

MARKER = "zyxmarker"
CHAT = [{"role": "user", "content": MARKER}]
TOOL = {"type": "function", "function": {"name": "f", "description": MARKER, "parameters": {"type": "object"}}}

REQUESTS: list[tuple[str, Any]] = [
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4}),
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4, "stream": True, "tools": [TOOL]}),
    ("/v1/chat/completions", {"messages": [{"role": "system", "content": MARKER}, *CHAT], "max_tokens": 4}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": {"other": MARKER}}]}),
    ("/v1/chat/completions", {"messages": MARKER}),
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": MARKER}),
    ("/v1/chat/completions", {"messages": CHAT, "grammar": MARKER}),
    ("/v1/chat/completions", {"messages": CHAT, "regex": f"({MARKER}"}),
    ("/v1/chat/completions", {"messages": CHAT, "stop": [MARKER], "max_tokens": 4, "unknown": MARKER}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": MARKER}]}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": f"{MARKER} " * 20_000}]}),
    ("/v1/completions", {"prompt": MARKER, "max_tokens": 4}),
    ("/v1/responses", {"input": MARKER, "instructions": MARKER, "max_output_tokens": 16}),
    ("/v1/responses", {"input": [{"type": MARKER}]}),
    ("/v1/embeddings", {"input": MARKER}),
    ("/v1/rerank", {"query": MARKER, "documents": [MARKER]}),
    ("/v1/tokenize", {"text": MARKER}),
    ("/v1/messages", {"messages": CHAT, "max_tokens": 4, "system": MARKER}),
    ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": MARKER}]}], "max_tokens": 4}),
    ("/api/chat", {"model": "builtin", "messages": CHAT, "options": {"num_predict": 4}}),
    ("/api/generate", {"model": "builtin", "prompt": MARKER, "options": {"num_predict": 4, "stop": 3}}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("logs")
    log = folder / "server.log"
    with serving("--threads", "1", "--log-file", str(log), "--store", str(folder / "store")) as running:
        running.wait_until_ready()
        running.log = log  # type: ignore[attr-defined]
        yield running


def text(server: Server) -> str:
    content: str = server.log.read_text()  # type: ignore[attr-defined]
    return content


def test_the_file_has_the_lines_of_standard_error_with_their_time(server: Server) -> None:
    wait_until(lambda: "is ready" in text(server))
    assert any(line.endswith(f" galago: listening on {server.url}") for line in text(server).splitlines())
    assert any("listening on" in line for line in server.lines)
    assert server.log.stat().st_mode & 0o077 == 0  # type: ignore[attr-defined]


def test_a_crash_of_the_worker_is_in_the_file(server: Server) -> None:
    server.worker().send_signal(signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL" in text(server))
    server.wait_until_ready()


def test_no_prompt_or_answer_is_logged_by_any_api_also_after_errors(server: Server) -> None:
    statuses = {server.post(body, path).status_code for path, body in REQUESTS}
    assert {200, 400} <= statuses
    for path, _ in REQUESTS:
        httpx.post(f"{server.url}{path}", content=f'{{"messages": "{MARKER}" '.encode(), timeout=30)
    answer = server.post({"messages": CHAT, "regex": "qqanswer[a-z]{3}"}).json()["choices"][0]["message"]["content"]
    assert answer.startswith("qqanswer")
    with connect(server.url.replace("http", "ws") + "/v1/responses") as socket:
        for body in ({"type": "response.create", "input": MARKER, "max_output_tokens": 16}, {"type": MARKER}):
            socket.send(json.dumps(body))
        while json.loads(socket.recv(20))["type"] != "error":
            pass
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": MARKER}}
    with server.client() as client:
        file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
    logged = text(server) + "\n".join(server.lines)
    assert "the field unknown is unknown" in logged  # what is wrong with a request is logged, and not its content
    assert MARKER not in logged and "qqanswer" not in logged


def test_an_unexpected_exception_is_logged_without_its_message() -> None:
    def fail() -> None:
        try:
            raise KeyError(MARKER)
        except KeyError as error:
            raise ValueError(f"bad {MARKER}") from error

    try:
        fail()
    except ValueError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    assert WithoutMessages().filter(record)
    shown = logging.Formatter().format(record)
    assert "in fail" in shown and "KeyError" in shown and "ValueError" in shown
    assert not any(MARKER in line for line in shown.splitlines() if "raise" not in line)


def test_the_file_begins_anew_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 1000)
    file = log_file.LogFile(tmp_path / "a.log")
    for number in range(200):
        file.write(f"line {number}")
    file.close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "a.log.1", "a.log.2", "a.log.3"}
    assert all(path.stat().st_size <= 1000 and path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    assert (tmp_path / "a.log").read_text().endswith("line 199\n")


def test_an_error_that_ends_the_start_is_in_the_file(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "a.log"
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--model", str(tmp_path / "none.gguf")]
    done = subprocess.run([*command, "--log-file", str(log)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "none.gguf" in log.read_text() and "none.gguf" in done.stderr


def test_logs_shows_the_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text("one\ntwo\nthree\n")
    assert main(["logs", "-n", "2", "--file", str(tmp_path / "a.log")]) == 0
    assert capsys.readouterr().out == "two\nthree\n"
    assert main(["logs", "--file", str(tmp_path / "b.log")]) == 1
    assert "--log-file" in capsys.readouterr().err


def test_logs_follows_a_log_also_when_it_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "galago" / "log" / "galago.log"
    (tmp_path / "config").mkdir()
    file = log_file.LogFile(log)
    file.write("first")
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    command = [sys.executable, "-m", "galago.runtime.cli.main", "logs", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().endswith("first\n")
            file.doRollover()
            file.write("second")
            assert process.stdout.readline().endswith("second\n")
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()
            file.close()
