"""Every answer and event of the Responses API has the form of OpenAI's published API: its Python types, read strictly.

Over HTTP, whole and streamed, and over a WebSocket; also stored responses, their items, counts and compactions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
from openai.types.responses import (
    CompactedResponse,
    InputTokenCountResponse,
    Response,
    ResponsesServerEvent,
    ResponseStreamEvent,
)
from openai.types.responses.response_item import ResponseItem
from openai.types.responses.response_item_list import ResponseItemList
from websockets.sync.client import connect

from fakes import templates
from fakes.server import DATA, Server, data_uri, serving

Json = dict[str, Any]

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
FUNCTION: Json = {
    "type": "function", "name": "f", "description": "Does it.", "strict": True,
    "parameters": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"],
                   "additionalProperties": False},
}  # fmt: skip
CUSTOM: Json = {"type": "custom", "name": "note"}
GRAMMAR: Json = {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}
PICTURE: Json = {"type": "input_image", "image_url": data_uri(DATA / "picture-5.png")}
SOUND: Json = {"type": "input_file", "filename": "a.wav", "file_data": data_uri(DATA / "sound-1.wav", "audio/wav")}
ENDLESS: Json = {"type": "json_schema", "name": "x", "schema": {"type": "array", "minItems": 900}}
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
HISTORY: list[Any] = [
    "Hi",
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
    {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, PICTURE, SOUND]},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"role": "assistant", "content": "A triangle."},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Red."}, {"type": "refusal", "refusal": "No."}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": [PICTURE, {"type": "input_text", "text": "1"}]},
    {"type": "custom_tool_call", "call_id": "c2", "name": "note", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "Noted."},
    {"type": "local_shell_call", "call_id": "c3", "action": {"type": "exec", "command": ["ls"]}},
    {"type": "local_shell_call_output", "call_id": "c3", "output": "a.txt"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    {"type": "additional_tools", "role": "developer", "tools": [CUSTOM, FUNCTION]},
    {"role": "user", "content": "Go on."},
]
CASES: dict[str, Json] = {
    "a cut-off answer": {"input": "Opposite of big?", "max_output_tokens": 1},
    "a call": {"input": "Do it.", "tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
    "a cut-off call": {
        "input": "Do it.", "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"},
        "max_output_tokens": 33,
    },
    "allowed tools": {
        "input": "Do it.", "tools": [FUNCTION, CUSTOM],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    },
    "a custom call": {
        "input": "Do it.", "tools": [CUSTOM | {"format": GRAMMAR}], "tool_choice": {"type": "custom", "name": "note"},
    },
    "tools in a namespace": {
        "input": "Do it.", "tools": [{"type": "namespace", "name": "n", "description": "Some.", "tools": [FUNCTION]}],
        "tool_choice": "required",
    },
    "tools without a form": {"input": "Hi", "tools": [{"type": "function", "name": "g"}, {"type": "web_search"}]},
    "a schema": {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    "an object": {"input": "Hi", "text": {"format": {"type": "json_object"}, "verbosity": "high"}},
    "log-probabilities": {"input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "all settings": {
        "input": "Hi", "instructions": "Be brief.", "temperature": 1, "top_p": 1, "presence_penalty": 0,
        "metadata": {"a": "b"}, "prompt_cache_key": "k", "safety_identifier": "s", "user": "u", "max_tool_calls": 2,
        "service_tier": "flex", "parallel_tool_calls": False, "truncation": "auto", "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low", "summary": "auto"},
    },
    "settings in other forms": {"input": "Hi", "metadata": {"a": 1, "b": True}, "temperature": "0", "user": 5},
    "a history": {"input": HISTORY},
    "a compaction": {"input": [*HISTORY, {"type": "compaction_trigger"}]},
}  # fmt: skip
LIMIT: Json = {"max_output_tokens": 40}


@pytest.fixture(scope="module")
def storing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("--threads", "1", "--store", str(tmp_path_factory.mktemp("store"))) as running:
        running.wait_until_ready()
        yield running


reader = functools.cache(pydantic.TypeAdapter)


def check(kind: Any, text: str | bytes) -> Any:
    """Reads JSON as one of the client's types: nothing that the type requires may be missing or of another type."""
    value = json.loads(text)
    try:
        reader(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as caught:
        error = caught
    else:
        return value
    other_types = {e["loc"][:-1] for e in error.errors() if e["loc"][-1:] == ("type",)}
    problems = [f"{e['loc']}: {e['msg']}" for e in error.errors() if e["loc"][:-1] not in other_types]
    pytest.fail(f"{problems} in {value}", pytrace=False)


def streamed(server: Server, body: Json) -> list[Json]:
    answer = server.post(body | {"stream": True}, "/v1/responses")
    assert answer.status_code == 200, answer.text
    blocks = [block for block in answer.text.split("\n\n") if block]
    events = [check(ResponseStreamEvent, block.partition("data: ")[2]) for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"event: {event['type']}" for event in events]
    return events


def over_socket(server: Server, body: Json) -> list[Json]:
    events: list[Json] = []
    with connect(f"ws{server.url.removeprefix('http')}/v1/responses", max_size=None) as socket:
        socket.send(json.dumps({"type": "response.create"} | body))
        while not events or events[-1]["type"] not in ENDS:
            events.append(check(ResponsesServerEvent, socket.recv(timeout=30)))
    return events


def stored(server: Server, response_id: str, kind: Any, path: str = "") -> Any:
    answer = httpx.get(f"{server.url}/v1/responses/{response_id}{path}", params={"limit": 100})
    assert answer.status_code == 200, answer.text
    return check(kind, answer.content)


@pytest.mark.parametrize("name", CASES)
def test_responses_events_and_items_have_the_published_form(storing: Server, name: str) -> None:
    body = LIMIT | CASES[name]
    answer = storing.post(body, "/v1/responses")
    assert answer.status_code == 200, answer.text
    response = check(Response, answer.content)
    kinds = [item["type"] for item in response["output"]]
    for events in (streamed(storing, body), over_socket(storing, body)):
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [item["type"] for item in events[-1]["response"]["output"]] == kinds != []
    assert stored(storing, response["id"], Response) == response
    items = stored(storing, response["id"], ResponseItemList, "/input_items")["data"]
    assert len(items) == (1 if isinstance(body["input"], str) else len(HISTORY))


def test_reasoning_has_the_published_form(tmp_path: Path) -> None:
    model = templates.model_with(templates.THINKING, tmp_path)
    body = {"input": "Hi", "max_output_tokens": 6}
    with serving("--model", str(model), "--threads", "1") as thinking:
        thinking.wait_until_ready()
        answer = thinking.post(body, "/v1/responses")
        assert [item["type"] for item in check(Response, answer.content)["output"]] == ["reasoning"]
        assert [event["type"] for event in streamed(thinking, body)] == [
            event["type"] for event in over_socket(thinking, body)
        ]


def test_counts_and_compactions_have_the_published_form(storing: Server) -> None:
    body = {"model": "builtin", "input": HISTORY}
    compacted = storing.post(body, "/v1/responses/compact").json()
    *kept, compaction = (check(ResponseItem, json.dumps(item)) for item in compacted["output"])
    assert {item["role"] for item in kept} == {"user", "system", "developer"} and compaction["type"] == "compaction"
    check(CompactedResponse, json.dumps(compacted | {"output": [compaction]}))
    assert check(InputTokenCountResponse, storing.post(body, "/v1/responses/input_tokens").content)["input_tokens"]


def test_errors_and_a_deleted_or_cancelled_response_have_the_published_form(storing: Server) -> None:
    refused = {"input": "Hi", "conversation": "c"}
    (event,) = over_socket(storing, refused)
    error = storing.post(refused, "/v1/responses").json()["error"]
    assert event["error"] == error and set(error) == {"message", "type", "param", "code"}
    endless = {"input": "Count.", "text": {"format": ENDLESS}, "background": True}
    started = check(Response, storing.post(endless, "/v1/responses").content)
    path = f"{storing.url}/v1/responses/{started['id']}"
    cancelled = check(Response, httpx.post(f"{path}/cancel").content)
    assert (started["status"], cancelled["status"]) == ("in_progress", "cancelled")
    assert httpx.delete(path).json() == {"id": started["id"], "object": "response", "deleted": True}
