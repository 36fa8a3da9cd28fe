"""Tools declared in any other form: read or left out with a warning in every API, and refused by a strict server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.server import Server
from galago.models.errors import GalagoError
from galago.runtime.server.anthropic import other_forms as anthropic
from galago.runtime.server.ollama import other_forms as ollama
from galago.runtime.server.openai.chat import other_forms as chat
from galago.runtime.server.openai.responses import convert as responses
from galago.runtime.types.warnings import Warnings

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ANY = {"type": "object", "additionalProperties": True}
APIS: dict[str, Any] = {
    "/v1/chat/completions": chat.adapt,
    "/v1/responses": responses.rewritten,
    "/v1/messages": anthropic.adapt,
    "/api/chat": ollama.adapt,
}


def function(path: str, field: str | None = None, value: Any = None) -> dict[str, Any]:
    """A function as an API declares it, with one field changed."""
    schema_field = "input_schema" if path == "/v1/messages" else "parameters"
    declared = {"name": "f", schema_field: SCHEMA} | (
        {} if field is None else {field.replace("schema", schema_field): value}
    )
    nested = path in ("/v1/chat/completions", "/api/chat")
    return {"type": "function", "function": declared} if nested else {"type": "function", **declared}


def adapted(path: str, tools: Any, strict: bool = False) -> tuple[list[dict[str, Any]], Warnings]:
    """The functions of a request in the documented form, and the warnings about them."""
    warnings = Warnings()
    warnings.strict = strict
    given = APIS[path]({"messages": [], "tools": tools}, warnings)["tools"]
    return [tool.get("function", tool) for tool in given], warnings


READ: list[tuple[str, Any, Any]] = [
    ("schema", True, ANY),
    ("schema", False, {}),
    ("schema", "", {}),
    ("schema", json.dumps(SCHEMA), SCHEMA),
    ("schema", "any", ANY),
    ("schema", ["a"], ANY),
    ("schema", 5, ANY),
    ("description", ["a", "b"], "a\nb"),
    ("description", {"en": "x"}, '{"en": "x"}'),
    ("description", [], None),
]
LEFT_OUT: list[Any] = [
    {"type": "function", "function": None},
    {"type": "function", "function": {"name": 5}},
    {"google_search": {}},
    {"functionDeclarations": [{"name": "f"}]},
    {},
    "f",
    True,
    [],
]
LISTS: list[tuple[Any, list[str]]] = [
    ({}, []),
    ("", []),
    (False, []),
    (True, []),
    (5, []),
    ("auto", []),
    ("none", []),
    ("[", []),
    ({"f": 5}, []),
    ({"type": "function", "function": {"name": "f"}}, ["f"]),
    ('{"type": "function", "function": {"name": "f"}}', ["f"]),
    ('[{"type": "function", "function": {"name": "f"}}]', ["f"]),
    ({"f": {"description": "d", "parameters": SCHEMA}, "g": {"input_schema": SCHEMA}}, ["f", "g"]),
    ({"f": SCHEMA}, ["f"]),
    ({"f": {"type": "function", "function": {"name": "x", "parameters": SCHEMA}}}, ["f"]),
    ({"f": {}}, ["f"]),
]


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize(("field", "given", "read"), READ, ids=str)
def test_a_field_of_a_tool_in_another_form_is_read_with_a_warning(path: str, field: str, given: Any, read: Any) -> None:
    ((tool,), warnings) = adapted(path, [function(path, field, given)])
    assert tool[field.replace("schema", "input_schema" if path == "/v1/messages" else "parameters")] == read
    assert len(warnings) == 1 and warnings[0].startswith("tools[0].")
    with pytest.raises(GalagoError):
        adapted(path, [function(path, field, given)], strict=True)


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("given", LEFT_OUT, ids=str)
def test_what_declares_no_function_is_left_out_with_a_warning(path: str, given: Any) -> None:
    tools, warnings = adapted(path, [given, function(path)])
    assert [tool["name"] for tool in tools] == ["f"]
    assert len(warnings) == 1 and "tools[0]" in warnings[0] and "left out" in warnings[0]
    with pytest.raises(GalagoError):
        adapted(path, [given, function(path)], strict=True)


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize(("given", "names"), LISTS, ids=str)
def test_what_stands_for_a_list_of_tools_is_read_with_a_warning(path: str, given: Any, names: list[str]) -> None:
    tools, warnings = adapted(path, given)
    assert [tool["name"] for tool in tools] == names
    assert len(warnings) == 1 and warnings[0].startswith("tools is ")
    with pytest.raises(GalagoError):
        adapted(path, given, strict=True)


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("given", [{"parameters": SCHEMA}, SCHEMA, {"function": {"name": "x", "parameters": SCHEMA}}])
def test_a_function_under_its_name_keeps_its_schema(path: str, given: Any) -> None:
    (tool,) = adapted(path, {"f": given})[0]
    assert tool["name"] == "f" and tool["input_schema" if path == "/v1/messages" else "parameters"] == SCHEMA


@pytest.mark.parametrize("path", APIS)
def test_a_strict_tool_needs_a_schema(path: str) -> None:
    tool = function(path, "schema", "any")
    (tool.get("function") or tool)["strict"] = True
    with pytest.raises(GalagoError, match="not a JSON schema; a strict tool needs an object"):
        adapted(path, [tool])


@pytest.mark.parametrize("path", APIS)
def test_every_api_answers_with_such_tools(server: Server, path: str) -> None:
    said = {"model": "builtin", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "max_tokens": 1}
    limits = {"max_output_tokens": 1, "options": {"num_predict": 1}, "stream": False}
    tools = [function(path, "schema", json.dumps(SCHEMA)), {"google_search": {}}, {"name": "my tool"}]
    answer = server.post(said | limits | {"tools": tools}, path)
    assert answer.status_code == 200, answer.text
    text = " ".join(answer.json()["warnings"])
    assert all(
        words in text
        for words in ("the JSON in it is read", "tools[1] has google_search", "'my tool' is not a valid name")
    )
