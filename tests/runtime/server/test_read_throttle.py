"""Connections whose bytes take long to parse are read with pauses, and what they send is still answered."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from galago.runtime.server.app import ERROR_RESPONSES
from galago.runtime.server.http import security, sockets
from galago.runtime.server.http.read_throttle import ReadThrottle
from galago.runtime.server.http.request_context import MemoryBudget
from galago.runtime.server.http.security import ConnectionLimits, LimitedConnection
from galago.runtime.server.http.sockets import PIECE_BYTES, LimitedSocket

UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
EMPTY_BEGIN, EMPTY_PART = b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4)
TEXT_END = b"\x80\x82" + bytes(4) + b"ab"
MESSAGE = b"\x81\x82" + bytes(4) + b"ab"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
SECONDS = 30


class Transport(asyncio.Transport):
    """A transport whose client is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.is_paused = False
        self.written = b""

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...


App = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def connected(kind: type[LimitedConnection] | type[LimitedSocket], app: App) -> tuple[Any, Transport]:
    limits = ConnectionLimits(MemoryBudget(), ERROR_RESPONSES)
    config = uvicorn.Config(app, log_config=None, ws_per_message_deflate=False, interface="asgi3")
    connection = kind(limits=limits, config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    connection.connection_made(transport)
    return connection, transport


@pytest.fixture
def every_read_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sockets, security):
        monkeypatch.setattr(module, "QUICK_SECONDS", -1.0)


def test_slow_reads_wait_for_each_other() -> None:
    throttle = ReadThrottle()
    first, second = throttle.pause_seconds(0.01, now=5.0), throttle.pause_seconds(0.01, now=5.0)
    assert first == pytest.approx(0.05) and second == pytest.approx(0.1)
    assert throttle.pause_seconds(0.01, now=9.0) == pytest.approx(0.05)


async def accept_and_put(messages: asyncio.Queue[str], scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        messages.put_nowait(message["text"])


@pytest.mark.usefixtures("every_read_is_slow")
def test_a_message_of_empty_frames_is_parsed_in_pieces_and_arrives_whole() -> None:
    async def run() -> None:
        messages: asyncio.Queue[str] = asyncio.Queue()
        socket, transport = connected(LimitedSocket, functools.partial(accept_and_put, messages))
        socket.data_received(UPGRADE)
        socket.data_received(EMPTY_BEGIN + EMPTY_PART * (2 * PIECE_BYTES // len(EMPTY_PART)))
        assert transport.is_paused and len(socket._unparsed) > PIECE_BYTES
        socket.data_received(TEXT_END + MESSAGE)
        assert [await asyncio.wait_for(messages.get(), SECONDS) for _ in range(2)] == ["ab", "ab"]
        while transport.is_paused:  # the last pause ends
            await asyncio.sleep(0)
        socket.connection_lost(None)

    asyncio.run(asyncio.wait_for(run(), SECONDS))


def test_others_are_served_between_the_messages_of_a_socket() -> None:
    async def run() -> None:
        messages: asyncio.Queue[str] = asyncio.Queue()
        socket, _ = connected(LimitedSocket, functools.partial(accept_and_put, messages))
        socket.data_received(UPGRADE)
        socket.data_received(MESSAGE * 1000)
        turns = 0
        while messages.qsize() < 1000:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 990
        socket.connection_lost(None)

    asyncio.run(asyncio.wait_for(run(), SECONDS))


@pytest.mark.usefixtures("every_read_is_slow")
def test_a_body_that_is_slow_to_parse_is_read_after_a_pause() -> None:
    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        received.set()

    async def run() -> None:
        connection, transport = connected(LimitedConnection, app)
        for data in (POST, b"1\r\na\r\n" * 70_000, b"0\r\n\r\n"):
            connection.data_received(data)
            assert transport.is_paused
            connection.flow.resume_reading()  # as when the application wants more of the body
            assert transport.is_paused
            while transport.is_paused:
                await asyncio.sleep(0)
        await received.wait()
        connection.connection_lost(None)

    received = asyncio.Event()
    asyncio.run(asyncio.wait_for(run(), SECONDS))


def test_every_pipelined_request_learns_that_its_client_has_left() -> None:
    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        kinds.append((await receive())["type"])
        left.set()

    async def run() -> None:
        connection, _ = connected(LimitedConnection, app)
        connection.data_received((POST + b"0\r\n\r\n") * 3)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await left.wait()

    kinds: list[str] = []
    left = asyncio.Event()
    asyncio.run(asyncio.wait_for(run(), SECONDS))
    assert kinds == ["http.disconnect"]
