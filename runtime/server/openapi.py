"""Routes that carry their own description, and the OpenAPI document made from it.

Made of the wire types, the bounds of numbers, the table of fields and that of errors, so that none of it is said twice.
Knows no resource: each endpoint's file holds its `About`.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import metadata
from typing import Any

import msgspec
from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...models.errors import Forbidden, GalagoError, TooLarge, Unauthorized
from . import fields, wire
from .errors import TABLE, codes

JSON = "application/json"
EVENTS = "text/event-stream"
Schema = dict[str, Any]

_EVERYWHERE = (Unauthorized, Forbidden, TooLarge, GalagoError)
"""What the guard in front of every route refuses, and what nobody has foreseen."""
_REFERENCE = "#/components/schemas/{name}"
_HEADERS = {
    "x-galago-warnings": "A JSON list of what is wrong with the request's fields; absent where nothing is",
    "retry-after": "Seconds",
}


@dataclass(frozen=True)
class About:
    """What the document says of a route: types of its `body` and `answers`, and the classes of errors it ends with.

    An answer that is no JSON is given by its media type. `stream` is the media type of a streamed answer and the type
    of what it streams; `bounds` are the least and the greatest value of the body's numbers. A class of errors stands
    for its subclasses too; those of every route are known without being named.
    """

    summary: str
    answers: Mapping[int, Any]
    body: Any = None
    stream: tuple[str, Any] | None = None
    errors: tuple[type[GalagoError], ...] = ()
    method: str = "GET"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)

    @property
    def statuses(self) -> dict[int, list[str]]:
        """The codes of errors by status."""
        found: dict[int, list[str]] = {}
        for kind, (status, _, _) in TABLE.items():
            if kind in _EVERYWHERE or issubclass(kind, self.errors):
                found.setdefault(status, []).extend(codes(kind))
        return found


class Endpoint(Route):
    """A route with its description."""

    def __init__(self, path: str, answer: Callable[[Request], Awaitable[Response]], about: About) -> None:
        super().__init__(path, answer, methods=[about.method])
        self.about = about


def endpoint(endpoints: Sequence[Endpoint]) -> Endpoint:
    """`GET /openapi.json`, which describes these and itself."""

    async def show(_request: Request) -> Response:
        return Response(text, media_type=JSON)

    own = Endpoint("/openapi.json", show, About("This document", {200: dict[str, Any]}))
    text = wire.encode(document([*endpoints, own]))
    return own


def document(endpoints: Sequence[Endpoint]) -> Schema:
    """The OpenAPI 3.1 document of these routes."""
    abouts = [endpoint.about for endpoint in endpoints]
    bodies = [about.body for about in abouts if about.body is not None]
    answers: list[Any] = [wire.ErrorResponse, *(a.stream[1] for a in abouts if a.stream)]
    answers += [kind for about in abouts for kind in about.answers.values() if not isinstance(kind, str)]
    _, components = msgspec.json.schema_components([*bodies, *answers], ref_template=_REFERENCE)
    asked, answered = set(_structs(bodies)), set(_structs(answers))
    for struct in asked:
        _tell_fields(struct, components[struct.__name__])
    for struct in answered - asked:
        _tell_certain(struct, components[struct.__name__])
    for about in abouts:
        _tell_bounds(about, components)
    paths: Schema = {}
    for route in endpoints:
        paths.setdefault(route.path_format, {})[route.about.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Galago", "version": metadata.version("galago"), "license": {"name": "MIT"}},
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Endpoint) -> Schema:
    about = route.about
    responses = {status: _answer(about, status, kind) for status, kind in about.answers.items()}
    for status, told in sorted(about.statuses.items()):
        if status not in responses:
            responses[status] = _response(f"Error: {', '.join(dict.fromkeys(told))}", wire.ErrorResponse)
    if HTTPStatus.SERVICE_UNAVAILABLE in about.statuses:
        responses[503]["headers"] = _headers("retry-after")
    operation: Schema = {
        "summary": about.summary,
        "operationId": f"{about.method.lower()}{route.path_format}".translate(str.maketrans("/{}.-", "_____")),
        "responses": {str(status): response for status, response in responses.items()},
    }
    if route.param_convertors:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in route.param_convertors
        ]
    if about.body is not None:
        examples = {name: {"value": value} for name, value in about.examples.items()}
        content = {JSON: {"schema": _schema(about.body)} | ({"examples": examples} if examples else {})}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(about: About, status: int, kind: Any) -> Schema:
    response = _response(HTTPStatus(status).phrase, kind)
    if about.body is not None and status == HTTPStatus.OK:
        response["headers"] = _headers("x-galago-warnings")
    if about.stream and status == HTTPStatus.OK:
        media, kind = about.stream
        response["content"][media] = {"schema": _event(kind) if media == EVENTS else _schema(kind)}
    return response


def _event(kind: Any) -> Schema:
    """One event of a stream, which says in its `data` a piece of the answer, why there is no more, or that it ends."""
    pieces = {"anyOf": [_schema(kind), _schema(wire.ErrorResponse)]}
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": pieces}
    ways: list[Schema] = [{"const": "[DONE]"}, data]
    return {"type": "object", "properties": {"data": {"anyOf": ways}}, "required": ["data"]}


def _response(description: str, kind: Any) -> Schema:
    if isinstance(kind, str):
        return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}
    return {"description": description, "content": {JSON: {"schema": _schema(kind)}}}


def _headers(name: str) -> Schema:
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}}}


def _schema(kind: Any) -> Schema:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    return schema


def _tell_fields(struct: type[msgspec.Struct], component: Schema) -> None:
    """Adds the fields that a struct does not hold and the server knows nevertheless."""
    known: dict[str, Schema] = {}
    for name, harmless in fields.UNSUPPORTED.get(struct, {}).items():
        known[name] = {"enum": [None, *harmless], "description": "Not supported: any other value is refused."}
    for name in fields.INERT.get(struct, {}):
        known[name] = {"description": "Accepted without effect."}
    for name in fields.HINTS.get(struct, {}):
        known[name] = {"description": "Accepted without effect, with a warning."}
    component["properties"] = component["properties"] | known


def _tell_certain(struct: type[msgspec.Struct], component: Schema) -> None:
    """Says which fields an answer always has: all but those left unset, and defaults that are left out."""
    if not struct.__struct_config__.omit_defaults:
        hints = typing.get_type_hints(struct)
        component["required"] = [name for name, hint in hints.items() if UnsetType not in typing.get_args(hint)]


def _tell_bounds(about: About, components: Schema) -> None:
    for name, bounds in about.bounds.items():
        for kind in components[about.body.__name__]["properties"][name]["anyOf"]:
            if kind["type"] != "null":
                kind["minimum"], kind["maximum"] = bounds


def _structs(kinds: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """All structs that values of these types may hold, each once."""
    seen: set[Any] = set()
    left = list(kinds)
    while left:
        kind = left.pop()
        if kind in seen:
            continue
        seen.add(kind)
        left += typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield kind
            left += typing.get_type_hints(kind).values()
