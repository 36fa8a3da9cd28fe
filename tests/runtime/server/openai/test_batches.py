"""Batches with OpenAI's client: each line is answered once, even after crashes, and other clients do not wait."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import re
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import openai
import pytest
from starlette.requests import Request
from starlette.responses import Response
from websockets.sync.client import connect

from fakes.server import DATA, Server, audio_part, image_part, serving, text_part
from galago.models.errors import InvalidRequest
from galago.runtime.config import ServerConfig
from galago.runtime.server.app import ERROR_RESPONSES
from galago.runtime.server.http.request_io import run_on_thread
from galago.runtime.server.openai.batches.lines import MAX_ERRORS, check_lines
from galago.runtime.server.openai.batches.runner import BatchRunner
from galago.runtime.server.openai.batches.schema import Batch, LineRequest, LineResponse, LineResult, RequestCounts
from galago.runtime.server.resource import ServerContext
from galago.runtime.server.storage.batch_store import BatchLine, BatchStore
from galago.runtime.server.storage.database import Database
from galago.runtime.server.storage.file_store import FileStore

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


@pytest.fixture(scope="module")
def storing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kept") / "store"
    with serving("--threads", "1", "--store", str(folder)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def api(storing: Server) -> Iterator[openai.OpenAI]:
    with storing.client() as client:
        yield client


def line(name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body}


def chat_body(content: Any, **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **options}


def numbered_body(number: int, content: Any) -> dict[str, Any]:
    """A request whose answer begins with its number."""
    return line(f"line-{number}", chat_body(content, regex=f"{number:04}[a-z]{{3}}"))


def mixed(client: openai.OpenAI, count: int) -> list[dict[str, Any]]:
    """Lines with text, images and audio; half of the media are uploaded files."""
    picture = client.files.create(file=DATA / "picture-5.png", purpose="user_data").id
    sound = client.files.create(file=DATA / "sound-1.wav", purpose="user_data").id
    parts = [
        text_part("Opposite of big?"),
        image_part(DATA / "picture-3.png"),
        audio_part(DATA / "sound-2.wav"),
        {"type": "file", "file": {"file_id": picture}},
        {"type": "input_audio", "input_audio": {"file_id": sound}},
    ]
    return [numbered_body(i, [parts[i % len(parts)], text_part("What is it?")]) for i in range(count)]


def start(client: openai.OpenAI, lines: list[dict[str, Any]], **options: Any) -> Any:
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    settings: Any = {"endpoint": CHAT, "completion_window": "24h"} | options
    return client.batches.create(input_file_id=file.id, **settings)


def wait(client: openai.OpenAI, name: str, until: Callable[[Any], bool], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(name)
        if until(batch):
            return batch
        time.sleep(0.1)
    raise AssertionError(f"after {seconds} s: {batch}")


def has_ended(batch: Any) -> bool:
    return batch.status in ("completed", "failed", "expired", "cancelled")


def results(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [] if file_id is None else [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def answer_text(result: dict[str, Any]) -> str:
    return str(result["response"]["body"]["choices"][0]["message"]["content"])


def check_each_answered_once(client: openai.OpenAI, batch: Any, count: int) -> None:
    assert (batch.status, batch.error_file_id) == ("completed", None), results(client, batch.error_file_id)
    counts = batch.request_counts
    assert (counts.completed, counts.failed, counts.total) == (count, 0, count)
    answers = results(client, batch.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"line-{i}" for i in range(count)]
    for i, answer in enumerate(answers):
        assert re.fullmatch(f"{i:04}[a-z]{{3}}", answer_text(answer)), answer
        details = answer["response"]["body"]["usage"]["prompt_tokens_details"]
        assert (details["image_tokens"] > 0, details["audio_tokens"] > 0) == (i % 5 in (1, 3), i % 5 in (2, 4))


def test_a_batch_with_media_is_answered_line_by_line(api: openai.OpenAI) -> None:
    batch = start(api, mixed(api, 10), metadata={"for": "a test"})
    assert batch.status == "in_progress" and batch.request_counts.total == 10
    done = wait(api, batch.id, has_ended)
    check_each_answered_once(api, done, 10)
    assert done.metadata == {"for": "a test"}
    assert done.created_at <= done.in_progress_at <= done.completed_at <= done.expires_at
    assert done.id in [listed.id for listed in api.batches.list()]


def test_an_answer_in_a_batch_warns_of_a_character_that_was_cut(api: openai.OpenAI) -> None:
    cut = json.dumps(line("a", chat_body("Hi \ud83d", max_tokens=1))).encode()
    file = api.files.create(file=("lines.jsonl", cut), purpose="batch")
    batch = api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    (result,) = results(api, wait(api, batch.id, has_ended).output_file_id)
    assert "half of a surrogate pair" in result["response"]["body"]["warnings"][0]


def test_a_batch_answer_equals_that_of_a_chat(api: openai.OpenAI, storing: Server) -> None:
    body = chat_body([image_part(DATA / "picture-5.png"), text_part("Count the shapes.")], cache=False)
    done = wait(api, start(api, [line("a", body)]).id, has_ended)
    (result,) = results(api, done.output_file_id)
    assert result["error"] is None and result["response"]["status_code"] == 200
    assert result["response"]["body"]["object"] == "chat.completion"
    assert answer_text(result) == storing.post(body).json()["choices"][0]["message"]["content"]


def test_an_error_in_a_line_is_reported_for_that_line(api: openai.OpenAI) -> None:
    missing = chat_body([{"type": "file", "file": {"file_id": "file-0"}}])
    bodies = [chat_body("Hi", regex="[a"), chat_body("Opposite of big?"), missing, {}]
    done = wait(api, start(api, [line(str(i), body) for i, body in enumerate(bodies)]).id, has_ended)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 1, 3)
    assert [answer["custom_id"] for answer in results(api, done.output_file_id)] == ["1"]
    faults = {fault["custom_id"]: fault["response"] for fault in results(api, done.error_file_id)}
    assert {name: fault["status_code"] for name, fault in faults.items()} == {"0": 400, "2": 404, "3": 400}
    params = {name: fault["body"]["error"]["param"] for name, fault in faults.items()}
    assert params == {"0": "regex", "2": "messages[0].content[0].file.file_id", "3": "messages"}


def test_a_file_with_an_invalid_line_fails_and_names_it(api: openai.OpenAI) -> None:
    good = line("a", chat_body("Hi"))
    lines = [good, good, good | {"custom_id": "b", "url": "/v1/other"}, line("c", chat_body("Hi", stream=True))]
    batch = start(api, lines)
    assert batch.status == "failed" and batch.request_counts.total == 0
    assert [(error.line, error.param) for error in batch.errors.data] == [
        (2, "custom_id"), (3, "url"), (4, "body.stream"),
    ]  # fmt: skip
    assert start(api, []).errors.data[0].code == "empty_file"


BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({}, 400, "input_file_id"),
    ({"input_file_id": "file-0"}, 404, "input_file_id"),
    ({"endpoint": "/v1/nothing"}, 400, "endpoint"),
    ({"completion_window": "soon"}, 400, "completion_window"),
    ({"completion_window": "0h"}, 400, "completion_window"),
    ({"metadata": {"a": 1}}, 400, "metadata[...]"),
    ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata"),
    ({"frobnicate": 1}, 400, None),
]


@pytest.mark.parametrize(("change", "status", "param"), BAD)
def test_a_bad_batch_is_refused_with_the_field_at_fault(
    api: openai.OpenAI, storing: Server, change: dict[str, Any], status: int, param: str | None
) -> None:
    body = {"input_file_id": api.files.create(file=b"{}", purpose="batch").id, "endpoint": CHAT}
    body |= {"completion_window": "24h"}
    answer = storing.post(body | change if change else {}, "/v1/batches")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_unknown_batches_are_not_found(api: openai.OpenAI) -> None:
    for ask in (api.batches.retrieve, api.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask("batch_0")


def test_without_a_store_every_endpoint_names_the_option(client: openai.OpenAI) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.batches.create(input_file_id="file-0", endpoint=CHAT, completion_window="24h"),
        lambda: client.batches.list(),
        lambda: client.batches.retrieve("batch_0"),
        lambda: client.batches.cancel("batch_0"),
    ]
    for ask in calls:
        with pytest.raises(openai.BadRequestError, match="galago serve --store FOLDER"):
            ask()


def long(number: int) -> dict[str, Any]:
    return line(f"line-{number}", chat_body("Hi", ignore_eos=True, max_tokens=1500))


def test_a_cancelled_batch_keeps_its_answers_and_lists_the_rest(api: openai.OpenAI) -> None:
    batch = start(api, [*(numbered_body(i, "Hi") for i in range(3)), *map(long, range(3, 40))])
    wait(api, batch.id, lambda now: now.request_counts.completed >= 3)
    assert api.batches.cancel(batch.id).status == "cancelling"
    done = wait(api, batch.id, has_ended)
    assert done.status == "cancelled" and done.cancelling_at <= done.cancelled_at
    good, rest = results(api, done.output_file_id), results(api, done.error_file_id)
    names = sorted(result["custom_id"] for result in good + rest)
    assert names == sorted(f"line-{i}" for i in range(40)) and len(good) >= 3
    assert {result["error"]["code"] for result in rest} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        api.batches.cancel(batch.id)


def test_lines_in_progress_pause_while_a_chat_is_answered(api: openai.OpenAI, storing: Server) -> None:
    batch = start(api, [long(i) for i in range(8)])
    wait(api, batch.id, lambda _: storing.running() > 1)
    calls: Any = {"model": "builtin", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1900}
    seen: list[int] = []  # sampled once a second, which can miss a short answer
    deadline = time.monotonic() + 20
    while 1 not in seen and time.monotonic() < deadline:
        with api.chat.completions.create(**calls, stream=True, extra_body={"ignore_eos": True}) as chunks:
            for _chunk in itertools.islice(chunks, 20):
                time.sleep(0.05)
                seen.append(storing.running())
    assert 1 in seen, seen
    api.batches.cancel(batch.id)
    wait(api, batch.id, has_ended)


def test_an_idle_websocket_does_not_delay_a_batch(api: openai.OpenAI, storing: Server) -> None:
    with connect(f"ws{storing.url.removeprefix('http')}/v1/responses") as socket:
        socket.send("{}")
        assert json.loads(socket.recv(timeout=30))["type"] == "error"
        name = start(api, [line("a", chat_body("Hi", max_tokens=1))]).id
        assert wait(api, name, has_ended, 30).status == "completed"


def test_each_line_is_answered_once_if_the_server_is_killed(tmp_path: Path) -> None:
    store = ("--threads", "1", "--store", str(tmp_path / "store"))
    with serving(*store) as first:
        first.wait_until_ready()
        with first.client() as client:
            batch = start(client, mixed(client, 30))
            wait(client, batch.id, lambda now: now.request_counts.completed >= 8)
        first.process.send_signal(signal.SIGKILL)
    with serving(*store) as second:
        second.wait_until_ready()
        with second.client() as client:
            assert client.batches.retrieve(batch.id).status in ("in_progress", "completed")
            check_each_answered_once(client, wait(client, batch.id, has_ended), 30)


def test_each_line_is_answered_once_if_the_worker_is_killed(api: openai.OpenAI, storing: Server) -> None:
    batch = start(api, mixed(api, 20))
    wait(api, batch.id, lambda now: now.request_counts.completed >= 4)
    storing.worker().kill()
    check_each_answered_once(api, wait(api, batch.id, has_ended), 20)


def test_a_restarted_server_continues_its_batches(tmp_path: Path) -> None:
    store = ("--threads", "1", "--store", str(tmp_path / "store"))
    with serving(*store) as first:
        first.wait_until_ready()
        with first.client() as client:
            batch = start(client, mixed(client, 15))
            wait(client, batch.id, lambda now: now.request_counts.completed >= 3)
        first.process.terminate()
        first.process.wait(20)
    with serving(*store) as second:
        second.wait_until_ready()
        with second.client() as client:
            check_each_answered_once(client, wait(client, batch.id, has_ended), 15)


def a_batch(expires_at: int) -> Batch:
    return Batch(
        id="batch_1", endpoint=CHAT, input_file_id="file-1", completion_window="24h", status="in_progress",
        created_at=1, expires_at=expires_at, request_counts=RequestCounts(3),
    )  # fmt: skip


def test_a_line_keeps_its_first_answer(tmp_path: Path) -> None:
    files = FileStore(Database(tmp_path / "store"))
    batches, batch = BatchStore(files), a_batch(2)
    batches.add(batch, [LineRequest(str(i), "POST", CHAT, {}) for i in range(3)], None)
    for i in (0, 0, 1):
        answer = LineResponse(200 if i == 0 else 400, f"r{len(batches.unanswered('batch_1'))}", b"{}")  # type: ignore[arg-type]
        batches.answer("batch_1", batches.line("batch_1", i), LineResult("x", str(i), answer, None))
    assert batches.unanswered("batch_1") == [2]
    assert batches.get("batch_1").request_counts == RequestCounts(3, 1, 1)
    batches.end(batch, "expired")
    done = batches.get("batch_1")
    assert (done.status, done.request_counts, batches.next_open()) == ("expired", RequestCounts(3, 1, 2), None)
    assert done.output_file_id and done.error_file_id
    (first,) = files.path(done.output_file_id).read_bytes().splitlines()
    assert json.loads(first)["response"]["request_id"] == "r3"
    rest = [json.loads(text) for text in files.path(done.error_file_id).read_bytes().splitlines()]
    assert [fault["custom_id"] for fault in rest] == ["1", "2"]
    assert rest[1]["error"]["code"] == "batch_expired"


def test_parsing_stops_after_the_maximum_of_errors() -> None:
    count, errors = check_lines([b"[]\n"] * 100_000, CHAT)
    assert not count and len(errors) == MAX_ERRORS


def test_a_batch_has_the_format_of_openais_api(storing: Server, api: openai.OpenAI) -> None:
    batch = start(api, [numbered_body(0, "Hi")])
    body = httpx.get(f"{storing.url}/v1/batches/{batch.id}").json()
    assert body["object"] == "batch" and set(body["request_counts"]) == {"total", "completed", "failed"}
    wait(api, batch.id, has_ended)


def test_the_files_of_a_refused_line_are_not_kept() -> None:
    class File:
        """Stands for the bytes of a file."""

    kept: list[weakref.ref[File]] = []

    def read(_has_left: Any) -> Response:
        file = File()
        kept.append(weakref.ref(file))
        raise InvalidRequest("the request names too many files")

    async def refuse(request: Request) -> Response:
        return await run_on_thread(request, read)

    service: Any = SimpleNamespace(ready=True)
    context = ServerContext(service, ServerConfig())
    batches: Any = SimpleNamespace(owner=lambda _batch: None)
    runner = BatchRunner(batches, {CHAT: refuse}, context, ERROR_RESPONSES)
    batch = Batch(
        id="batch_1",
        endpoint=CHAT,
        input_file_id="file_1",
        completion_window="24h",
        status="in_progress",
        created_at=0,
        expires_at=0,
        request_counts=RequestCounts(1),
    )
    gc.disable()  # as between two collections, which may be far apart
    try:
        response, code = asyncio.run(runner._answer(batch, BatchLine(0, "a", b"{}")))
        assert response.status_code == 400 and code == "invalid_value"
        assert [file() for file in kept] == [None]
    finally:
        gc.enable()
