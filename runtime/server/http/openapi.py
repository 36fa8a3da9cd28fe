"""Routes that carry their own description, and the OpenAPI document made from it.

Made of the wire types, the bounds of numbers, the tables of fields and that of errors, so that none of it is said
twice. Knows no resource: each endpoint's file holds its `About`.
"""

from __future__ import annotations

import re
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

from ....models.errors import Forbidden, GalagoError, RequestTooLarge, Unauthorized
from ..openai import schema as wire
from . import field_policy
from .errors import TABLE, codes

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
FORM = "multipart/form-data"
OpenApiSchema = dict[str, Any]

_EVERYWHERE = (Unauthorized, Forbidden, RequestTooLarge, GalagoError)
"""What the guard in front of every route refuses, and what nobody has foreseen."""
_REFERENCE = "#/components/schemas/{name}"
_MODULE = re.compile(r"galago\.runtime\.server\.((?:\w+\.)*)wire\w*\.")
_HEADERS = {
    "x-galago-warnings": "A JSON list of what is wrong with the request's fields; absent where nothing is",
    "retry-after": "Seconds",
}


@dataclass(frozen=True)
class Streamed:
    """A streamed answer: its media type, and the type of what each event or line says of it. `end` is what an event
    says instead when there are no more."""

    piece: Any
    media: str = EVENTS
    end: str | None = None


@dataclass(frozen=True)
class RouteDescription:
    """What the document says of a route: types of its `body` and `answers`, and the classes of errors it ends with.

    An answer that is no JSON is given by its media type, one without a body by `None`, one in either of two shapes by a
    tuple. `known` are the fields of a body that its type does not hold; `bounds` are the least and the greatest value
    of its numbers, wherever in it they stand; `media` is how it is written. `query` holds the schemas of what may stand
    behind the path; `form` is the shape of errors. A class of errors stands for its subclasses too; those of every
    route are known without being named.
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
    known: field_policy.Known = field_policy.OPENAI
    form: Any = wire.ErrorResponse

    @property
    def statuses(self) -> dict[int, list[str]]:
        """The codes of errors by status."""
        found: dict[int, list[str]] = {}
        for kind, (status, _, _) in TABLE.items():
            if kind in _EVERYWHERE or issubclass(kind, self.errors):
                found.setdefault(status, []).extend(codes(kind))
        return found

    @property
    def told(self) -> list[Any]:
        """The types of all that is answered."""
        kinds = [kind for answer in self.answers.values() for kind in _several(answer)]
        return [self.form, *([self.stream.piece] if self.stream else ()), *kinds]


class Endpoint(Route):
    """A route with its description."""

    def __init__(self, path: str, answer: Callable[[Request], Awaitable[Response]], about: RouteDescription) -> None:
        super().__init__(path, answer, methods=[about.method])
        self.about = about


def endpoint(endpoints: Sequence[Endpoint]) -> Endpoint:
    """`GET /openapi.json`, which describes these and itself."""

    async def show(_request: Request) -> Response:
        return Response(text, media_type=JSON)

    own = Endpoint("/openapi.json", show, RouteDescription("This document", {200: dict[str, Any]}))
    text = wire.encode(document([*endpoints, own]))
    return own


def document(endpoints: Sequence[Endpoint]) -> OpenApiSchema:
    """The OpenAPI 3.1 document of these routes."""
    abouts = [endpoint.about for endpoint in endpoints]
    schemas = _Schemas(abouts)
    paths: OpenApiSchema = {}
    for route in endpoints:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path_format)
        paths.setdefault(path, {})[route.about.method.lower()] = _operation(route, schemas)
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
    """The JSON schemas of all that is asked and answered. Where two APIs have types of one name, it says whose."""

    def __init__(self, abouts: Sequence[RouteDescription]) -> None:
        asked = set(_structs(about.body for about in abouts))
        answered = set(_structs(kind for about in abouts for kind in about.told))
        whole = [about.body for about in abouts] + [kind for about in abouts for kind in about.told]
        kinds = [kind for kind in dict.fromkeys([*asked, *answered, *whole]) if _is_json(kind)]
        told = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
        schemas, self.components = msgspec.json.decode(_MODULE.sub(r"\1", msgspec.json.encode(told).decode()))
        self._of = dict(zip(kinds, schemas, strict=True))
        for about in abouts:
            for struct in _structs([about.body]):
                _tell_fields(struct, self._component(struct), about.known)
                _tell_bounds(about.bounds, self._component(struct))
        for struct in answered - asked:
            _tell_certain(struct, self._component(struct))

    def of(self, kind: Any) -> OpenApiSchema:
        schema: OpenApiSchema = self._of[kind]
        return schema

    def any_of(self, kinds: Sequence[Any]) -> OpenApiSchema:
        return self.of(kinds[0]) if len(kinds) == 1 else {"anyOf": [self.of(kind) for kind in kinds]}

    def _component(self, struct: type[msgspec.Struct]) -> OpenApiSchema:
        component: OpenApiSchema = self.components[self._of[struct]["$ref"].rpartition("/")[2]]
        return component


def _several(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _is_json(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, str)


def _operation(route: Endpoint, schemas: _Schemas) -> OpenApiSchema:
    about = route.about
    responses = {status: _answer(about, status, kind, schemas) for status, kind in about.answers.items()}
    for status, told in sorted(about.statuses.items()):
        if status not in responses:
            responses[status] = _response(f"Error: {', '.join(dict.fromkeys(told))}", about.form, schemas)
    if HTTPStatus.SERVICE_UNAVAILABLE in about.statuses:
        responses[503]["headers"] = _headers("retry-after")
    operation: OpenApiSchema = {
        "summary": about.summary,
        "operationId": f"{about.method.lower()}{route.path_format}".translate(str.maketrans("/{}.-", "_____")),
        "responses": {str(status): response for status, response in responses.items()},
    }
    parameters: list[OpenApiSchema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.param_convertors
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in about.query.items()]
    if parameters:
        operation["parameters"] = parameters
    if about.body is not None:
        examples = {name: {"value": value} for name, value in about.examples.items()}
        content = {about.media: {"schema": schemas.of(about.body)} | ({"examples": examples} if examples else {})}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(about: RouteDescription, status: int, kind: Any, schemas: _Schemas) -> OpenApiSchema:
    response = _response(HTTPStatus(status).phrase, kind, schemas)
    if about.body is not None and status == HTTPStatus.OK:
        response["headers"] = _headers("x-galago-warnings")
    if about.stream and status == HTTPStatus.OK:
        pieces = schemas.any_of([about.stream.piece, about.form])
        events = about.stream.media == EVENTS
        response["content"][about.stream.media] = {"schema": _event(pieces, about.stream.end) if events else pieces}
    return response


def _event(pieces: OpenApiSchema, end: str | None) -> OpenApiSchema:
    """One event of a stream, which says in its `data` a piece of the answer, why there is no more, or that it ends."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": pieces}
    ways: list[OpenApiSchema] = [data] if end is None else [{"const": end}, data]
    return {"type": "object", "properties": {"data": {"anyOf": ways}}, "required": ["data"]}


def _response(description: str, kind: Any, schemas: _Schemas) -> OpenApiSchema:
    if kind is None:
        return {"description": description}
    if isinstance(kind, str):
        return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}
    return {"description": description, "content": {JSON: {"schema": schemas.any_of(_several(kind))}}}


def _headers(name: str) -> OpenApiSchema:
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}}}


def _tell_fields(struct: type[msgspec.Struct], component: OpenApiSchema, fields_known: field_policy.Known) -> None:
    """Adds the fields that a struct does not hold and the server knows nevertheless."""
    known: dict[str, OpenApiSchema] = {}
    for name, harmless in fields_known.unsupported.get(struct, {}).items():
        known[name] = {"enum": [None, *harmless], "description": "Not supported: any other value is refused."}
    for name in fields_known.inert.get(struct, {}):
        known[name] = {"description": "Accepted without effect."}
    for name in fields_known.hints.get(struct, {}):
        known[name] = {"description": "Accepted without effect, with a warning."}
    if known:
        component["properties"] = component["properties"] | known


def _tell_certain(struct: type[msgspec.Struct], component: OpenApiSchema) -> None:
    """Says which fields an answer always has: all but those left unset, and defaults that are left out."""
    config = struct.__struct_config__
    if not config.omit_defaults:
        hints = typing.get_type_hints(struct)
        tag = [config.tag_field] if config.tag_field else []
        component["required"] = tag + [name for name, hint in hints.items() if UnsetType not in typing.get_args(hint)]


def _tell_bounds(bounds: Mapping[str, tuple[float, float]], component: OpenApiSchema) -> None:
    for name in bounds.keys() & component["properties"].keys():
        schema = component["properties"][name]
        for kind in schema.get("anyOf", [schema]):
            if kind.get("type") in ("integer", "number"):
                kind["minimum"], kind["maximum"] = bounds[name]


def _structs(kinds: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """All structs that values of these types may hold, each once."""
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
