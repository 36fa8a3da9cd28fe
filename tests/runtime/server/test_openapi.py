"""The OpenAPI document: it has every route, field and status, and answers match it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.routing import WebSocketRoute

from fakes.scripts import scripts_environment
from fakes.server import Server, serving
from galago.models import errors
from galago.models.errors import GalagoError
from galago.runtime.config import ServerConfig
from galago.runtime.pool.pool import ModelPool
from galago.runtime.server import app
from galago.runtime.server.http.errors import TABLE
from galago.runtime.server.http.openapi import Endpoint
from galago.runtime.server.openai.chat import schema as wire
from galago.runtime.server.openai.chat.convert import BOUNDS
from galago.runtime.types.limits import limit

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
NOT_ANSWERED = (errors.Cancelled, errors.ModelError, errors.HubError, errors.ConfigError, errors.MethodNotAllowed)
"""Errors that no client of the chat endpoint can get."""


class FailingService(ModelPool):
    """Fails every request with an error."""

    def __init__(self, error: GalagoError) -> None:
        self._error = error

    def _refuse(self, *_: object) -> Any:
        raise self._error

    generate: Any = _refuse
    model: Any = _refuse
    model_for: Any = _refuse
    models: Any = _refuse
    stats: Any = _refuse
    installed: Any = _refuse
    run_task: Any = _refuse

    @property
    def ready(self) -> bool:
        return False


def response_for(error: GalagoError, method: str, path: str, **options: Any) -> httpx.Response:
    """The response of a server whose model always fails with this error."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app.build(FailingService(error), ServerConfig()), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(response_for(GalagoError("x"), "GET", "/openapi.json").json())


def check(document: dict[str, Any], path: str, method: str, answer: httpx.Response) -> None:
    """Checks that an answer's status is documented and that its body fits the schema."""
    response = document["paths"][path][method]["responses"][str(answer.status_code)]
    schema = response["content"][answer.headers["content-type"]]["schema"]
    if answer.headers["content-type"] == "application/json":
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    routes = app.build(FailingService(GalagoError("x")), ServerConfig()).routes
    routes = [route for route in routes if not isinstance(route, WebSocketRoute)]
    assert all(isinstance(route, Endpoint) for route in routes), "a route without a description"
    there = {(r.path_format, r.description.method.lower()) for r in routes if isinstance(r, Endpoint)}
    documented = {(path, method) for path, operations in document["paths"].items() for method in operations}
    assert documented <= there
    assert {(path if path in document["paths"] else f"/v1{path}", method) for path, method in there} == documented


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named == set(document["components"]["schemas"])


def test_every_known_field_is_documented(document: dict[str, Any]) -> None:
    request = document["components"]["schemas"]["ChatRequest"]["properties"]
    fields = wire.ChatRequest.other_fields
    other = {*fields.ignored, *fields.warned, *fields.refused, *fields.adapted}
    assert set(request) == {*wire.ChatRequest.__struct_fields__, *other}
    assert request["bad_words"]["enum"] == [None, []]
    assert request["guided_json"] == {"description": "Another program's name: read as response_format."}
    assert "with a warning unless null or false" in request["store"]["description"]


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_beyond_the_documented_bounds_are_limited_or_refused(
    server: Server, document: dict[str, Any], name: str
) -> None:
    kinds = document["components"]["schemas"]["ChatRequest"]["properties"][name]["anyOf"]
    documented = next(schema for schema in kinds if "minimum" in schema)
    for beyond in (documented["minimum"] - 5, documented["maximum"] + 1):
        answer = server.post(HI | {"logprobs": True, name: beyond})
        body = answer.json()
        if answer.status_code == 400:
            assert body["error"]["param"] == name
        else:
            assert any(name in warning for warning in body["warnings"])
    held = {} if name.startswith("max_") else {"max_tokens": 1}
    within = "minimum" if name in ("n", "max_tokens", "max_completion_tokens") else "maximum"
    body = {"messages": HI["messages"], "logprobs": True} | held | {name: documented[within]}
    assert server.post(body).status_code == 200


@pytest.mark.parametrize("error_class", TABLE, ids=[error_class.__name__ for error_class in TABLE])
def test_every_error_status_is_documented(document: dict[str, Any], error_class: type[GalagoError]) -> None:
    answer = response_for(error_class("It went wrong", "model"), "POST", CHAT, json=HI)
    status = TABLE[error_class][0]
    assert answer.status_code == status and answer.json()["error"]["message"] == "It went wrong"
    if issubclass(error_class, NOT_ANSWERED):
        return
    check(document, CHAT, "post", answer)
    assert answer.json()["error"]["code"] in document["paths"][CHAT]["post"]["responses"][str(status)]["description"]


def test_errors_have_the_documented_format_of_each_endpoint(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                answer = response_for(GalagoError("x"), method, path.replace("{id}", "x"), content=b"[]")
                assert answer.status_code in (400, 403), path
                check(document, path, method, answer)


def test_types_of_equal_names_in_two_apis_get_a_prefix(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert "stop_reason" in schemas["anthropic.Message"]["properties"]
    assert "images" in schemas["ollama.Message"]["properties"]
    body = document["paths"]["/api/chat"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ollama.ChatRequest"}


def test_refused_fields_and_bounds_of_other_apis_are_documented(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["MessagesRequest"]["properties"]["thread"]["enum"] == [None]
    assert schemas["Options"]["properties"]["temperature"]["anyOf"][0]["maximum"] == 100
    assert schemas["ResponsesRequest"]["properties"]["max_output_tokens"]["anyOf"][0]["minimum"] == 0
    query = document["paths"]["/v1/files"]["get"]["parameters"]
    assert {one["name"] for one in query} == {"limit", "after", "order", "purpose"}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x", "/metrics", "/health"])
def test_the_error_of_a_loading_model_is_documented(document: dict[str, Any], path: str) -> None:
    answer = response_for(errors.NotReady("still loading"), "GET", path)
    assert answer.status_code == 503
    check(document, "/v1/models/{id}" if path.endswith("/x") else path, "get", answer)


def test_answers_match_the_document(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    for path in ("/health", "/metrics", "/v1/models", "/openapi.json"):
        check(document, path, "get", httpx.get(f"{server.url}{path}"))
    for name in ("builtin", "none"):
        check(document, "/v1/models/{id}", "get", httpx.get(f"{server.url}/v1/models/{name}"))
    for body in (HI, HI | {"logprobs": True, "top_logprobs": 2, "n": 2, "x": 1}, HI | {"model": "none"}, {}):
        check(document, CHAT, "post", server.post(body))


def test_the_examples_are_answered(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    content = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert server.post(example["value"]).status_code == 200
        jsonschema.validate(example["value"], {**content["schema"], "components": document["components"]})


def test_stream_events_match_the_document(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    event = document["paths"][CHAT]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    done, data = event["properties"]["data"]["anyOf"]
    lines = server.post(HI | {"stream": True, "stream_options": {"include_usage": True}}).text.split("\n\n")
    assert lines[-2] == f"data: {done['const']}"
    validator = jsonschema.Draft202012Validator({**data["contentSchema"], "components": document["components"]})
    for line in lines[:-2]:
        validator.validate(json.loads(line.removeprefix("data: ")))


def test_authentication_errors_match_the_document(document: dict[str, Any]) -> None:
    with serving("--api-key", "secret") as server:
        server.wait_until_ready()
        for path, method in (("/v1/models", "get"), (CHAT, "post"), ("/openapi.json", "get")):
            answer = httpx.request(method, f"{server.url}{path}")
            assert answer.status_code == 401
            check(document, path, method, answer)
        answer = httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer secret", "Host": "example.com"})
        assert answer.status_code == 403
        check(document, "/v1/models", "get", answer)


def test_the_error_of_a_too_large_body_is_documented(document: dict[str, Any]) -> None:
    answer = response_for(GalagoError("x"), "POST", CHAT, json={"x": "x" * limit("body_bytes")})
    assert answer.status_code == 413
    check(document, CHAT, "post", answer)


def test_a_wrong_method_gets_the_allowed_ones(server: Server) -> None:
    assert httpx.get(f"{server.url}{CHAT}").headers["allow"] == "POST"


def test_random_requests_get_documented_answers() -> None:
    """A small part of what `scripts/check api` runs."""
    command = [sys.executable, "-m", "checks", "api", "--cases", "4", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=scripts_environment())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1].split()[0]) > 30
