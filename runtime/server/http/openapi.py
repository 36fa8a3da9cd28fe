"""Routes that carry their own description, and the OpenAPI document that is built from them.

The document is derived from the wire structs, their `other_fields`, the bounds of numbers and the table of errors.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import metadata
from typing import Any, TypeAlias

import msgspec
from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ....models.errors import Forbidden, GalagoError, RateLimited, RequestTimeout, RequestTooLarge, Unauthorized
from .errors import TABLE, ErrorResponses, codes
from .request_io import ANY, encode_json, other_fields

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
FORM = "multipart/form-data"
OpenApiSchema: TypeAlias = dict[str, Any]

_ALWAYS_POSSIBLE = (Unauthorized, Forbidden, RateLimited, RequestTimeout, RequestTooLarge, GalagoError)
"""The errors of every route: those of the guard, and the one for an unexpected exception."""
_REFERENCE = "#/components/schemas/{name}"
_MODULE = re.compile(r"galago\.runtime\.server\.(?:openai\.(?:chat\.)?)?((?:\w+\.)*)\w*schema\.")
"""Matches msgspec's prefix of types with equal names; only its package is kept, such as `anthropic.`."""
_HEADERS = {
    "x-galago-warnings": "A JSON list of the warnings, if there are any; for streams, only those about fields",
    "retry-after": "Seconds to wait before the request is sent again",
}


@dataclass(frozen=True)
class Streamed:
    """A streamed answer: the struct of each event or line, its media type, and the data of the event that ends it."""

    chunk: Any
    media: str = EVENTS
    end: str | None = None


@dataclass(frozen=True)
class RouteDescription:
    """What the document says about a route.

    `answers` by status: a type; for text, its media type; for an empty body, `None`; for one of several, a tuple.
    `errors` are the classes that the route can raise, subclasses included; those of every route are added.
    `bounds` are the minimum and maximum of the body's numbers, by field name at any depth.
    `media` is the media type of the body; `query` holds the schemas of the query parameters.
    """

    summary: str
    answers: Mapping[int, Any]
    body: Any = None
    stream: Streamed | None = None
    errors: tuple[type[GalagoError], ...] = ()
    method: str = "GET"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, OpenApiSchema] = field(default_factory=dict)
    media: str = JSON

    @property
    def error_codes(self) -> dict[int, list[str]]:
        """The codes of errors by status."""
        by_status: dict[int, list[str]] = {}
        for error_class, (status, _, _) in TABLE.items():
            if error_class in _ALWAYS_POSSIBLE or issubclass(error_class, self.errors):
                by_status.setdefault(status, []).extend(codes(error_class))
        return by_status

    @property
    def answer_types(self) -> list[Any]:
        kinds = [kind for answer in self.answers.values() for kind in _alternatives(answer)]
        return [*([self.stream.chunk] if self.stream else ()), *kinds]


class Endpoint(Route):
    """A route with its description."""

    def __init__(
        self, path: str, answer: Callable[[Request], Awaitable[Response]], description: RouteDescription
    ) -> None:
        super().__init__(path, answer, methods=[description.method])
        self.description = description


def endpoint(endpoints: Sequence[Endpoint], error_responses: ErrorResponses) -> Endpoint:
    """`GET /openapi.json`, which describes the given endpoints and itself."""

    async def show(_request: Request) -> Response:
        return Response(text, media_type=JSON)

    own = Endpoint("/openapi.json", show, RouteDescription("This document", {200: dict[str, Any]}))
    text = encode_json(document([*endpoints, own], error_responses))
    return own


def document(endpoints: Sequence[Endpoint], error_responses: ErrorResponses) -> OpenApiSchema:
    """The OpenAPI 3.1 document of these routes."""
    schemas = _Schemas(endpoints, error_responses)
    paths: OpenApiSchema = {}
    for route in endpoints:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path_format)
        operation = _operation(route, schemas, error_responses.format(route.path).struct)
        paths.setdefault(path, {})[route.description.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Galago", "version": metadata.version("galago"), "license": {"name": "MIT"}},
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The JSON schemas of all request and response types. A prefix distinguishes equal names in two APIs."""

    def __init__(self, endpoints: Sequence[Endpoint], error_responses: ErrorResponses) -> None:
        descriptions = [endpoint.description for endpoint in endpoints]
        answer_types = [kind for description in descriptions for kind in description.answer_types]
        answer_types += [error_responses.format(endpoint.path).struct for endpoint in endpoints]
        bodies = [description.body for description in descriptions]
        requested, answered = set(_structs(bodies)), set(_structs(answer_types))
        types = dict.fromkeys([*requested, *answered, *bodies, *answer_types])
        json_types = [kind for kind in types if _is_json(kind)]
        components = msgspec.json.schema_components(json_types, ref_template=_REFERENCE)
        short_names = _MODULE.sub(r"\1", msgspec.json.encode(components).decode())
        schemas, self.components = msgspec.json.decode(short_names)
        self._by_type = dict(zip(json_types, schemas, strict=True))
        for description in descriptions:
            for struct in _structs([description.body]):
                _add_other_fields(struct, self._component(struct))
                _add_bounds(description.bounds, self._component(struct))
        for struct in answered - requested:
            _add_required(struct, self._component(struct))

    def of(self, kind: Any) -> OpenApiSchema:
        schema: OpenApiSchema = self._by_type[kind]
        return schema

    def any_of(self, kinds: Sequence[Any]) -> OpenApiSchema:
        return self.of(kinds[0]) if len(kinds) == 1 else {"anyOf": [self.of(kind) for kind in kinds]}

    def _component(self, struct: type[msgspec.Struct]) -> OpenApiSchema:
        component: OpenApiSchema = self.components[self._by_type[struct]["$ref"].rpartition("/")[2]]
        return component


def _alternatives(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _is_json(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, str)


def _operation(route: Endpoint, schemas: _Schemas, error_type: Any) -> OpenApiSchema:
    description = route.description
    responses = {
        status: _answer(description, status, kind, schemas, error_type) for status, kind in description.answers.items()
    }
    for status, error_codes in sorted(description.error_codes.items()):
        if status not in responses:
            responses[status] = _response(f"Error: {', '.join(dict.fromkeys(error_codes))}", error_type, schemas)
    if HTTPStatus.SERVICE_UNAVAILABLE in description.error_codes:
        responses[503]["headers"] = _headers("retry-after")
    operation: OpenApiSchema = {
        "summary": description.summary,
        "operationId": f"{description.method.lower()}{route.path_format}".translate(str.maketrans("/{}.-", "_____")),
        "responses": {str(status): response for status, response in responses.items()},
    }
    parameters: list[OpenApiSchema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.param_convertors
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in description.query.items()]
    if parameters:
        operation["parameters"] = parameters
    if description.body is not None:
        examples = {name: {"value": value} for name, value in description.examples.items()}
        schema = {"schema": schemas.of(description.body)}
        content = {description.media: schema | ({"examples": examples} if examples else {})}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(description: RouteDescription, status: int, kind: Any, schemas: _Schemas, error_type: Any) -> OpenApiSchema:
    response = _response(HTTPStatus(status).phrase, kind, schemas)
    if description.body is not None and status == HTTPStatus.OK:
        response["headers"] = _headers("x-galago-warnings")
    if description.stream and status == HTTPStatus.OK:
        chunk = schemas.any_of([description.stream.chunk, error_type])
        events = description.stream.media == EVENTS
        response["content"][description.stream.media] = {
            "schema": _event(chunk, description.stream.end) if events else chunk
        }
    return response


def _event(chunk: OpenApiSchema, end: str | None) -> OpenApiSchema:
    """An event of a stream: its `data` is a chunk of the answer, an error, or the end mark."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": chunk}
    alternatives: list[OpenApiSchema] = [data] if end is None else [{"const": end}, data]
    return {"type": "object", "properties": {"data": {"anyOf": alternatives}}, "required": ["data"]}


def _response(description: str, kind: Any, schemas: _Schemas) -> OpenApiSchema:
    if kind is None:
        return {"description": description}
    if isinstance(kind, str):
        return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}
    return {"description": description, "content": {JSON: {"schema": schemas.any_of(_alternatives(kind))}}}


def _headers(name: str) -> OpenApiSchema:
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}}}


def _add_other_fields(struct: type[msgspec.Struct], component: OpenApiSchema) -> None:
    """Adds the fields that the struct does not declare but the server knows."""
    fields = other_fields(struct)
    properties: dict[str, OpenApiSchema] = {}
    for name in fields.refused:
        values = [*fields.harmless_values(name)]
        properties[name] = {"enum": values, "description": "Not supported; other values are refused."}
    for name, value in fields.ignored.items():
        but = "" if value is ANY else f", with a warning unless {_alternatives_in_words(fields.harmless_values(name))}"
        properties[name] = {"description": f"Accepted without effect{but}."}
    for name, declared in fields.adapted.items():
        properties[name] = {"description": f"Another program's name: read as {declared}."}
    for name in fields.warned:
        properties[name] = {"description": "Accepted without effect, with a warning."}
    if properties:
        component["properties"] = component["properties"] | properties


def _alternatives_in_words(values: Sequence[object]) -> str:
    """Values in JSON, such as `null, -1 or 0`."""
    *rest, last = ("empty text" if value == "" else encode_json(value).decode() for value in values)
    return f"{', '.join(rest)} or {last}" if rest else last


def _add_required(struct: type[msgspec.Struct], component: OpenApiSchema) -> None:
    """Lists the fields that an answer always has: all but those that may be unset, or omitted as defaults."""
    config = struct.__struct_config__
    if not config.omit_defaults:
        hints = typing.get_type_hints(struct)
        tag = [config.tag_field] if config.tag_field else []
        component["required"] = tag + [name for name, hint in hints.items() if UnsetType not in typing.get_args(hint)]


def _add_bounds(bounds: Mapping[str, tuple[float, float]], component: OpenApiSchema) -> None:
    for name in bounds.keys() & component["properties"].keys():
        schema = component["properties"][name]
        for kind in schema.get("anyOf", [schema]):
            if kind.get("type") in ("integer", "number"):
                kind["minimum"], kind["maximum"] = bounds[name]


def _structs(kinds: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """All structs that values of these types may contain, each once."""
    seen: set[Any] = set()
    left = list(kinds)
    while left:
        kind = left.pop()
        if kind is None or isinstance(kind, str) or kind in seen:
            continue
        seen.add(kind)
        left += typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield kind
            left += typing.get_type_hints(kind).values()
