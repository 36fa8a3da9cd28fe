"""Connections that send too little, or are too many, are closed; requests on others are answered meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from fakes.server import Server, serving

CONNECTIONS = 4
HALF_HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
HALF_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = (f"connections={CONNECTIONS}", "header_seconds=2", "body_seconds=2")
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


def test_a_body_that_goes_on_slowly_is_read(server: Server) -> None:
    with ExitStack() as stack:
        connection = opened(server, stack, HALF_REQUEST)
        for _ in range(6):  # longer than `body_seconds` in all
            threading.Event().wait(0.5)
            connection.sendall(b" ")
        connection.sendall(b"}" + b" " * 92)
        assert connection.recv(4096).split()[1] == b"400"
