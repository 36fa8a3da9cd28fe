"""Clients that send slowly, incompletely, endlessly or too much at once, and clients that do not read."""

from __future__ import annotations

import base64
import json
import os
import socket
import time

from .target import CHAT, Target, head, status_of

_QUESTION = {"messages": [{"role": "user", "content": "Count from 1 to 500."}]}
_SMALL = json.dumps({**_QUESTION, "max_tokens": 4}).encode()


def slow_headers(target: Target) -> list[int | str]:
    """One header every 0.2 s, endlessly."""
    connections = [target.open(head()) for _ in range(100)]
    while not target.ended():
        for connection in connections:
            connection.sendall(b"x-more: 1\r\n")
        time.sleep(0.2)
    return _close(connections)


def slow_bodies(target: Target) -> list[int | str]:
    """One byte every 0.2 s."""
    connections = [target.open(head(CHAT, "content-length: 100000") + b"\r\n{") for _ in range(100)]
    while not target.ended():
        for connection in connections:
            connection.sendall(b" ")
        time.sleep(0.2)
    return _close(connections)


def half_bodies(target: Target) -> list[int | str]:
    """Half of a large body."""
    half = b" " * 30_000_000
    connections = []
    for _ in range(10):
        if not target.ended():
            connections.append(target.open())
            connections[-1].settimeout(1)
            try:
                connections[-1].sendall(head(CHAT, "content-length: 60000000") + b"\r\n" + half)
            except TimeoutError:
                pass  # the server has stopped reading
    target.hold()
    return _close(connections)


def many_half_bodies(target: Target) -> list[int | str]:
    """Half of a small body, less than the server reads at once."""
    half = head(CHAT, "content-length: 1000000") + b"\r\n" + b" " * 300_000
    connections = [target.open(half) for _ in range(100)]
    target.hold()
    return _close(connections)


def headers_without_a_body(target: Target) -> list[int | str]:
    connections = [target.open(head(CHAT, "content-length: 60000000") + b"\r\n") for _ in range(100)]
    target.hold()
    return _close(connections)


def chunks_without_an_end(target: Target) -> list[int | str]:
    connection = target.open(head(CHAT, "transfer-encoding: chunked") + b"\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    while not target.ended():
        try:
            connection.sendall(chunk)
        except OSError:
            break
    return [status_of(connection)]


def chunks_of_one_byte(target: Target) -> list[int | str]:
    connection = target.open(head(CHAT, "transfer-encoding: chunked") + b"\r\n")
    chunks = b"1\r\n \r\n" * 10_000
    while not target.ended():
        try:
            connection.sendall(chunks)
        except OSError:
            break
    return [status_of(connection)]


def chunk_head_without_an_end(target: Target) -> list[int | str]:
    connections = [target.open(head(CHAT, "transfer-encoding: chunked") + b"\r\n" + b"0" * 10_000) for _ in range(50)]
    target.hold()
    return _close(connections)


def silent_connections(target: Target) -> list[int | str]:
    """750 connections from each thread, 3000 in all."""
    connections = []
    for _ in range(750):
        try:
            connections.append(target.open())
        except OSError:
            break
    target.hold()
    return _close(connections)


def connections_that_come_and_go(target: Target) -> list[int | str]:
    for _ in range(100):
        target.open(head()[:20]).close()
    return ["closed"]


def kept_alive_connections(target: Target) -> list[int | str]:
    """Connections that stay open after an answer."""
    request = head("/health", method="GET") + b"\r\n"
    connections = [target.open(request) for _ in range(300)]
    statuses = [status_of(connection) for connection in connections]
    target.hold()
    _close(connections)
    return statuses


def pipelined_requests(target: Target) -> list[int | str]:
    request = head(CHAT, f"content-length: {len(_SMALL)}") + b"\r\n" + _SMALL
    connection = target.open()
    connection.settimeout(2)
    try:
        connection.sendall(request * 2000)
    except OSError:
        pass  # the server stops reading while it answers
    return [status_of(connection)]


def pipelined_heads_without_reading(target: Target) -> list[int | str]:
    connection = target.open()
    connection.settimeout(2)
    try:
        while not target.ended():
            connection.sendall((head("/openapi.json", method="GET") + b"\r\n") * 1000)
    except OSError:
        pass
    return ["sent"]


def streams_that_nobody_reads(target: Target) -> list[int | str]:
    body = json.dumps({**_QUESTION, "stream": True, "max_tokens": 8000, "ignore_eos": True}).encode()
    connections = [target.open(head(CHAT, f"content-length: {len(body)}") + b"\r\n" + body) for _ in range(3)]
    target.hold()
    return _close(connections)


def many_answers_that_nobody_reads(target: Target) -> list[int | str]:
    asked = {**_QUESTION, "stream": True, "n": 8, "logprobs": True, "top_logprobs": 20, "max_tokens": 2000}
    body = json.dumps({**asked, "ignore_eos": True}).encode()
    connection = target.open(head(CHAT, f"content-length: {len(body)}") + b"\r\n" + body)
    target.hold()
    return _close([connection])


def requests_of_clients_that_hang_up(target: Target) -> list[int | str]:
    request = head(CHAT, f"content-length: {len(_SMALL)}") + b"\r\n" + _SMALL
    for _ in range(20):
        target.open(request).close()
    return ["closed"]


def silent_sockets(target: Target) -> list[int | str]:
    """WebSockets that are opened and never used."""
    connections = [target.open(_upgrade()) for _ in range(100)]
    statuses = [status_of(connection) for connection in connections]
    target.hold()
    _close(connections)
    return statuses


def half_socket_messages(target: Target) -> list[int | str]:
    """The first half of WebSocket messages of 60 MB, in frames of 64 KB."""
    connection = target.open(_upgrade())
    status = status_of(connection)
    connection.settimeout(1)
    frame, first = _frame(0, b" " * 65_000), _frame(1, b" " * 65_000)
    try:
        connection.sendall(first + frame * 460)
    except OSError:
        pass
    target.hold()
    _close([connection])
    return [status]


def empty_socket_frames(target: Target) -> list[int | str]:
    """A message of empty frames."""
    connection = target.open(_upgrade())
    status = status_of(connection)
    connection.sendall(_frame(1, b""))
    while not target.ended():
        try:
            connection.sendall(_frame(0, b"") * 10_000)
        except OSError:
            return ["closed"]
    return [status]


def pings_without_an_end(target: Target) -> list[int | str]:
    """Pings whose pongs are not read."""
    connection = target.open(_upgrade())
    connection.settimeout(2)
    while not target.ended():
        try:
            connection.sendall(_frame(9, b"x" * 100, final=True) * 1000)
        except OSError:
            return ["closed"]
    return ["sent"]


def socket_requests_without_reading(target: Target) -> list[int | str]:
    """Requests on a WebSocket that are refused, without reading the errors."""
    connection = target.open(_upgrade())
    connection.settimeout(2)
    while not target.ended():
        try:
            connection.sendall(_frame(1, b'{"type":"nothing"}', final=True) * 1000)
        except OSError:
            return ["closed"]
    return ["sent"]


def _upgrade() -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    headers = ("connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", f"sec-websocket-key: {key}")
    return head("/v1/responses", *headers, method="GET") + b"\r\n"


def _frame(opcode: int, payload: bytes, final: bool = False) -> bytes:
    """A WebSocket frame, masked with zeros."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else bytes([128 | 126]) + size.to_bytes(2, "big")
    return bytes([opcode | (128 if final else 0)]) + length + bytes(4) + payload


def _close(connections: list[socket.socket]) -> list[int | str]:
    """Closes connections; returns the status that arrived on each."""
    for connection in connections:
        connection.settimeout(0.01)
    statuses = [_state(connection) for connection in connections]
    for connection in connections:
        connection.close()
    return statuses


def _state(connection: socket.socket) -> int | str:
    try:
        first = connection.recv(1000)
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"
    return int(first.split()[1]) if first.startswith(b"HTTP/1.") else "closed"
