"""Messages in shapes that no API documents: shown to the model as the nearest one, with a warning, by every API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fakes.server import Server
from galago.models.errors import InvalidRequest
from galago.runtime.server.anthropic import convert as anthropic_convert
from galago.runtime.server.anthropic import schema as anthropic
from galago.runtime.server.http import request_io
from galago.runtime.server.ollama import convert as ollama_convert
from galago.runtime.server.ollama import schema as ollama
from galago.runtime.server.openai.chat import convert as chat_convert
from galago.runtime.server.openai.chat import schema as chat
from galago.runtime.server.openai.responses import convert as responses_convert
from galago.runtime.server.openai.responses import schema as responses
from galago.runtime.types.messages import Message
from galago.runtime.types.warnings import Warnings

Json = dict[str, Any]

USER: Json = {"role": "user", "content": "One"}
CALL: Json = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def read_responses(body: Json, warnings: Warnings) -> tuple[Message, ...]:
    raw = responses_convert.rewritten({"input": body["messages"]}, warnings)
    request = request_io.convert_object(raw, responses.ResponsesRequest, warnings)
    return responses_convert.to_request(request, (), (), no_file, warnings).messages


def no_file(_id: str, field: str) -> bytes:
    raise InvalidRequest("there are no files", field)


def read_chat(body: Json, warnings: Warnings) -> tuple[Message, ...]:
    request = request_io.convert_object(body, chat.ChatRequest, warnings)
    return chat_convert.to_request(request, no_file, warnings).messages


def read_anthropic(body: Json, warnings: Warnings) -> tuple[Message, ...]:
    request = request_io.convert_object(body, anthropic.MessagesRequest, warnings)
    return anthropic_convert.to_request(request, warnings).messages


def read_ollama(body: Json, warnings: Warnings) -> tuple[Message, ...]:
    request = request_io.convert_object(body, ollama.ChatRequest, warnings)
    return ollama_convert.to_request(request, warnings).messages


APIS: dict[str, Callable[[Json, Warnings], tuple[Message, ...]]] = {
    "/v1/chat/completions": read_chat,
    "/v1/responses": read_responses,
    "/v1/messages": read_anthropic,
    "/api/chat": read_ollama,
}
ALL = tuple(APIS)
MESSAGES = ("/v1/chat/completions", "/v1/messages", "/api/chat")
"""The APIs whose tool calls are in messages."""


def shown(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    """The role and the text of each message, with its calls."""
    return [
        (message.role, message.text + "".join(f"{call.name}({call.arguments})" for call in message.tool_calls))
        for message in messages
    ]


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def called(calls: Any, **fields: Any) -> list[Any]:
    return [USER, {"role": "assistant", "content": None, "tool_calls": calls} | fields, USER | {"content": "Two"}]


ANSWERED = [("user", "One"), ("assistant", 'f({"a": 1})'), ("user", "Two")]
DROPPED = [("user", "One"), ("assistant", ""), ("user", "Two")]

SHAPES: list[tuple[str, Any, list[tuple[str, str]], str, tuple[str, ...]]] = [
    # name, messages, what the model is shown, part of the warning, APIs
    ("null", [None, USER], [("user", "One")], "messages[0] is null", MESSAGES),
    ("a text", ["One"], [("user", "One")], "messages[0] is not an object", MESSAGES),
    ("a number", [5], [("user", "5")], "messages[0] is", MESSAGES),
    ("true", [True], [("user", "true")], "messages[0] is", MESSAGES),
    ("a pair", [["human", "One"]], [("user", "One")], "messages[0].role is 'human'", MESSAGES),
    ("a list", [["One", "Two"]], [("user", "One\nTwo")], "messages[0] is not an object", MESSAGES),
    ("no list", "One", [("user", "One")], "messages is a text, not a list", MESSAGES),
    ("one message", USER, [("user", "One")], "messages is an object, not a list", MESSAGES),
    ("content of a number", user(5), [("user", "5")], "content is 5, not a text", ALL),
    ("content of true", user(True), [("user", "true")], "content is true, not a text", ALL),
    ("content of a fraction", user(0.5), [("user", "0.5")], "content is 0.5, not a text", ALL),
    ("content of other JSON", user({"a": "One"}), [("user", '{"a": "One"}')], "", MESSAGES),
    ("a part of a number", user([5]), [("user", "5")], "", MESSAGES),
    ("a text of a number", user([{"type": "text", "text": 5}]), [("user", "5")], "", MESSAGES),
    ("a part of no type", user([{"a": "One"}]), [("user", '{"a": "One"}')], "", MESSAGES),
    ("calls of null", called([None]), DROPPED, "tool_calls[0] is not a call of a function", MESSAGES),
    ("a call that is a text", called(["f"]), DROPPED, "tool_calls[0] is not a call of a function", MESSAGES),
    ("calls that are a text", called("f"), DROPPED, "tool_calls[0] is not a call of a function", MESSAGES),
    ("calls that are true", called(True), DROPPED, "tool_calls[0] is not a call of a function", MESSAGES),
    ("a call without a function", called([{"id": "c1"}]), DROPPED, "is not a call of a function", MESSAGES),
    ("a function of null", called([{"id": "c1", "function": None}]), DROPPED, "is not a call", MESSAGES),
    ("an empty function", called([{"id": "c1", "function": {}}]), DROPPED, "is not a call", MESSAGES),
    (
        "a name of null", called([{"id": "c1", "function": {"name": None, "arguments": '{"a": 1}'}}]),
        [("user", "One"), ("assistant", 'function({"a": 1})'), ("user", "Two")],
        "tool_calls[0] has no name of a function; it is shown as a call of 'function'", MESSAGES,
    ),
    ("a call next to null", called([None, CALL]), ANSWERED, "tool_calls[0] is not a call", MESSAGES),
]  # fmt: skip
QUIET: list[tuple[str, Any, list[tuple[str, str]]]] = [
    ("one call without a list", called(CALL), ANSWERED),
    ("a flat call", called([{"id": "c1", "name": "f", "arguments": {"a": 1}}]), ANSWERED),
    ("a function's name alone", called([{"id": "c1", "function": "f", "arguments": {"a": 1}}]), ANSWERED),
    ("no calls", called([]), DROPPED),
    ("calls of nothing", called(None), DROPPED),
    ("parts", [{"role": "user", "parts": [{"text": "One"}, {"text": "Two"}]}], [("user", "One\nTwo")]),
    ("parts with types", [{"role": "user", "parts": [{"type": "text", "text": "One"}]}], [("user", "One")]),
    (
        "a tool's result",
        [USER, called([CALL])[1], {"role": "function", "tool_call_id": "c1", "content": "Two"}],
        [("user", "One"), ("assistant", 'f({"a": 1})'), ("tool", "Two")],
    ),
]

ROLES: list[tuple[Any, str]] = [
    ("User", "user"),
    (" USER ", "user"),
    ("human", "user"),
    ("Assistant", "assistant"),
    ("model", "assistant"),
    ("ai", "assistant"),
    ("System", "system"),
    ("control", "system"),
    ("latest_reminder", "system"),
    ("ipython", "tool"),
    ("Tool", "tool"),
    ("observation", "tool"),
    ("wizard", "user"),
    ("", "user"),
    (None, "user"),
    (5, "user"),
    ([], "user"),
]


def read(path: str, messages: Any, strict: bool = False) -> tuple[list[tuple[str, str]], Warnings]:
    warnings = request_io.no_warnings(strict)
    return shown(APIS[path](json.loads(json.dumps({"messages": messages})), warnings)), warnings


def without_empty(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Messages that say nothing are not part of every API's conversations, and those of one side are joined in some."""
    kept: list[tuple[str, str]] = []
    for role, text in messages:
        if text and kept and kept[-1][0] == role == "user":
            kept[-1] = (role, f"{kept[-1][1]}\n{text}")
        elif text:
            kept.append((role, text))
    return kept


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("shape", SHAPES, ids=[shape[0] for shape in SHAPES])
def test_a_message_of_another_shape_is_shown_as_the_nearest_one_with_a_warning(path: str, shape: Any) -> None:
    _, messages, expected, warning, paths = shape
    if path not in paths:
        return
    messages_read, warnings = read(path, messages)
    assert without_empty(messages_read) == without_empty(expected), messages_read
    assert len(warnings) == 1 and warning in warnings[0], warnings
    with pytest.raises(InvalidRequest, match="--strict refuses it"):
        read(path, messages, strict=True)


@pytest.mark.parametrize("path", MESSAGES)
@pytest.mark.parametrize(("messages", "expected"), [quiet[1:] for quiet in QUIET], ids=[quiet[0] for quiet in QUIET])
def test_another_form_of_the_same_causes_no_warning(path: str, messages: Any, expected: list[tuple[str, str]]) -> None:
    messages_read, warnings = read(path, messages, strict=True)
    assert without_empty(messages_read) == without_empty(expected) and not warnings


@pytest.mark.parametrize("path", ALL)
def test_a_conversation_in_geminis_form_is_shown_with_its_picture(path: str) -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    asked = {"role": "user", "parts": [{"text": "Two"}, picture]}
    messages = [{"role": "user", "parts": [{"text": "One"}]}, {"role": "model", "parts": [{"text": "So"}]}, asked]
    warnings = request_io.no_warnings(strict=False)
    messages_read = APIS[path]({"messages": messages}, warnings)
    assert shown(messages_read) == [("user", "One"), ("assistant", "So"), ("user", "Two")]
    assert sorted(type(part).__name__ for part in messages_read[-1].parts) == ["Image", "Text"]
    assert len(warnings) == 1 and "role is 'model'" in warnings[0]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(("role", "nearest"), ROLES, ids=[str(role) for role, _ in ROLES])
def test_a_role_of_another_name_is_the_nearest_one_with_a_warning(path: str, role: Any, nearest: str) -> None:
    message = {"role": role, "content": "Two"} | ({"tool_call_id": "c1"} if nearest == "tool" else {})
    messages = [USER, {"role": "assistant", "content": "So"}, message]
    messages_read, warnings = read(path, messages)
    last_role, text = messages_read[-1]
    assert last_role == nearest and text.endswith("Two")
    assert len(warnings) == 1 and "[2].role is" in warnings[0], warnings
    assert nearest in warnings[0].rpartition(";")[2]
    with pytest.raises(InvalidRequest, match="--strict refuses it"):
        read(path, messages, strict=True)


@pytest.mark.parametrize("path", MESSAGES)
def test_a_missing_role_follows_from_the_other_fields(path: str) -> None:
    answer = {"content": None, "tool_calls": [CALL]}
    messages_read, warnings = read(path, [USER, answer, {"tool_call_id": "c1", "content": "Two"}])
    assert [role for role, _ in messages_read] == ["user", "assistant", "tool"]
    assert len(warnings) == 2


@pytest.mark.parametrize("path", ALL)
def test_every_api_answers_such_messages(server: Server, path: str) -> None:
    messages: list[Any] = [
        {"role": "human", "content": 5}, {"role": "model", "content": "So"}, {"content": "Opposite of big?"},
    ]  # fmt: skip
    body = {"messages": messages, "max_tokens": 1}
    if path == "/v1/responses":
        body = {"input": messages, "max_output_tokens": 1}
    if path == "/api/chat":
        body = {"messages": messages, "stream": False, "options": {"num_predict": 1}}
    answer = server.post(body, path)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["warnings"]) == 4
