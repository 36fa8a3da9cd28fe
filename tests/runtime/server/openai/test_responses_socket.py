"""Responses over a WebSocket: the events of HTTP, conversations without a store, errors, and who may connect."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_connection
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fakes.server import Server, serving
from galago.runtime.types.limits import limit

KEY = "secret"
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
QUESTION = {"input": "Opposite of big?", "max_output_tokens": 8}
LONG: dict[str, Any] = {
    "input": "Count.",
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array", "minItems": 900}}},
}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    with serving("--threads", "1", "--api-key", KEY) as running:
        running.wait_until_ready()
        yield running


@contextmanager
def connected(server: Server, path: str = "/v1/responses", **headers: str) -> Iterator[ClientConnection]:
    url = f"ws{server.url.removeprefix('http')}{path}"
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"} | headers, max_size=None) as socket:
        yield socket


def send(socket: ClientConnection, **fields: Any) -> None:
    socket.send(json.dumps({"type": "response.create"} | fields))


def receive(socket: ClientConnection) -> list[dict[str, Any]]:
    """The events up to the end of an answer."""
    events = [json.loads(socket.recv(timeout=30))]
    while events[-1]["type"] not in ENDS:
        events.append(json.loads(socket.recv(timeout=30)))
    return events


def ask(socket: ClientConnection, **fields: Any) -> dict[str, Any]:
    """The response to a request."""
    send(socket, **fields)
    response: dict[str, Any] = receive(socket)[-1]["response"]
    return response


def code(socket: ClientConnection, **fields: Any) -> tuple[int, str]:
    """The status and the code of a request that is refused."""
    send(socket, **fields)
    event = receive(socket)[-1]
    assert event["type"] == "error"
    return event["status"], event["error"]["code"]


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_the_events_are_those_of_a_stream_over_http(server: Server, path: str) -> None:
    text = server.post(QUESTION | {"stream": True}, "/v1/responses").text
    streamed = [json.loads(block.partition("data: ")[2]) for block in text.split("\n\n") if block]
    with connected(server, path) as socket:
        send(socket, **QUESTION)
        events = receive(socket)
    assert [event["type"] for event in events] == [event["type"] for event in streamed]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"] == streamed[-1]["response"]["output"][0]["content"]


def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    with connected(server) as socket:
        for limit in (1, 2, 3):
            send(socket, input="Opposite of big?", max_output_tokens=limit)
        answers = [receive(socket)[-1]["response"] for _ in range(3)]
    assert [answer["max_output_tokens"] for answer in answers] == [1, 2, 3]


def test_a_connection_remembers_its_conversation(server: Server) -> None:
    with connected(server) as socket:
        first = ask(socket, **QUESTION)
        second = ask(socket, input="And of hot?", previous_response_id=first["id"], max_output_tokens=1)
    history = [
        {"role": "user", "content": QUESTION["input"]},
        *first["output"],
        {"role": "user", "content": "And of hot?"},
    ]
    whole = server.post({"input": history, "max_output_tokens": 1}, "/v1/responses").json()
    assert second["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert second["previous_response_id"] == first["id"] and second["store"] is False


def test_another_connection_does_not_know_the_conversation(server: Server) -> None:
    with connected(server) as socket:
        first = ask(socket, **QUESTION)
    with connected(server) as socket:
        assert code(socket, **QUESTION, previous_response_id=first["id"]) == (400, "previous_response_not_found")
        assert code(socket, **QUESTION, previous_response_id="resp_x") == (400, "previous_response_not_found")
        assert ask(socket, **QUESTION)["output"]


def test_a_request_that_is_refused_leaves_the_conversation(server: Server) -> None:
    with connected(server) as socket:
        first = ask(socket, **QUESTION)["id"]
        assert code(socket, input="Hi", conversation="c")[0] == 400
        assert ask(socket, **QUESTION, previous_response_id=first)["output"]


def test_a_warm_up_has_no_output_and_can_be_continued(server: Server) -> None:
    tool = {"type": "custom", "name": "note"}
    added = {"type": "additional_tools", "role": "developer", "tools": [tool]}
    with connected(server) as socket:
        assert ask(socket, input=[], generate=False)["output"] == []
        warm = ask(socket, input=[added, {"role": "user", "content": "Note it."}], generate=False)
        assert (warm["status"], warm["output"]) == ("completed", [])
        choice = {"type": "custom", "name": "note"}
        go_on = ask(socket, input=[], previous_response_id=warm["id"], tool_choice=choice, max_output_tokens=40)
    assert [item["type"] for item in go_on["output"]] == ["custom_tool_call"]
    assert [item["name"] for item in go_on["tools"]] == ["note"]


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        "{}",
        '{"type": "response.dance"}',
        '{"type": "response.create", "background": true, "input": "Hi"}',
        '{"type": "response.create", "stream_id": "a", "input": "Hi"}',
        '{"type": "response.create", "input": 5}',
        '{"type": "response.create", "input": "Hi", "conversation": "c"}',
        b"\xff\xfe",
    ],
)
def test_a_wrong_message_gets_an_error_and_the_connection_stays(server: Server, message: str | bytes) -> None:
    with connected(server) as socket:
        socket.send(message)
        event = json.loads(socket.recv(timeout=30))
        assert (event["type"], event["status"], event["error"]["type"]) == ("error", 400, "invalid_request_error")
        socket.send('{"type": "response.processed", "response_id": "resp_1"}')
        assert ask(socket, **QUESTION)["output"]


def test_too_many_waiting_requests_are_refused(server: Server) -> None:
    with connected(server) as socket:
        for _ in range(12):
            send(socket, **QUESTION)
        events = [json.loads(socket.recv(timeout=30))]
        while sum(event["type"] in ENDS for event in events) < 12:
            events.append(json.loads(socket.recv(timeout=30)))
    refused = [event for event in events if event["type"] == "error"]
    assert refused and all("are waiting" in event["error"]["message"] for event in refused)
    assert sum(event["type"] in ENDS for event in events) - len(refused) >= 4


def test_an_unknown_model_is_an_error_event(server: Server) -> None:
    with connected(server) as socket:
        send(socket, **QUESTION, model="org/none", stream=True)
        event = receive(socket)[-1]
    assert event.get("status") == 404 or event["type"] in ENDS


def test_closing_the_connection_stops_the_answer(server: Server) -> None:
    with connected(server) as socket:
        send(socket, **LONG)
        assert json.loads(socket.recv(timeout=30))["type"] == "response.created"
    deadline = time.monotonic() + 20
    while server.running():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Authorization": "Bearer x"}, 401), ({"Origin": "http://evil.example"}, 403)],
)
def test_who_may_not_send_a_request_may_not_connect(keyed: Server, headers: dict[str, str], status: int) -> None:
    with pytest.raises(InvalidStatus) as error, connected(keyed, **headers):
        pass
    assert error.value.response.status_code == status
    with connected(keyed, Origin=keyed.url) as socket:
        assert ask(socket, **QUESTION)["output"]


def test_a_connection_to_another_host_name_is_refused(keyed: Server) -> None:
    host, _, port = keyed.url.removeprefix("http://").rpartition(":")
    with pytest.raises(InvalidStatus) as error:
        connect("ws://evil.example/v1/responses", sock=create_connection((host, int(port)))).__enter__()
    assert error.value.response.status_code == 403


def test_other_paths_take_no_connections(server: Server) -> None:
    with pytest.raises(InvalidStatus) as error, connected(server, "/v1/chat/completions"):
        pass
    assert error.value.response.status_code in (403, 404)


def test_a_message_that_is_too_large_closes_the_connection(keyed: Server) -> None:
    with connected(keyed) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.send("x" * (limit("body_bytes") + 1))
            socket.recv(timeout=30)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
