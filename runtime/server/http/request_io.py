"""Reads requests and runs their work: the body, its fields, worker threads, clients that leave, and activity."""

from __future__ import annotations

import asyncio
import json
import threading
import types
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ....models.errors import Cancelled, InvalidRequest, UnsupportedField
from ...types.warnings import Warnings
from . import json_errors
from .warning_log import log_new

T = TypeVar("T")
Cancellation: TypeAlias = Callable[[], bool]
"""Returns whether the client has disconnected."""

encode_json = msgspec.json.Encoder().encode

_UTF8_BOM = b"\xef\xbb\xbf"


class Activity:
    """Counts the requests in progress, for work that waits until there are none."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        self._count += 1
        self._idle.clear()

    def end(self) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        await self._idle.wait()


class ActivityMiddleware:
    """ASGI middleware that counts a request from its first byte to the last byte of its response."""

    def __init__(self, app: ASGIApp, activity: Activity) -> None:
        self._app = app
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._activity.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            self._activity.end()


async def read_body(request: Request) -> bytes:
    encoding = request.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(
            f"the content encoding {encoding!r} is not supported; send the body uncompressed", "Content-Encoding"
        )
    try:
        return await request.body()
    except ClientDisconnect:
        raise Cancelled("the client disconnected while it sent the request") from None


async def run_on_thread(
    request: Request, work: Callable[[Cancellation], T], undo: Callable[[T], None] = lambda _result: None
) -> T:
    """Runs `work` on a thread, and passes it a function that returns whether the client has disconnected.

    If the client disconnects first, raises `Cancelled`, and `undo` gets the result when the work is done.
    """
    disconnected = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, disconnected.is_set))
    try:
        return await unless_disconnected(request, asyncio.shield(working))
    except (asyncio.CancelledError, Cancelled):
        disconnected.set()
        working.add_done_callback(lambda done: _undo(done, undo))
        raise


def _undo(done: asyncio.Future[T], undo: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Awaits `work`; cancels it and raises `Cancelled` if the client disconnects first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client disconnected")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer_on_thread(
    request: Request, work: Callable[[bytes, Cancellation], tuple[Struct, list[str]]]
) -> Response:
    """Runs `work` on the body, on a thread; responds with the struct and the warnings that it returns."""
    body = await read_body(request)
    answer, warnings = await run_on_thread(request, partial(work, body))
    return json_response(answer, warning_headers(warnings))


def json_response(answer: Struct, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode_json(answer), headers=headers, media_type="application/json")


def warning_headers(warnings: list[str]) -> dict[str, str]:
    """The warnings about a request's fields as a header, for clients that do not look at the body's `warnings`."""
    if not warnings:
        return {}
    log_new(warnings)
    return {"x-galago-warnings": json.dumps(warnings)}


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body."""
    try:
        raw = msgspec.json.decode(body.removeprefix(_UTF8_BOM))
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply to be read") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise json_errors.invalid_json(body, error) from error
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object")
    return raw


def convert_object(raw: dict[str, Any], struct: type[T]) -> T:
    """The object as a struct; an error names the field at fault.

    A struct's `accepted_values`, if it has them, list the supported values of tagged fields for error messages.
    """
    try:
        return msgspec.convert(raw, struct)
    except (msgspec.ValidationError, RecursionError) as error:
        raise json_errors.invalid_fields(str(error), getattr(struct, "accepted_values", {})) from error


def parse_body(body: bytes, struct: type[T], strict: bool) -> tuple[T, Warnings]:
    """The request in a body, and warnings about its fields."""
    raw = decode_object(body)
    return convert_object(raw, struct), check_fields(raw, struct, strict)


ANY = object()
"""An ignored field may have any value."""


@dataclass(frozen=True, slots=True)
class OtherFields:
    """Fields that clients send and a struct does not declare; structs hold it as `other_fields`.

    `ignored` fields ask for nothing that a local model could do differently: accepted silently if the value is the
    given one or null, or any value for `ANY`. `warned` fields have no effect here: accepted with a warning that gives
    this reason, in strict mode too. `refused` fields would change the answer and are not supported: an error, unless
    the value is null or one of those given, which ask for nothing. All other undeclared fields are unknown.
    """

    ignored: Mapping[str, object] = field(default_factory=dict)
    warned: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


_NO_FIELDS = OtherFields()
MAX_WARNINGS = 20
MAX_PATH_CHARACTERS = 200
"""Of an unknown field's path, in a warning or an error."""


def other_fields(struct: type) -> OtherFields:
    fields: OtherFields = getattr(struct, "other_fields", _NO_FIELDS)
    return fields


def check_fields(raw: dict[str, Any], struct: type, strict: bool) -> Warnings:
    """Checks every field of a request that its struct does not declare; returns at most `MAX_WARNINGS` warnings.

    Raises `UnsupportedField` for a refused field and, in strict mode, for an unknown one.
    """
    warnings = Warnings()
    warnings.strict = strict
    for path, owner, name, value in _undeclared_fields(raw, struct, ""):
        if _is_harmless(owner, name, value, path):
            continue
        path = path[:MAX_PATH_CHARACTERS]
        reason = other_fields(owner).warned.get(name)
        if reason is not None:
            warnings.append(f"the field {path} has no effect here{reason}")
        elif strict:
            raise UnsupportedField(f"unknown field {path}; this server is strict and accepts only known fields", path)
        else:
            warnings.append(f"the field {path} is unknown and was ignored")
    left = len(warnings) - MAX_WARNINGS
    if left > 0:
        warnings[MAX_WARNINGS:] = [f"{left} more fields were ignored"]
    return warnings


UndeclaredField: TypeAlias = tuple[str, type, str, object]
"""A field's path, the struct that it stands in, its name and its value."""


def _undeclared_fields(raw: object, kind: Any, path: str) -> Iterator[UndeclaredField]:
    if isinstance(raw, list):
        item = _item_type(kind)
        for i, value in enumerate(raw) if item is not None else ():
            if isinstance(value, list | dict):
                yield from _undeclared_fields(value, item, f"{path}[{i}]")
    elif isinstance(raw, dict):
        struct = _struct_for(raw, kind)
        if struct is not None:
            yield from _undeclared_in(raw, struct, path)


def _undeclared_in(raw: dict[str, Any], struct: type[Struct], path: str) -> Iterator[UndeclaredField]:
    hints = _type_hints(struct)
    for name, value in raw.items():
        if name in hints:
            if isinstance(value, list | dict):
                yield from _undeclared_fields(value, hints[name], f"{path}.{name}" if path else name)
        elif name != struct.__struct_config__.tag_field:
            yield f"{path}.{name}" if path else name, struct, name, value


def _is_harmless(struct: type, name: str, value: object, path: str) -> bool:
    fields = other_fields(struct)
    ignored = fields.ignored.get(name, msgspec.UNSET)
    if ignored is ANY or (ignored is not msgspec.UNSET and value in (ignored, None)):
        return True
    harmless_values = fields.refused.get(name)
    if harmless_values is None:
        return False
    if value is not None and value not in harmless_values:
        raise UnsupportedField(f"{path} is not supported here; remove it from the request", path)
    return True


def _struct_for(raw: dict[str, Any], kind: Any) -> type[Struct] | None:
    """The struct of a union that the tag in `raw` names, or the only struct."""
    for struct in _structs(kind):
        config = struct.__struct_config__
        if config.tag_field is None or raw.get(config.tag_field) == config.tag:
            return struct
    return None


@cache
def _type_hints(struct: type[Struct]) -> dict[str, Any]:
    return typing.get_type_hints(struct)


@cache
def _item_type(kind: Any) -> Any:
    """The type of a list's items, or `None` if `kind` is not a list."""
    return next((typing.get_args(k)[0] for k in _alternatives(kind) if typing.get_origin(k) is list), None)


@cache
def _structs(kind: Any) -> tuple[type[Struct], ...]:
    return tuple(k for k in _alternatives(kind) if isinstance(k, type) and issubclass(k, Struct))


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
