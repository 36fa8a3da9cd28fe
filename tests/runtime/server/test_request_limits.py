"""Requests that are as large as a limit allows are done; larger ones are refused with an error that names the limit."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from galago.models.errors import RequestTooLarge
from galago.runtime.config import ServerConfig
from galago.runtime.server.app import ERROR_RESPONSES
from galago.runtime.server.http.request_context import MemoryBudget
from galago.runtime.server.http.request_io import decode_object
from galago.runtime.server.http.security import Guard
from galago.runtime.types.messages import Audio, Image, Message, Part, Text, Video
from galago.runtime.types.request import Request, RequestLimits
from galago.runtime.types.tasks import Embed, Estimate, Rerank, Tokenize
from galago.runtime.types.warnings import Warnings

# json_values


def test_a_body_may_have_as_many_values_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_JSON_VALUES", "5")
    with MemoryBudget().request():
        assert decode_object(bytearray(b'{"a": [1, 2, 3]}'), Warnings()) == {"a": [1, 2, 3]}
        with pytest.raises(RequestTooLarge, match="json_values"):
            decode_object(bytearray(b'{"a": [1, 2, 3, 4, 5]}'), Warnings())


# parts, held_bytes, prompt_characters


@pytest.mark.parametrize(
    ("name", "fits", "too_large"),
    [
        ("parts", [Image(b"x")] * 2, [Image(b"x")] * 3),
        ("parts", [Image(b"x"), Audio(b"x")], [Image(b"x"), Audio(b"x"), Video(b"x")]),
        ("held_bytes", [Image(b"x"), Audio(b"x")], [Image(b"xx"), Audio(b"x")]),
        ("prompt_characters", [Text("a"), Text("b")], [Text("a"), Text("bc")]),
    ],
)
def test_a_request_may_hold_as_much_as_the_limit(
    name: str, fits: list[Part], too_large: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", "2")
    limits = RequestLimits()
    limits.check(Request((Message("user", tuple(fits)),)))
    with pytest.raises(RequestTooLarge, match=name):
        limits.check(Request((Message("user", tuple(too_large)),)))
    with pytest.raises(RequestTooLarge, match=name):
        Estimate(Request((Message("user", tuple(too_large)),))).check(limits)


def test_texts_of_tasks_may_have_as_many_characters_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_PROMPT_CHARACTERS", "2")
    limits = RequestLimits()
    for task in (Embed(("a", "b")), Rerank("a", ("b",)), Tokenize("ab")):
        task.check(limits)
    for task in (Embed(("a", "bc")), Rerank("a", ("b", "c")), Tokenize("abc")):
        with pytest.raises(RequestTooLarge, match="prompt_characters"):
            task.check(limits)


# body_bytes, body_seconds, client_requests


def test_a_body_may_have_as_many_bytes_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_BODY_BYTES", "10")
    assert asyncio.run(_statuses(_guard(_reads_body), [b"12345", b"67890"])) == [200]
    assert asyncio.run(_statuses(_guard(_reads_body), [b"12345", b"678901"])) == [413]


def test_a_body_that_stops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_BODY_SECONDS", "0")
    assert asyncio.run(_statuses(_guard(_reads_body), [b"12345", None])) == [408]


def test_a_client_may_have_as_many_requests_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_CLIENT_REQUESTS", "2")

    async def ask() -> None:
        came, release = 0, asyncio.Event()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal came
            await HttpRequest(scope, receive).body()
            came += 1
            await release.wait()
            await Response()(scope, receive, send)

        guard = _guard(answer)
        unfinished = asyncio.create_task(_statuses(guard, [b"x", None]))  # it does not count yet
        running = [asyncio.create_task(_statuses(guard, [b"x"])) for _ in range(2)]
        while came < 2:
            await asyncio.sleep(0)
        assert await _statuses(guard, [b"x"]) == [503]
        release.set()
        assert [await one for one in running] == [[200], [200]]
        assert await _statuses(guard, [b"x"]) == [200]
        unfinished.cancel()

    asyncio.run(ask())


async def _reads_body(scope: Scope, receive: Receive, send: Send) -> None:
    await HttpRequest(scope, receive).body()
    await Response()(scope, receive, send)


def _guard(application: ASGIApp) -> Guard:
    return Guard(application, ServerConfig(), ERROR_RESPONSES, MemoryBudget(), set())


async def _statuses(guard: Guard, pieces: list[bytes | None]) -> list[int]:
    """The statuses that a guard answers with. After the piece `None` nothing comes."""
    statuses: list[int] = []
    left = list(pieces)

    async def receive() -> AsgiMessage:
        piece = left.pop(0) if left else None
        if piece is None:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "client": ("127.0.0.1", 1)}
    await guard(scope, receive, send)
    return statuses
