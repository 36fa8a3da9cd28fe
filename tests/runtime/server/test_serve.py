"""The server as a program: startup, guards, API keys, limits, and clients that disconnect."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
import uvicorn
from PIL import Image

from fakes.server import DATA, Server, audio_part, image_part, serving, text_part
from fakes.waiting import wait_until
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig, ServerConfig
from galago.runtime.pool.pool import ModelPool
from galago.runtime.pool.resident import ResidentModel
from galago.runtime.server.app import build
from galago.runtime.types.model_info import ModelInfo

WEIGHTS = resolve("builtin").weights


def startup_error(*arguments: str) -> str:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--port", "0", "--model", "builtin"]
    command += arguments
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@contextmanager
def in_process(service: ModelPool, config: ServerConfig) -> Iterator[str]:
    """Runs the application on a thread, so that a test can inspect the service."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build(service, config), log_level="error", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        service.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with serving("--strict", "--allow-host", "assistant.lan", GALAGO_API_KEY="open-sesame") as running:
        running.wait_until_ready()
        yield running


def test_a_foreign_host_name_is_refused_on_every_route(server: Server) -> None:
    for path in ("/health", "/v1/models", "/v1/chat/completions", "/nothing"):
        answer = httpx.get(f"{server.url}{path}", headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "[::1]"])
def test_loopback_names_are_answered(server: Server, host: str) -> None:
    assert httpx.get(f"{server.url}/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["", "192.168.1.5", "127.0.0.1.evil", "localhost.evil.example", "evil.example:8080", "[::1]evil", "[::2]"]
)
def test_other_host_names_are_refused(server: Server, host: str) -> None:
    assert httpx.get(f"{server.url}/health", headers={"Host": host}).status_code == 403


def test_requests_from_other_origins_are_refused(server: Server) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={}, headers={"Origin": origin})
        assert answer.status_code == 403
    preflight = httpx.options(
        f"{server.url}/v1/chat/completions",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_no_response_allows_other_origins(server: Server) -> None:
    assert not [name for name in httpx.get(f"{server.url}/v1/models").headers if name.startswith("access-control")]


def test_a_page_of_the_server_itself_may_send_requests(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"Origin": server.url}).status_code == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {10**12}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]


def test_a_body_that_grows_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_BODY_BYTES", "1000")
    service = ModelPool(ResidentModel(resolve("builtin"), ModelConfig()))
    with in_process(service, ServerConfig()) as url:

        def chunks() -> Iterator[bytes]:
            for _ in range(20):
                yield b"x" * 100

        answer = httpx.post(f"{url}/v1/chat/completions", content=chunks())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_without_the_key_only_health_is_answered(guarded: Server) -> None:
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic open-sesame"}):
        answer = httpx.get(f"{guarded.url}/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        guarded.client().models.list()


def test_with_the_key_the_official_client_works(guarded: Server) -> None:
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="open-sesame")
    assert client.models.list().data[0].id == "builtin"


def test_the_key_is_never_printed(guarded: Server) -> None:
    assert "open-sesame" not in "".join(guarded.lines)


def test_an_allowed_host_name_is_answered(guarded: Server) -> None:
    assert httpx.get(f"{guarded.url}/health", headers={"Host": "assistant.lan:8080"}).status_code == 200


def test_strict_refuses_unknown_fields(guarded: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "frobnicate": 1}
    answer = guarded.post(body, headers={"Authorization": "Bearer open-sesame"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "frobnicate")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_an_open_address_without_a_key_is_refused(host: str) -> None:
    assert "API key" in startup_error("--host", host)


def test_an_open_address_with_a_key_is_served(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n")
    with serving("--host", "0.0.0.0", "--api-key-file", str(tmp_path / "key")) as running:
        while not running.url and running.process.poll() is None:
            time.sleep(0.05)
        port = running.url.rsplit(":", 1)[1]
        models = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(models).status_code == 401
        assert httpx.get(models, headers={"Authorization": "Bearer k"}).status_code != 401
        assert httpx.get(f"http://127.0.0.1:{port}/health", headers={"Host": "evil.example"}).status_code == 403


def test_a_missing_model_is_reported_in_one_line(tmp_path: Path) -> None:
    assert "there is no model" in startup_error("--model", str(tmp_path / "none.gguf"))


def test_a_file_that_is_not_a_model_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"<html>not found</html>")
    assert "model.gguf" in startup_error("--model", str(path))


def test_a_projector_given_as_a_model_is_refused() -> None:
    assert "--mmproj" in startup_error("--model", str(WEIGHTS.with_name("mmproj-Q8_0.gguf")))


def test_a_port_in_use_is_reported_in_one_line(server: Server) -> None:
    assert "cannot listen" in startup_error("--port", server.url.rsplit(":", 1)[1])


def test_a_model_by_path_is_named_by_stem_or_option_and_reads_no_images_without_projector() -> None:
    with serving("--model", str(WEIGHTS)) as running:
        running.wait_until_ready()
        assert running.client().models.list().data[0].id == "text-Q8_0"
        assert running.ask("Opposite of big?", model="text-Q8_0").status_code == 200
        answer = running.ask([image_part(DATA / "picture-5.png"), text_part("Count the shapes.")])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_modality")
        assert answer.json()["error"]["param"] == "messages[0].content[0].image_url.url"
        answer = running.ask([text_part("What was said?"), audio_part(DATA / "sound-1.wav")])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_modality")
        assert answer.json()["error"]["param"] == "messages[0].content[1].input_audio.data"
    with serving(
        "--model", str(WEIGHTS), "--mmproj", str(WEIGHTS.with_name("mmproj-Q8_0.gguf")), "--name", "me"
    ) as running:
        running.wait_until_ready()
        answer = running.ask([image_part(DATA / "picture-5.png"), text_part("Count the shapes.")], model="me")
        assert answer.json()["choices"][0]["message"]["content"] == "Four."


def test_an_unexpected_error_has_the_request_id_that_the_log_has(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken(ModelPool):
        def models(self) -> list[ModelInfo]:
            raise LookupError("a bug")

    with in_process(Broken(ResidentModel(resolve("builtin"), ModelConfig())), ServerConfig()) as url:
        answer = httpx.get(f"{url}/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    log = capfd.readouterr().err
    assert answer.headers["x-request-id"] in log and "a bug" in log
    assert "a bug" not in answer.text


def test_health_is_503_until_the_model_is_ready() -> None:
    service = ModelPool(ResidentModel(resolve("builtin"), ModelConfig()))
    with in_process(service, ServerConfig()) as url:
        for path in ("/health", "/v1/models"):
            assert httpx.get(f"{url}{path}").status_code == 503
        startup_error = httpx.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
        assert (startup_error.status_code, startup_error.headers["retry-after"]) == (503, "1")
        service.load()
        assert httpx.get(f"{url}/health").status_code == 200


class StepCounter:
    """Counts the steps that a service's model computes."""

    def __init__(self, service: ModelPool) -> None:
        assert service._given[0].loaded
        self.engine: Any = cast(Any, service._given[0].loaded)._engine
        runner: Any = self.engine._runner
        self.steps, decode = 0, runner.decode

        def counter(rows: Any) -> None:
            self.steps += 1
            time.sleep(0.002)
            decode(rows)

        runner.decode = counter


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_work_stops_when_the_client_disconnects(stream: bool) -> None:
    service = ModelPool(ResidentModel(resolve("builtin"), ModelConfig()))
    service.load()
    counter = StepCounter(service)
    body = {"messages": [{"role": "user", "content": "Tell"}], "ignore_eos": True, "stream": stream}
    with in_process(service, ServerConfig()) as url:
        host, port = url.removeprefix("http://").split(":")
        payload = json.dumps(body).encode()
        connection = socket.create_connection((host, int(port)))
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
            + payload
        )
        while counter.steps < 30:
            time.sleep(0.005)
        connection.close()
        wait_until(lambda: counter.engine.stats().running == 0)
        assert counter.steps < 1000  # the whole answer takes 2,000
        answer = httpx.post(
            f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "Opposite of big?"}]}
        )
        assert answer.json()["choices"][0]["message"]["content"] == "Small."


def test_an_interrupted_server_exits_cleanly() -> None:
    with serving() as running:
        running.wait_until_ready()
        running.process.terminate()
        running.process.wait(20)
        assert not [line for line in running.lines if "Traceback" in line]


def test_every_origin_header_is_checked(server: Server) -> None:
    headers = [("Origin", server.url), ("Origin", "https://evil.example")]
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 403


def stream_lines(url: str, into: list[str]) -> None:
    body = {"messages": [{"role": "user", "content": "Tell"}], "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
        into.extend(line for line in answer.iter_lines() if line)


def test_stopping_the_server_ends_every_stream_with_an_error() -> None:
    service = ModelPool(ResidentModel(resolve("builtin"), ModelConfig()))
    service.load()
    StepCounter(service)
    answers: list[list[str]] = [[] for _ in range(6)]
    with in_process(service, ServerConfig()) as url:
        threads = [threading.Thread(target=stream_lines, args=(url, answer)) for answer in answers]
        for thread in threads:
            thread.start()
        wait_until(lambda: sum(stats.running + stats.waiting for _, stats in service.stats()) == len(answers))
        service.close()
        for thread in threads:
            thread.join(10)
    for answer in answers:
        assert "the model was closed" in json.loads(answer[-1].removeprefix("data: "))["error"]["message"]


def test_disconnects_and_a_stop_during_a_stream_leave_no_traceback() -> None:
    with serving() as running:
        running.wait_until_ready()
        body = {"messages": [{"role": "user", "content": "Tell"}], "ignore_eos": True}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=httpx.Timeout(5, read=0.05))
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body | {"stream": True}) as answer:
            assert next(answer.iter_lines())
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n\r\n{{".encode())
        lines: list[str] = []
        reader = threading.Thread(target=stream_lines, args=(running.url, lines))
        reader.start()
        wait_until(lambda: bool(lines))
        running.process.terminate()
        running.process.wait(15)
        reader.join(10)
        assert not [line for line in running.lines if "Traceback" in line or "ERROR" in line], running.lines


def plain_picture(shade: int) -> dict[str, Any]:
    """A different image for each shade: equal images would be encoded only once."""
    data = io.BytesIO()
    Image.new("RGB", (96, 96), (shade, shade, shade)).save(data, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def test_image_preparation_stops_when_the_client_disconnects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from galago.runtime.llamacpp.projector import MediaChunk, Projector

    encoded: list[int] = []
    encode = Projector.encode_first

    def slow(projector: Projector, chunks: list[MediaChunk]) -> None:
        encoded.append(len(chunks))
        time.sleep(0.05)
        encode(projector, chunks[:1])

    monkeypatch.setattr(Projector, "encode_first", slow)
    service = ModelPool(ResidentModel(resolve("builtin"), ModelConfig()))
    service.load()
    parts = [*(plain_picture(shade) for shade in range(100)), text_part("Count the shapes.")]
    with in_process(service, ServerConfig()) as url:
        body = json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()
        host, _, port = url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n"
            client.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + body)
            wait_until(lambda: bool(encoded))
        before = -1
        while before != len(encoded):  # until the encoder rests
            before = len(encoded)
            time.sleep(0.5)
        assert 0 < len(encoded) < 60


def test_a_message_with_many_parts_does_not_delay_other_clients(server: Server) -> None:
    many = [{"type": "text", "text": "x"}] * 100_000
    thread = threading.Thread(target=server.ask, args=(many,))
    thread.start()
    start, slowest = time.monotonic(), 0.0
    while thread.is_alive():
        begin = time.monotonic()
        assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < (time.monotonic() - start) / 2  # no other client waits for most of it
