"""What errors about a request say: the field, its value, and what it must be."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fakes.server import Server

HI: Any = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"

TEXTS: dict[str, tuple[str, Any, str]] = {
    "messages as a number": (CHAT, {"messages": 5}, "messages is a number; it must be a list of messages"),
    "messages as a text": (CHAT, {"messages": "Hi"}, "messages is a text, not a list"),
    "no messages": (CHAT, {}, "messages is missing"),
    "a message as a number": (CHAT, {"messages": [5]}, "messages[0] is not an object"),
    "no role": (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role is missing"),
    "an unknown role": (
        CHAT, {"messages": [{"role": "x", "content": "a"}]},
        "messages[0].role is 'x', not system, developer, user, assistant or tool",
    ),
    "content as a number": (
        CHAT, {"messages": [{"role": "user", "content": 5}]},
        "messages[0].content is 5, not a text",
    ),
    "a temperature in words": (
        CHAT, {"messages": HI, "temperature": "hot"}, "temperature is 'hot'; it must be a number from 0 to 100",
    ),
    "a fraction of a top_k": (
        CHAT, {"messages": HI, "top_k": 1.5}, "top_k is 1.5, not a whole number",
    ),
    "a flag in words": (CHAT, {"messages": HI, "stream": "so"}, "stream is 'so'; it must be true or false"),
    "a bias in words": (CHAT, {"messages": HI, "logit_bias": {"5": "x"}}, "logit_bias: each value must be a number"),
    "a token below 0": (
        CHAT, {"messages": HI, "stop_token_ids": [-1]}, "stop_token_ids[0] is -1; it must be a number of at least 0",
    ),
    "an unknown effort": (
        CHAT, {"messages": HI, "reasoning_effort": "huge"},
        "reasoning_effort is 'huge'; use none, minimal, low, medium, high, xhigh or max",
    ),
    "an unknown format": (
        CHAT, {"messages": HI, "response_format": {"type": "xml"}},
        "response_format.type is 'xml'; use text, json_object or json_schema",
    ),
    "a format at Ollama's API": (
        "/api/chat", {"messages": HI, "format": "xml"}, "format is 'xml'; use an object or json",
    ),
    "input as a number": ("/v1/responses", {"input": 5}, "input is a number; it must be a text or a list"),
    "no choice": ("/v1/messages", {"messages": HI, "tool_choice": {}}, "tool_choice is {}, which chooses nothing"),
    "no time": (CHAT, {"messages": HI, "timeout": 0}, "timeout is 0, which leaves no time for an answer"),
    "an adapter that is not loaded": (
        CHAT, {"messages": HI, "lora": [{"id": 0, "scale": 1}]},
        "lora names adapter 0, but no adapter is loaded; load adapters with --lora",
    ),
    "a prompt that is too long": (
        CHAT, {"messages": [{"role": "user", "content": "word " * 5000}]},
        "this model's maximum context length is 2048 tokens, one of them for the answer, and the prompt has",
    ),
    "names with a pattern that cannot be enforced": (
        CHAT,
        {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {"schema": {
            "propertyNames": {"pattern": "a(?<!b)"}}}}},
        "the JSON schema cannot be enforced: propertyNames at # has the pattern 'a(?<!b)', which contains look-around",
    ),
}  # fmt: skip

BODIES = {
    b"": "the body is empty; send a JSON object",
    b'{"messages": [': "the body is not valid JSON: it ends too early",
    b"[]": "the body must be a JSON object",
}


@pytest.mark.parametrize(("path", "body", "text"), TEXTS.values(), ids=TEXTS)
def test_an_error_says_what_is_wrong_and_what_to_do(strict_server: Server, path: str, body: Any, text: str) -> None:
    answer = strict_server.post(body, path)
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert answer.status_code == 400 and message.startswith(text), message


@pytest.mark.parametrize(("body", "text"), BODIES.items())
def test_an_error_says_what_is_wrong_with_the_body(server: Server, body: bytes, text: str) -> None:
    assert httpx.post(f"{server.url}{CHAT}", content=body).json()["error"]["message"] == text


def test_errors_of_anthropics_api_name_the_request(server: Server) -> None:
    for body in ({}, {"messages": HI, "thread": "t"}):
        answer = server.post(body, "/v1/messages")
        assert answer.json()["request_id"] == answer.headers["request-id"]


def test_forms_of_other_servers_are_described_as_such(server: Server) -> None:
    schemas = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    declared = {"guided_json": "response_format", "guided_regex": "regex", "functions": "tools"}
    for name, field in declared.items():
        assert schemas["ChatRequest"]["properties"][name] == {
            "description": f"Another program's name: read as {field}."
        }
