"""Invalid requests to the other APIs: always an answer or a clear 4xx in the format of the API."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.server import Server
from galago.runtime.server.anthropic import schema as anthropic_wire
from galago.runtime.server.http.request_io import other_fields
from galago.runtime.server.ollama import schema as ollama_wire
from galago.runtime.server.openai.responses import schema as responses_wire

HI: Any = [{"role": "user", "content": "Hi"}]
SHORT: dict[str, dict[str, Any]] = {
    "/v1/messages": {"messages": HI, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": HI},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/api/chat": {"model": "builtin", "messages": HI, "options": {"num_predict": 2}},
    "/api/generate": {"model": "builtin", "prompt": "Hi", "options": {"num_predict": 2}},
    "/api/embed": {"model": "builtin", "input": "Hi"},
    "/api/embeddings": {"model": "builtin", "prompt": "Hi"},
    "/api/show": {"model": "builtin"},
    "/api/pull": {"model": "builtin"},
}
"""A small valid body by path."""

REQUEST_TYPES: dict[str, Any] = {
    "/v1/messages": anthropic_wire.MessagesRequest,
    "/v1/messages/count_tokens": anthropic_wire.CountRequest,
    "/v1/responses": responses_wire.ResponsesRequest,
    "/v1/responses/input_tokens": responses_wire.ResponsesRequest,
    "/api/chat": ollama_wire.ChatRequest,
    "/api/generate": ollama_wire.GenerateRequest,
    "/api/embed": ollama_wire.EmbedRequest,
    "/api/embeddings": ollama_wire.OldEmbedRequest,
    "/api/show": ollama_wire.ModelRequest,
    "/api/pull": ollama_wire.ModelRequest,
}
WORDS = (
    "type text role user assistant tool system content image source base64 url data input_text input_image image_url "
    "function name arguments call_id output f tools parameters input_schema thinking enabled message reasoning x"
).split()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def names(path: str) -> list[str]:
    """All top-level fields that the API of a path knows, except those that would make an answer long."""
    request_type = REQUEST_TYPES[path]
    other = other_fields(request_type)
    names = {*request_type.__struct_fields__, "x", *other.ignored, *other.warned, *other.refused}
    return sorted(names - {"max_tokens", "max_output_tokens", "options", "background"})


@st.composite
def requests(draw: Any) -> tuple[str, dict[str, Any]]:
    path = draw(st.sampled_from(sorted(SHORT)))
    changed = draw(st.dictionaries(st.sampled_from(names(path)), VALUES, max_size=3))
    return path, SHORT[path] | changed


def error_of(path: str, body: Any) -> str:
    """The message of an error in the format of the path's API."""
    if path.startswith("/v1/messages"):
        assert body["type"] == "error" and body["error"]["type"].endswith("_error")
        return str(body["error"]["message"])
    if path.startswith("/api/"):
        return str(body["error"])
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
def test_no_body_is_answered_with_a_server_error(server: Server, path_and_body: tuple[str, dict[str, Any]]) -> None:
    path, body = path_and_body
    answer = server.post(body, path)
    assert answer.status_code in (200, 400, 403, 404), (path, body, answer.text)
    if answer.status_code != 200:
        assert error_of(path, answer.json())


@pytest.mark.parametrize("path", sorted(SHORT))
def test_a_body_that_is_not_a_json_object_is_refused_in_the_format_of_the_api(server: Server, path: str) -> None:
    for content in (b"", b"{", b"[]", b'{"model": NaN}', b"\xff"):
        answer = httpx.post(f"{server.url}{path}", content=content, timeout=30)
        assert answer.status_code == (403 if path == "/api/pull" else 400)
        assert error_of(path, answer.json())


@pytest.mark.parametrize("path", sorted(SHORT))
def test_other_methods_and_hosts_are_refused_in_the_format_of_the_api(server: Server, path: str) -> None:
    put = httpx.put(f"{server.url}{path}", json={})
    assert put.status_code == 405 and error_of(path, put.json())
    foreign = httpx.post(f"{server.url}{path}", json=SHORT[path], headers={"Host": "evil.example"})
    assert foreign.status_code == 403 and "evil.example" in error_of(path, foreign.json())


def test_unknown_fields_of_null_cause_no_warning(strict_server: Server) -> None:
    for path, body in SHORT.items():
        if path not in ("/api/pull", "/api/embed", "/api/embeddings"):
            answer = strict_server.post(body | {"colour": None, "audio": None}, path)
            assert answer.status_code == 200 and "x-galago-warnings" not in answer.headers, answer.text


def test_strict_servers_refuse_unknown_fields_of_every_api(strict_server: Server) -> None:
    for path, body in SHORT.items():
        if path not in ("/api/pull", "/api/embed", "/api/embeddings"):
            assert strict_server.post(body, path).status_code == 200, path
            answer = strict_server.post(body | {"colour": "red"}, path)
            assert answer.status_code == 400 and "colour" in error_of(path, answer.json())


def test_every_line_of_a_stream_is_json(server: Server) -> None:
    for path in ("/api/chat", "/api/generate"):
        lines = server.post(SHORT[path], path).text.strip().split("\n")
        assert [json.loads(line)["done"] for line in lines][-1] is True
