"""Stored responses that are streamed again: the events, where they start, and responses that are in progress."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import httpx
import msgspec
import openai
import pytest

from fakes.server import Server, serving
from galago.runtime.server.openai.responses import item_schema as items
from galago.runtime.server.openai.responses import replay
from galago.runtime.server.openai.responses.schema import IncompleteDetails, Response, ResponseError, ResponseStatus

Json = dict[str, Any]

TOOLS: list[Json] = [
    {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}}},
    {"type": "custom", "name": "note"},
]
CALLS: Json = {"tools": TOOLS, "tool_choice": "required"}
LONG: Json = {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array", "minItems": 900}}}}
OUTPUT: list[items.OutputItem] = [
    items.ReasoningItem("rs_1", [items.ReasoningText("Hm.")], "completed"),
    items.MessageItem("msg_1", [items.OutputText("Hello.", [], [])], "completed"),
    items.CallItem("fc_1", "call_1", "f", '{"a": 1}', "completed", "space"),
    items.CustomCallItem("ctc_1", "call_2", "note", "x", "completed"),
    items.CompactionItem("cmp_1", "e30="),
    items.MessageItem("msg_2", [items.OutputText("", [], [])], "incomplete"),
]
"""An item of every kind that a response can have."""


@pytest.fixture(scope="module")
def storing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("--threads", "1", "--store", str(tmp_path_factory.mktemp("store"))) as running:
        running.wait_until_ready()
        yield running


def events_of(text: str) -> list[Json]:
    return [json.loads(block.partition("data: ")[2]) for block in text.split("\n\n") if block]


def again(server: Server, response_id: str, **query: Any) -> list[Json]:
    answer = httpx.get(f"{server.url}/v1/responses/{response_id}", params={"stream": "true"} | query, timeout=60)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer.text
    return events_of(answer.text)


def without_pieces(events: list[Json]) -> list[Json]:
    """The events with consecutive deltas as one, and without numbers, which depend on how a text was cut."""
    joined = []
    for kind, group in groupby(events, key=lambda event: event["type"]):
        same = list(group)
        if kind.endswith(".delta"):
            same = [same[0] | {"delta": "".join(event["delta"] for event in same)}]
        joined += [event | {"sequence_number": 0} for event in same]
    return joined


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "Opposite of big?"},
        {"input": "Opposite of big?", "max_output_tokens": 1},
        CALLS | {"input": "Do it.", "max_output_tokens": 60},
        CALLS | {"input": "Do it.", "tool_choice": {"type": "custom", "name": "note"}, "max_output_tokens": 40},
        {"input": [{"role": "user", "content": "Hi"}, {"type": "compaction_trigger"}]},
    ],
)
def test_a_response_is_streamed_again_as_it_was(storing: Server, fields: Json) -> None:
    live = events_of(storing.post(fields | {"stream": True}, "/v1/responses").text)
    replayed = again(storing, live[0]["response"]["id"])
    assert without_pieces(replayed) == without_pieces(live)
    assert [event["sequence_number"] for event in replayed] == list(range(len(replayed)))


def test_a_client_goes_on_after_the_last_event_it_has(storing: Server) -> None:
    response = storing.post({"input": "Opposite of big?"}, "/v1/responses").json()
    events = again(storing, response["id"])
    for number in (0, 1, 4, len(events) - 1, 1000):
        assert again(storing, response["id"], starting_after=number) == events[number + 1 :]


def test_openais_client_reads_the_stream(storing: Server) -> None:
    client = openai.OpenAI(base_url=f"{storing.url}/v1", api_key="none")
    response = client.responses.create(model="builtin", input="Opposite of big?")
    events = list(client.responses.retrieve(response.id, stream=True, starting_after=1))
    assert [event.sequence_number for event in events] == list(range(2, 2 + len(events)))
    assert events[-1].type == "response.completed" and events[-1].response == response


@pytest.mark.parametrize("query", [{"starting_after": "x"}, {"starting_after": "-1"}, {"starting_after": "9" * 20}])
def test_a_number_that_no_event_has_is_refused(storing: Server, query: dict[str, str]) -> None:
    response = storing.post({"input": "Hi", "max_output_tokens": 1}, "/v1/responses").json()
    params = {"stream": "true"} | query
    answer = httpx.get(f"{storing.url}/v1/responses/{response['id']}", params=params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")


def test_a_response_that_is_not_stored_cannot_be_streamed(storing: Server, server: Server) -> None:
    unkept = storing.post({"input": "Hi", "max_output_tokens": 1, "store": False}, "/v1/responses").json()["id"]
    for url in (f"{storing.url}/v1/responses/{unkept}", f"{server.url}/v1/responses/resp_x"):
        assert httpx.get(url, params={"stream": "true"}).status_code == 404


def test_a_response_in_the_background_is_streamed_when_it_has_ended(storing: Server) -> None:
    started = storing.post({"input": "Opposite of big?", "background": True}, "/v1/responses").json()
    events = again(storing, started["id"])
    assert events[0]["response"]["status"] == "in_progress"
    assert events[-1]["type"] == "response.completed"
    assert events == again(storing, started["id"])


def test_streaming_a_response_in_progress_ends_when_it_is_cancelled(storing: Server) -> None:
    started = storing.post(LONG | {"input": "Count.", "background": True}, "/v1/responses").json()
    url = f"{storing.url}/v1/responses/{started['id']}"
    received: list[Json] = []
    begun = threading.Event()

    def read() -> None:
        with httpx.stream("GET", url, params={"stream": "true"}, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    received.append(json.loads(line.removeprefix("data: ")))
                    begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(30)
    httpx.post(f"{url}/cancel").raise_for_status()
    reader.join(30)
    assert not reader.is_alive()
    assert received[-1]["type"] == "response.incomplete" and received[-1]["response"]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("status", "end"), [("completed", "completed"), ("incomplete", "incomplete"), ("failed", "failed")]
)
def test_the_events_build_up_the_response(status: ResponseStatus, end: str) -> None:
    response = Response(
        id="resp_1",
        created_at=1,
        completed_at=2,
        model="m",
        status=status,
        output=OUTPUT,
        error=ResponseError("server_error", "x") if status == "failed" else None,
        incomplete_details=IncompleteDetails("max_output_tokens") if status == "incomplete" else None,
        text={},
        reasoning={},
    )
    events = [msgspec.to_builtins(event) for event in (*replay.first_events(response), *replay.other_events(response))]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    begun = events[0]["response"]
    assert (begun["status"], begun["output"], begun["error"], begun["completed_at"]) == ("in_progress", [], None, None)
    assert (events[-1]["type"], events[-1]["response"]) == (f"response.{end}", msgspec.to_builtins(response))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == msgspec.to_builtins(OUTPUT)
    texts = {event["item_id"]: event["delta"] for event in events if event["type"].endswith(".delta")}
    assert texts == {"rs_1": "Hm.", "msg_1": "Hello.", "fc_1": '{"a": 1}', "ctc_1": "x", "msg_2": ""}
