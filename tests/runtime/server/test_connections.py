"""Connections that send too little, or are too many, are closed; requests on others are answered meanwhile."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fakes.server import Server, serving
from galago.runtime.server.http.sockets import TRY_AGAIN_LATER

CONNECTIONS = 4
IDLE_SECONDS = 4
HELD_BYTES = 1_000_000
"""By all requests together. A message counts twice, for the copy that is decoded."""
HALF_HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
HALF_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = [f"connections={CONNECTIONS}", "header_seconds=2", "body_seconds=2"]
    limits += [f"idle_seconds={IDLE_SECONDS}", f"total_held_bytes={HELD_BYTES}"]
    with serving(*(word for one in limits for word in ("--limit", one))) as running:
        running.wait_until_ready()
        yield running


def opened(server: Server, stack: ExitStack, sent: bytes = b"") -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
    connection.sendall(sent)
    return connection


def received(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    pieces = []
    try:
        while piece := connection.recv(4096):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


@pytest.mark.parametrize("sent", [b"", HALF_HEAD, HALF_REQUEST])
def test_a_new_connection_takes_the_place_of_the_oldest_that_waits(server: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        waiting = [opened(server, stack, sent) for _ in range(CONNECTIONS)]
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert received(waiting[0]) == b""


@pytest.mark.parametrize("sent", [b"", HALF_HEAD, HALF_REQUEST])
def test_a_request_that_does_not_go_on_is_closed_with_408(server: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        assert b" 408 " in received(opened(server, stack, sent)).split(b"\r\n")[0]


def test_a_head_after_a_response_must_go_on_too(server: Server) -> None:
    with ExitStack() as stack:
        connection = opened(server, stack, HALF_HEAD + b"\r\n" + HALF_HEAD)
        answers = received(connection)
    assert answers.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answers


@pytest.mark.parametrize("count, status", [(60, b"200"), (70, b"413")])
def test_headers_up_to_64_kib_are_read(server: Server, count: int, status: bytes) -> None:
    headers = b"".join(b"x-%d: %s\r\n" % (i, b"x" * 1000) for i in range(count))
    with ExitStack() as stack:
        connection = opened(server, stack, HALF_HEAD + headers + b"connection: close\r\n\r\n")
        assert received(connection).split()[1] == status


def test_one_header_without_an_end_is_refused_at_64_kib(server: Server) -> None:
    with ExitStack() as stack:
        connection = opened(server, stack, HALF_HEAD + b"x: ")
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(b"x" * 4096)
                if select.select([connection], [], [], 0)[0]:
                    assert connection.recv(4096).split()[1] == b"413"
                    raise OSError


def test_trailers_of_a_body_are_not_read_as_headers(server: Server) -> None:
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
    chunked += b"connection: close\r\n\r\n"
    with ExitStack() as stack:
        connection = opened(server, stack, chunked + b"2\r\n{}\r\n0\r\norigin: http://other.example\r\n\r\n")
        assert b"messages" in received(connection)


def test_an_offer_of_another_protocol_is_ignored(server: Server) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
    with ExitStack() as stack:
        assert opened(server, stack, HALF_HEAD + offer).recv(4096).split()[1] == b"200"
        posted = HALF_REQUEST.split(b"\r\n\r\n")[0].replace(b"100", b"2") + b"\r\n" + offer + b"{}"
        assert opened(server, stack, posted).recv(4096).split()[1] == b"400"


def test_a_body_that_goes_on_slowly_is_read(server: Server) -> None:
    with ExitStack() as stack:
        connection = opened(server, stack, HALF_REQUEST)
        for _ in range(6):  # longer than `body_seconds` in all
            threading.Event().wait(0.5)
            connection.sendall(b" ")
        connection.sendall(b"}" + b" " * 92)
        assert connection.recv(4096).split()[1] == b"400"


def test_a_connection_without_a_next_request_is_closed(server: Server) -> None:
    with ExitStack() as stack:
        connection = opened(server, stack, HALF_HEAD + b"\r\n")
        began = time.monotonic()
        answers = received(connection)
        assert time.monotonic() - began >= IDLE_SECONDS - 1  # it stays open for a while
    assert answers.startswith(b"HTTP/1.1 200") and answers.count(b"HTTP/1.1") == 1


def socket_opened(server: Server, stack: ExitStack) -> ClientConnection:
    return stack.enter_context(connect(f"ws{server.url.removeprefix('http')}/v1/responses", compression=None))


def test_a_half_message_of_a_websocket_counts_as_held_until_the_connection_closes(server: Server) -> None:
    part = " " * (HELD_BYTES * 3 // 10)

    def parts_with_another_message_between() -> Iterator[str]:
        yield part
        assert first.ping().wait(60)  # the server has read the part
        with pytest.raises(ConnectionClosed) as closed:
            second.send(part)
            second.recv(timeout=60)
        assert closed.value.rcvd is None or closed.value.rcvd.code == TRY_AGAIN_LATER
        yield "{}"

    with ExitStack() as stack:
        first, second = (socket_opened(server, stack) for _ in range(2))
        first.send(parts_with_another_message_between())
        assert "only response.create" in str(first.recv(timeout=60))
    with ExitStack() as stack:
        third = socket_opened(server, stack)
        third.send(part + "{}")
        assert "only response.create" in str(third.recv(timeout=60))
