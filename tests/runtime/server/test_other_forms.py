"""Requests of any shape are adapted or refused by name: no shape ends in another error."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from galago.models.errors import InvalidRequest
from galago.runtime.server.anthropic import convert as anthropic_convert
from galago.runtime.server.anthropic import schema as anthropic_schema
from galago.runtime.server.http import request_io
from galago.runtime.server.ollama import convert as ollama_convert
from galago.runtime.server.ollama import schema as ollama_schema

VALUES: list[Any] = [None, True, 0, -1, 8.5, "", "x", "text", "image", "tool_use", [], [[]], [None], {}, {"type": "x"}]
VALUES += [
    {"type": []},
    {"type": {"a": 1}},
    {"name": {}},
    {"role": []},
    ["x", 5, {"text": []}],
    "data:,",
    "https://a.example",
]
BLOCKS: list[Any] = [
    {"type": "text", "text": "Hi", "citations": []},
    {"type": "image", "source": {"type": "url", "url": "https://a.example"}},
    {"type": "document", "title": "t", "source": {"type": "base64", "media_type": "text/plain", "data": "SGk="}},
    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}, None]}},
    {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]},
    {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_reference", "tool_name": "f"}]},
    {"type": "web_search_tool_result", "tool_use_id": "1", "content": [{"url": "u", "encrypted_content": "x"}]},
    {"type": "smell", "text": "x", "content": {"data": "x" * 600}},
]
WRITTEN: list[Any] = [
    {"type": "thinking", "thinking": "x", "signature": None},
    {"type": "tool_use", "id": None, "name": "f", "input": "{"},
    {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}},
]
MESSAGES: dict[str, Any] = {
    "max_tokens": 8,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"scope": "global"}}],
    "messages": [
        {"role": "user", "content": BLOCKS},
        {"role": "assistant", "content": WRITTEN},
        {"role": "system", "content": [{"type": "tool_addition", "tool": {"definition": {"name": "g"}}}]},
        {"role": "user", "content": "x"},
    ],
    "tools": [
        {"name": "f", "description": "d", "input_schema": {}, "input_examples": [{}], "allowed_callers": ["x"]},
        {"type": "bash_20250124", "name": "bash", "defer_loading": True},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "function", "function": {"name": "h", "parameters": {}}},
    ],
    "tool_choice": {"type": "tool", "name": "web_search"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "output_config": {"effort": "x", "format": {"type": "text"}},
    "stop_sequences": ["a", None],
}
CALL = {"id": None, "function": {"name": "f", "arguments": '{"a": 1}'}}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "x"}, {"image_url": {"url": "data:,"}}]},
        {"role": "user", "content": "x", "images": [None, "https://a.example"]},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {"name": "f"}]},
        {"role": "function", "name": "f", "content": "x"},
    ],
    "tools": [{"function": {"name": "f", "parameters": {}}}, {"type": "web_search"}, {"name": "g"}],
    "options": {"mirostat": 1, "stop": ["x", None], "num_gpu": 1, "num_predict": 2, "seed": -1},
    "format": {"type": "json_schema", "json_schema": {"schema": {}}},
    "think": "x",
}
APIS: dict[str, Any] = {
    "anthropic": (MESSAGES, anthropic_schema.MessagesRequest, anthropic_convert.to_request),
    "ollama": (CHAT, ollama_schema.ChatRequest, ollama_convert.to_request),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, one in inner for place in places(one, (*path, key)))]


def replaced(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(body)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return dict(changed)


@pytest.mark.parametrize("api", APIS)
def test_any_value_in_any_place_is_adapted_or_refused_by_name(api: str) -> None:
    body, struct, to_request = APIS[api]
    rng = random.Random(3)
    bodies = [replaced(body, path, value) for path in places(body) for value in VALUES]
    bodies += [replaced(one, rng.choice(places(one)), rng.choice(VALUES)) for one in bodies]
    accepted = 0
    bodies = rng.sample(bodies, 800)
    for one in bodies:
        try:
            request, warnings = request_io.parse_body(json.dumps(one).encode(), struct, False)
            to_request(request, warnings)
            accepted += 1
        except InvalidRequest as error:
            assert str(error)
    assert accepted > len(bodies) / 4
