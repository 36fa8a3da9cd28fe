"""SIGTERM and SIGHUP in every state of a server: the real signals, sent to a real server."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fakes.server import Server, serving
from fakes.waiting import wait_until

LONG = {"messages": [{"role": "user", "content": "Count."}], "ignore_eos": True, "max_tokens": 400}
ENDLESS = LONG | {"max_tokens": 1800}


class Streaming(threading.Thread):
    """Reads a streamed answer on a thread."""

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.body = body | {"stream": True}
        self.url = f"{server.url}/v1/chat/completions"
        self.events: list[str] = []
        self.start()
        wait_until(lambda: len(self.events) > 3)

    def run(self) -> None:
        with httpx.stream("POST", self.url, json=self.body, timeout=60) as answer:
            self.events += (line.removeprefix("data: ") for line in answer.iter_lines() if line)


def ended(server: Server, seconds: float = 30) -> int:
    """Waits for the server's end, and returns its exit code."""
    return server.process.wait(seconds)


def say(server: Server, text: str) -> Callable[[], bool]:
    return lambda: any(text in line for line in server.lines)


def test_sigterm_ends_an_idle_server_and_its_worker_at_once() -> None:
    with serving() as server:
        server.wait_until_ready()
        worker = server.worker()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert ended(server) == -signal.SIGTERM
        assert time.monotonic() - began < 8
        worker.wait(10)


@pytest.mark.parametrize("is_loading", [False, True])
def test_sigterm_ends_a_server_that_is_starting_or_loading(is_loading: bool) -> None:
    with serving() as server:
        wait_until(lambda: server.url != "" or not is_loading)
        server.process.send_signal(signal.SIGTERM)
        assert ended(server) == -signal.SIGTERM
        assert not say(server, "Traceback")()


def test_sigterm_ends_a_starting_server_where_python_would_ignore_an_exception() -> None:
    program = (
        "import signal\n"
        "from galago.runtime.cli.main import main\n"
        "from galago.runtime.server import run\n"
        "serve = run.serve\n"
        "class Destroyed:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "def served(*arguments):\n"
        "    Destroyed()\n"
        "    serve(*arguments)\n"
        "run.serve = served\n"
        "main(['serve', '--model', 'builtin', '--port', '0'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_sigterm_lets_a_stream_finish_and_takes_no_new_request() -> None:
    with serving("--grace", "60") as server:
        server.wait_until_ready()
        stream = Streaming(server, LONG)
        server.process.send_signal(signal.SIGTERM)
        wait_until(say(server, "running requests have 60 s to finish"))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
        assert ended(server, 60) == -signal.SIGTERM
        stream.join(10)
    assert stream.events[-1] == "[DONE]"
    assert json.loads(stream.events[-2])["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("second", [None, signal.SIGTERM, signal.SIGINT])
def test_what_still_runs_after_the_time_of_grace_or_a_second_signal_ends_with_an_error(
    second: signal.Signals | None,
) -> None:
    with serving("--grace", "0.5" if second is None else "600") as server:
        server.wait_until_ready()
        stream = Streaming(server, ENDLESS)
        whole: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: whole.append(server.post(ENDLESS)))
        asking.start()
        wait_until(lambda: server.running() == 2)
        server.process.send_signal(signal.SIGTERM)
        wait_until(say(server, "to finish"))
        if second is not None:
            server.process.send_signal(second)
        assert ended(server) in (-signal.SIGTERM, 130)
        stream.join(10)
        asking.join(10)
    assert json.loads(stream.events[-1])["error"]["code"] == "engine_error"
    assert (whole[0].status_code, whole[0].json()["error"]["code"]) == (500, "engine_error")


def test_sigint_ends_answers_at_once() -> None:
    with serving("--grace", "600") as server:
        server.wait_until_ready()
        stream = Streaming(server, ENDLESS)
        server.process.send_signal(signal.SIGINT)
        assert ended(server) == 130
        stream.join(10)
    assert "error" in json.loads(stream.events[-1])


def test_sigterm_lets_a_message_on_a_websocket_finish_and_answers_no_other() -> None:
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    schema = {"type": "object", "properties": {"numbers": numbers}, "required": ["numbers"]}
    form = {"format": {"type": "json_schema", "name": "many", "schema": schema}}  # so that the answer is long
    create = json.dumps({"type": "response.create", "input": "Hi.", "max_output_tokens": 400, "text": form})
    with serving("--grace", "60") as server:
        server.wait_until_ready()
        url = server.url.replace("http", "ws") + "/v1/responses"
        with connect(url) as idle, connect(url) as busy:
            busy.send(create)
            busy.recv(20)
            busy.send(create)
            server.process.send_signal(signal.SIGTERM)
            kinds = []
            with pytest.raises(ConnectionClosed):
                while True:
                    kinds.append(json.loads(busy.recv(60))["type"])
            with pytest.raises(ConnectionClosed):
                idle.recv(20)
        assert ended(server, 60) == -signal.SIGTERM
    assert kinds[-1] in ("response.completed", "response.incomplete") and "response.created" not in kinds[1:]


def test_sigterm_finishes_the_running_lines_of_a_batch_and_leaves_the_others_to_the_next_server(tmp_path: Path) -> None:
    count = 40
    lines = [
        {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions", "body": LONG | {"max_tokens": 60}}
        for i in range(count)
    ]
    store = ("--store", str(tmp_path / "store"))
    with serving("--grace", "60", *store) as server:
        server.wait_until_ready()
        with server.client() as client:
            file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            wait_until(lambda: progress(client, batch.id).completed > 0)
        server.process.send_signal(signal.SIGTERM)
        assert ended(server, 60) == -signal.SIGTERM
    with serving(*store) as server:
        server.wait_until_ready()
        with server.client() as client:
            assert progress(client, batch.id).failed == 0
            wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", 60)
            assert progress(client, batch.id).completed == count


def progress(client: Any, batch_id: str) -> Any:
    return client.batches.retrieve(batch_id).request_counts


def test_sighup_reads_keys_and_opens_logs_again_in_every_state(tmp_path: Path) -> None:
    keys, log, audit = tmp_path / "keys.toml", tmp_path / "server.log", tmp_path / "audit.jsonl"
    keys.write_text('[a]\nkey = "first"\n')
    options = ["--api-keys-file", str(keys), "--log-file", str(log), "--audit-log", str(audit), "--grace", "60"]
    with without_terminal(*options) as server:
        wait_until(lambda: server.url != "")
        server.process.send_signal(signal.SIGHUP)  # while it loads
        wait_until(say(server, "SIGHUP: the file of keys"))
        server.wait_until_ready()

        def models(key: str) -> int:
            return httpx.get(f"{server.url}/v1/models", headers={"x-api-key": key}).status_code

        assert (models("first"), models("second")) == (200, 401)
        log.rename(tmp_path / "old.log")
        audit.rename(tmp_path / "old.jsonl")
        keys.write_text('[a]\nkey = "second"\n')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: models("second") == 200)
        assert models("first") == 401
        wait_until(lambda: audit.exists() and audit.read_text() != "" and "SIGHUP" in log.read_text())
        keys.write_text("[a]\nkeys = 1\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(say(server, "line 2: a.keys: is not known"))
        assert models("second") == 200
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGHUP)
        assert ended(server) == -signal.SIGTERM


def test_the_loss_of_the_terminal_ends_a_server_that_was_started_in_it() -> None:
    controller, terminal = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    process = start(preexec_fn=take_terminal, stdin=terminal, pass_fds=(terminal,))
    os.close(terminal)
    server = Server(process)
    try:
        server.wait_until_ready()
        process.send_signal(signal.SIGHUP)  # while the terminal is there
        wait_until(say(server, "SIGHUP: the file of keys"))
        os.close(controller)
        assert process.wait(20) == -signal.SIGTERM
    finally:
        server.stop()


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--port", "0", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


@contextmanager
def without_terminal(*arguments: str) -> Iterator[Server]:
    """A server in a session of its own, as a service has it."""
    server = Server(start(*arguments, start_new_session=True))
    try:
        yield server
    finally:
        server.stop()
