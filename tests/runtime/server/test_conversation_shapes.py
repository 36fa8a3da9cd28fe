"""Conversations that clients send in unusual shapes, and cut-off calls in them, are answered over every API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.server import Server, serving
from fakes.template_rules import RULES, composed
from fakes.templates import model_with

Json = dict[str, Any]

TOOL: Json = {"name": "f", "description": "Does it.", "parameters": {"type": "object", "properties": {}}}
SYSTEM: Json = {"role": "system", "content": "Rules1z"}
LATE: Json = {"role": "system", "content": "Rules2z"}
DEVELOPER: Json = {"role": "developer", "content": "Developer3z"}
USER: Json = {"role": "user", "content": "User4z"}
MORE: Json = {"role": "user", "content": "User5z"}
ANSWER: Json = {"role": "assistant", "content": "Answer6z"}
OTHER: Json = {"role": "assistant", "content": "Answer7z"}


def calling(arguments: str = '{"key": "Value8z"}', text: str | None = None) -> Json:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": text, "tool_calls": [call]}


def result(call_id: str = "c1") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": "Result9z"}


CHATS: dict[str, list[Json]] = {
    "a greeting first": [ANSWER, USER],
    "a greeting after the system message": [SYSTEM, ANSWER, USER],
    "two system messages": [SYSTEM, LATE, USER],
    "a system message in the middle": [SYSTEM, USER, ANSWER, LATE, MORE],
    "a system message at the end": [USER, LATE],
    "only a system message": [SYSTEM],
    "a developer": [DEVELOPER, USER],
    "a developer after the system message": [SYSTEM, DEVELOPER, USER],
    "two users": [USER, MORE],
    "two assistants": [USER, ANSWER, OTHER, MORE],
    "an empty answer": [USER, {"role": "assistant", "content": ""}, MORE],
    "no answer": [USER, {"role": "assistant", "content": None}, MORE],
    "a result before the user": [USER, calling(), result(), MORE],
    "a result without a call": [USER, ANSWER, result("c7"), MORE],
    "a result first": [result(), USER],
    "text beside a call": [USER, calling(text="Text0z"), result(), OTHER, MORE],
    "a call at the end": [USER, calling()],
    "a call without a result": [USER, calling(), MORE],
    "the assistant at the end": [USER, ANSWER],
    "only the assistant": [ANSWER],
}
MODELS = ("ministral-3-14b-reasoning-2512", "gemma-2-2b-it")
"""Their templates are the strictest."""


@pytest.fixture(scope="module", params=MODELS)
def strict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A strict server, which refuses what would be lost, with a template that has strict rules."""
    path = model_with(composed(RULES[request.param]), tmp_path_factory.mktemp("model"))
    with serving("--model", str(path), "--name", "m", "--threads", "1", "--strict") as running:
        running.wait_until_ready()
        yield running


def prompt_of(server: Server, messages: list[Json], tools: list[Json]) -> tuple[str, list[str]]:
    body = {"messages": messages, "tools": tools, "with_pieces": True}
    answer = httpx.post(f"{server.url}/v1/tokenize", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    pieces = [token["piece"] for token in answer.json()["tokens"]]
    text = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
    return text.decode(), answer.json().get("warnings", [])


def texts(messages: list[Json]) -> Iterator[str]:
    for message in messages:
        yield message["content"] or ""
        yield from ("Value8z" for _ in message.get("tool_calls", ()))


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
def test_every_shape_is_answered_with_all_its_texts(strict: Server, messages: list[Json]) -> None:
    tools = [{"type": "function", "function": TOOL}]
    prompt, warnings = prompt_of(strict, messages, tools)
    assert [text for text in [*texts(messages), "Does it."] if text not in prompt] == []
    assert not warnings
    answer = strict.post({"messages": messages, "tools": tools, "max_tokens": 1})
    assert answer.status_code == 200, answer.text


def test_what_would_be_lost_is_refused_in_strict_mode_and_named_otherwise(strict: Server, server: Server) -> None:
    named = {"messages": [{**USER, "name": "Ann"}], "max_tokens": 1}
    refusal = strict.post(named)
    assert refusal.status_code == 400 and "--strict refuses it" in refusal.json()["error"]["message"], refusal.text
    assert "Ann" in server.post(named).json()["warnings"][0]


USES: Json = {"type": "tool_use", "id": "c1", "name": "f", "input": {"key": "Value8z"}}
ANTHROPIC: dict[str, list[Json]] = {
    "a greeting first": [ANSWER, USER],
    "two users": [USER, MORE],
    "a result and a question": [
        USER, {"role": "assistant", "content": [USES]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "ok"},
                                     {"type": "text", "text": "So?"}]},
    ],
    "a result without a call": [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c7", "content": "ok"}]},
    ],
    "text beside a call": [
        USER, {"role": "assistant", "content": [{"type": "text", "text": "Hm."}, USES]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "ok"}]}, OTHER, MORE,
    ],
    "an empty answer": [USER, {"role": "assistant", "content": ""}, MORE],
}  # fmt: skip


@pytest.mark.parametrize("messages", ANTHROPIC.values(), ids=ANTHROPIC)
def test_anthropics_api_answers_every_shape(strict: Server, messages: list[Json]) -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    body = {"model": "m", "max_tokens": 1, "system": "Rules", "messages": messages, "tools": tools}
    answer = httpx.post(f"{strict.url}/v1/messages", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


CALLED: Json = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT: Json = {"type": "function_call_output", "call_id": "c1", "output": "ok"}
RESPONSES: dict[str, list[Json]] = {
    "a greeting first": [ANSWER, USER],
    "developers": [DEVELOPER, USER, ANSWER, DEVELOPER, MORE],
    "a result and the user": [USER, CALLED, OUTPUT, MORE],
    "a result without a call": [USER, {**OUTPUT, "call_id": "c7"}],
    "a call without a result": [USER, CALLED, MORE],
    "text and a call": [USER, ANSWER, CALLED, OUTPUT, OTHER, MORE],
    "a cut-off call": [USER, {**CALLED, "arguments": '{"a": "x'}, OUTPUT, MORE],
}


@pytest.mark.parametrize("items", RESPONSES.values(), ids=RESPONSES)
def test_the_responses_api_answers_every_shape(strict: Server, items: list[Json]) -> None:
    body = {"input": items, "instructions": "Rules", "max_output_tokens": 1, "tools": [{"type": "function", **TOOL}]}
    answer = httpx.post(f"{strict.url}/v1/responses", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


CUT_OFF = [
    '{"', '{"a": ', '{"a": "x', "[1]", "{'a': 1}", '"text"', "5", "true", '{"a": 1}}', "{a: 1}", '{"a": 1} and so on',
    "<a>1</a>", "undefined", '```json\n{"a": 1}\n```', "{", "}", '{"a": 1,}',
]  # fmt: skip


@pytest.mark.parametrize("arguments", CUT_OFF)
def test_a_call_without_a_json_object_is_shown_as_text(server: Server, arguments: str) -> None:
    messages = [USER, calling(arguments, "Text0z"), result(), MORE]
    prompt, warnings = prompt_of(server, messages, [])
    assert [text for text in (arguments, "Text0z", "Result9z", "User5z") if text not in prompt] == []
    assert len(warnings) == 1 and "the call of f in messages[1]" in warnings[0]
    answer = server.post({"messages": messages, "tools": [{"type": "function", "function": TOOL}], "max_tokens": 1})
    assert answer.status_code == 200 and "messages[1]" in answer.json()["warnings"][0]


@pytest.mark.parametrize("arguments", ["", " \n", "null", "{}", " {} "])
def test_nothing_means_no_arguments(server: Server, arguments: str) -> None:
    plain, _ = prompt_of(server, [USER, calling("{}"), result(), MORE], [])
    assert prompt_of(server, [USER, calling(arguments), result(), MORE], []) == (plain, [])


@pytest.mark.parametrize("arguments", CUT_OFF[:4])
def test_a_cut_off_call_is_no_error_under_strict_turns(strict: Server, arguments: str) -> None:
    messages = [USER, calling(arguments), result(), MORE]
    prompt, warnings = prompt_of(strict, messages, [])
    assert arguments in prompt and "Result9z" in prompt and len(warnings) == 1


def test_a_cut_off_answer_of_the_servers_own_can_be_sent_back(server: Server) -> None:
    parameters = {"type": "object", "properties": {"text": {"type": "string", "minLength": 60}}, "required": ["text"]}
    tools = [{"type": "function", "function": {**TOOL, "parameters": parameters}}]
    body = {"messages": [USER], "tools": tools, "tool_choice": "required", "max_tokens": 50}
    message = server.post(body).json()["choices"][0]["message"]
    with pytest.raises(ValueError):
        json.loads(message["tool_calls"][0]["function"]["arguments"])
    answered = [USER, message, result(message["tool_calls"][0]["id"]), MORE]
    assert server.post({"messages": answered, "tools": tools, "max_tokens": 1}).status_code == 200
