"""The objects of the Responses API have every field that the public schema (Open Responses) requires, with its type."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from fakes.server import DATA, Server, data_uri
from galago.models.errors import EngineCrashed
from galago.runtime.server.http.request_io import encode_json
from galago.runtime.server.openai.responses import compaction, item_schema, schema
from galago.runtime.server.openai.responses.events import ResponseEncoder
from galago.runtime.types.events import (
    Delta,
    Finished,
    ReasoningDelta,
    Started,
    Timings,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {}


def optional(kind: Schema) -> Schema:
    return {"anyOf": [kind, {"type": "null"}]}


def record(**fields: Any) -> Schema:
    """An object with these fields; a text is a constant."""
    kinds = {name: {"const": kind} if isinstance(kind, str) else kind for name, kind in fields.items()}
    return {"type": "object", "properties": kinds, "required": list(kinds)}


def many(kind: Schema) -> Schema:
    return {"type": "array", "items": kind}


def one_of(**kinds: Schema) -> Schema:
    """An object of one of several types, told apart by its `type`."""
    return {"anyOf": list(kinds.values())}


STATUS: Schema = {"enum": ["in_progress", "completed", "incomplete"]}
TOP = record(token=TEXT, logprob=NUMBER, bytes=many(INTEGER))
LOGPROB = record(token=TEXT, logprob=NUMBER, bytes=many(INTEGER), top_logprobs=many(TOP))
OUTPUT_TEXT = record(type="output_text", text=TEXT, annotations=many(ANYTHING), logprobs=many(LOGPROB))
REASONING_TEXT = record(type="reasoning_text", text=TEXT)
ITEM = one_of(
    message=record(type="message", id=TEXT, status=STATUS, role="assistant", content=many(OUTPUT_TEXT)),
    call=record(type="function_call", id=TEXT, call_id=TEXT, name=TEXT, arguments=TEXT, status=STATUS),
    custom=record(type="custom_tool_call", id=TEXT, call_id=TEXT, name=TEXT, input=TEXT, status=STATUS),
    reasoning=record(type="reasoning", id=TEXT, summary=many(ANYTHING), content=many(REASONING_TEXT)),
    compaction=record(type="compaction", id=TEXT, encrypted_content=TEXT),
)
USAGE = record(
    input_tokens=INTEGER,
    output_tokens=INTEGER,
    total_tokens=INTEGER,
    input_tokens_details=record(cached_tokens=INTEGER),
    output_tokens_details=record(reasoning_tokens=INTEGER),
)
TOOL = one_of(
    function=record(type="function", name=TEXT, description=optional(TEXT), parameters=ANYTHING, strict=FLAG),
    custom=record(type="custom", name=TEXT, description=optional(TEXT), format=record(type=TEXT)),
)
FORMAT = one_of(
    text=record(type="text"),
    json=record(type="json_object"),
    schema=record(type="json_schema", name=TEXT, description=optional(TEXT), schema=ANYTHING, strict=FLAG),
)
CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        record(type="function", name=TEXT),
        record(type="allowed_tools", mode=TEXT, tools=many(record(type="function", name=TEXT))),
    ]
}
RESPONSE = record(
    id=TEXT, object="response", created_at=INTEGER, completed_at=optional(INTEGER), status=TEXT, model=TEXT,
    incomplete_details=optional(record(reason=TEXT)), previous_response_id=optional(TEXT),
    instructions=optional(TEXT), output=many(ITEM), error=optional(record(code=TEXT, message=TEXT)),
    tools=many(TOOL), tool_choice=CHOICE, truncation={"enum": ["auto", "disabled"]}, parallel_tool_calls=FLAG,
    text=record(format=FORMAT), top_p=NUMBER, presence_penalty=NUMBER, frequency_penalty=NUMBER,
    top_logprobs=INTEGER, temperature=NUMBER, reasoning=record(effort=optional(TEXT), summary=optional(TEXT)),
    user=optional(TEXT), usage=optional(USAGE), max_output_tokens=optional(INTEGER),
    max_tool_calls=optional(INTEGER), store=FLAG, background=FLAG, service_tier=TEXT, metadata={"type": "object"},
    safety_identifier=optional(TEXT), prompt_cache_key=optional(TEXT),
)  # fmt: skip
COMPACTED = record(
    id=TEXT, object="response.compaction", created_at=INTEGER, usage=USAGE,
    output=many({"anyOf": [ITEM, record(type="message", id=TEXT, status=STATUS, role=TEXT,
                                        content=many(record(type=TEXT)))]}),
)  # fmt: skip
_ITEM_EVENT: Mapping[str, Schema] = {"item_id": TEXT, "output_index": INTEGER}
_PART_EVENT = {**_ITEM_EVENT, "content_index": INTEGER}
EVENT_FIELDS: dict[str, dict[str, Any]] = {
    "created": {"response": RESPONSE},
    "in_progress": {"response": RESPONSE},
    "completed": {"response": RESPONSE},
    "incomplete": {"response": RESPONSE},
    "failed": {"response": RESPONSE},
    "output_item.added": {"output_index": INTEGER, "item": ITEM},
    "output_item.done": {"output_index": INTEGER, "item": ITEM},
    "content_part.added": {**_PART_EVENT, "part": one_of(text=OUTPUT_TEXT, reasoning=REASONING_TEXT)},
    "content_part.done": {**_PART_EVENT, "part": one_of(text=OUTPUT_TEXT, reasoning=REASONING_TEXT)},
    "output_text.delta": {**_PART_EVENT, "delta": TEXT, "logprobs": many(LOGPROB)},
    "output_text.done": {**_PART_EVENT, "text": TEXT, "logprobs": many(LOGPROB)},
    "reasoning_text.delta": {**_PART_EVENT, "delta": TEXT},
    "reasoning_text.done": {**_PART_EVENT, "text": TEXT},
    "function_call_arguments.delta": {**_ITEM_EVENT, "delta": TEXT},
    "function_call_arguments.done": {**_ITEM_EVENT, "name": TEXT, "arguments": TEXT},
    "custom_tool_call_input.delta": {**_ITEM_EVENT, "delta": TEXT},
    "custom_tool_call_input.done": {**_ITEM_EVENT, "input": TEXT},
}

FUNCTION = {
    "type": "function", "name": "get_weather", "description": "The weather.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}  # fmt: skip
PICTURE = {"type": "input_image", "image_url": data_uri(DATA / "picture-5.png")}
REQUESTS: dict[str, dict[str, Any]] = {
    "a text": {"input": [{"type": "message", "role": "user", "content": "Say hello in three words."}]},
    "labelled messages": {
        "input": [
            {"type": "message", "role": "assistant", "phase": "commentary", "content": "I look it up."},
            {"type": "message", "role": "assistant", "phase": "final_answer", "content": "The number is four."},
            {"type": "message", "role": "user", "content": "Repeat it."},
        ]
    },
    "a system message": {"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    "a call": {"input": "How is the weather in Bern?", "tools": [FUNCTION], "tool_choice": "required"},
    "a custom call": {
        "input": "Note it.",
        "tools": [{"type": "custom", "name": "note"}],
        "tool_choice": {"type": "custom", "name": "note"},
    },
    "a picture": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, PICTURE]}]},
    "log-probabilities": {"input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "all settings": {
        "input": "Hi", "instructions": "Be brief.", "temperature": 0.5, "top_p": 0.9, "presence_penalty": 0.1,
        "frequency_penalty": 0.2, "metadata": {"a": "b"}, "prompt_cache_key": "k", "safety_identifier": "s",
        "user": "u", "max_tool_calls": 2, "reasoning": {"effort": "low"}, "service_tier": "auto",
        "parallel_tool_calls": False, "text": {"format": {"type": "json_schema", "name": "x", "strict": True,
                                                          "schema": {"type": "object", "properties": {}}}},
    },
}  # fmt: skip
LIMIT = {"max_output_tokens": 60}


def check(value: Any, kind: Schema) -> None:
    jsonschema.Draft202012Validator(kind).validate(value)


def check_events(events: list[dict[str, Any]]) -> None:
    for number, event in enumerate(events):
        fields = EVENT_FIELDS[event["type"].removeprefix("response.")]
        check(event, record(type=event["type"], sequence_number={"const": number}, **fields))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_response_and_its_events_have_all_fields(server: Server, name: str) -> None:
    answer = server.post(REQUESTS[name] | LIMIT, "/v1/responses")
    assert answer.status_code == 200, answer.text
    check(answer.json(), RESPONSE)
    assert answer.json()["output"]
    text = server.post(REQUESTS[name] | LIMIT | {"stream": True}, "/v1/responses").text
    events = [json.loads(block.partition("data: ")[2]) for block in text.split("\n\n") if block]
    check_events(events)
    volatile = {"id", "output", "created_at", "completed_at", "usage", "status", "incomplete_details"}
    whole, streamed = answer.json(), events[-1]["response"]
    assert {k: v for k, v in whole.items() if k not in volatile} == {
        k: v for k, v in streamed.items() if k not in volatile
    }


def test_a_response_repeats_the_settings_that_were_used(server: Server) -> None:
    asked = REQUESTS["all settings"]
    response = server.post(asked | LIMIT, "/v1/responses").json()
    repeated = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "metadata", "prompt_cache_key",
                "safety_identifier", "user", "max_tool_calls", "instructions", "parallel_tool_calls")  # fmt: skip
    assert {name: response[name] for name in repeated} == {name: asked[name] for name in repeated}
    assert response["reasoning"]["effort"] == "low" and response["text"]["format"]["strict"] is True
    plain = server.post({"input": "Hi"} | LIMIT, "/v1/responses").json()
    defaults = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "service_tier")
    assert [plain[name] for name in defaults] == [0, 1, 0, 0, 0, "default"]
    assert plain["created_at"] <= plain["completed_at"]


def test_the_tools_of_a_response_are_whole(server: Server) -> None:
    tools = [{"type": "function", "name": "f"}, {"type": "web_search"}, FUNCTION | {"strict": True}]
    response = server.post({"input": "Hi", "tools": tools, "max_output_tokens": 1}, "/v1/responses").json()
    check(response, RESPONSE)
    assert [(tool["name"], tool["strict"]) for tool in response["tools"]] == [("f", False), ("get_weather", True)]


@pytest.mark.parametrize("ending", ["finish", "length", "fail", "cancel"])
def test_every_kind_of_item_and_ending_has_all_fields(ending: str) -> None:
    response = schema.Response(
        id="r", created_at=1, model="m", text={"format": {"type": "text"}}, reasoning={"effort": None, "summary": None}
    )
    tools = [item_schema.Tool("custom", "note"), item_schema.Tool("function", "f", namespace="n")]
    encoder = ResponseEncoder(response, ["a warning"], lambda: 2.7, tools)
    events: list[dict[str, Any]] = []

    def send(chunks: Any) -> None:
        events.extend(json.loads(encode_json(chunk)) for chunk in chunks)

    send(encoder.start(0, Started(1)))
    pieces: list[Any] = [
        ReasoningDelta("Hm."),
        Delta("So: "),
        ToolCallStart(0, "a", "n__f"),
        ToolCallArguments(0, "{}"),
    ]
    pieces += [ToolCallStart(1, "b", "note"), ToolCallArguments(1, '{"input": "x"}'), Delta("Done.")]
    for piece in pieces:
        send(encoder.delta(0, piece))
    match ending:
        case "fail":
            send(encoder.fail(EngineCrashed("it crashed")))
        case "cancel":
            send(encoder.cancel())
        case _:
            reason: Any = "length" if ending == "length" else "stop"
            send(encoder.finish(0, Finished(reason, Usage(3, 4, 2), Timings(0, 0, 0))))
    check_events(events)
    assert {event["type"].removeprefix("response.") for event in events} >= set(EVENT_FIELDS) - {
        "completed", "incomplete", "failed",
    }  # fmt: skip
    call, note = events[-1]["response"]["output"][2:4]
    assert (call["namespace"], call["name"], note["input"]) == ("n", "f", "x")


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "The code word is slate."}, PICTURE]},
    {"role": "assistant", "content": "Understood."},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
    {"type": "function_call_output", "call_id": "c", "output": "result-7 " * 2000},
]


def test_a_conversation_is_compacted_and_continued(server: Server) -> None:
    answer = server.post({"model": "builtin", "input": CHAT, "prompt_cache_key": "k"}, "/v1/responses/compact")
    assert answer.status_code == 200 and not answer.headers.get("x-galago-warnings"), answer.text
    check(answer.json(), COMPACTED)
    output = answer.json()["output"]
    assert [item["type"] for item in output] == ["message", "message", "compaction"]
    assert output[1]["content"][1]["detail"] == "auto"
    kept = compaction.text_of(output[-1]["encrypted_content"])
    assert kept and all(text in kept for text in ("Understood.", "call of f", '{"a": 1}', "result-7", "[...]"))
    assert len(kept) < 4000
    texts = [part["text"] for item in output[:-1] for part in item["content"] if "text" in part]
    assert texts and not any(text in kept for text in texts) and "user: [message 2 above]" in kept
    go_on = [*output, {"role": "user", "content": "What is the code word?"}]
    response = server.post({"input": go_on} | LIMIT, "/v1/responses").json()
    check(response, RESPONSE)
    assert "warnings" not in response and response["usage"]["input_tokens_details"]["image_tokens"] == 16
    again = server.post({"model": "builtin", "input": go_on}, "/v1/responses/compact").json()["output"]
    assert "Understood." in (compaction.text_of(again[-1]["encrypted_content"]) or "")


def test_an_item_can_ask_for_a_compaction(server: Server) -> None:
    body = {"input": [*CHAT, {"type": "compaction_trigger"}]}
    response = server.post(body, "/v1/responses").json()
    check(response, RESPONSE)
    assert [item["type"] for item in response["output"]] == ["compaction"]
    text = server.post(body | {"stream": True}, "/v1/responses").text
    check_events([json.loads(block.partition("data: ")[2]) for block in text.split("\n\n") if block])


@pytest.mark.parametrize(
    ("body", "status"),
    [({"input": CHAT}, 400), ({"model": "builtin", "input": []}, 400), ({"model": "builtin"}, 400),
     ({"model": "builtin", "input": "Hi", "previous_response_id": "resp_x"}, 400)],
)  # fmt: skip
def test_a_compaction_needs_a_model_and_a_conversation(server: Server, body: Any, status: int) -> None:
    assert server.post(body, "/v1/responses/compact").status_code == status


def test_a_compaction_is_bounded() -> None:
    items = [item_schema.Message("assistant", f"{i} " + "x" * 5000) for i in range(500)]
    text = compaction.text_of(compaction.encoded(items))
    assert text and len(text) < compaction.MAX_TEXT_CHARACTERS + 100 and text.startswith("assistant: 0 ")


@pytest.mark.parametrize(
    "content",
    [None, 5, "", "gAAAA", "e30=", base64.b64encode(b'{"galago_compaction": 2, "text": "x"}').decode(), "A" * 10**6],
)
def test_what_is_no_compaction_is_not_read(content: object) -> None:
    assert compaction.text_of(content) is None
