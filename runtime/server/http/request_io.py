"""Reads requests and runs their work: the body, its fields, worker threads, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import types
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ....models.errors import Cancelled, InvalidRequest, UnsupportedField
from ...types.limits import limit_error
from ...types.warnings import Warnings
from . import json_errors
from .request_context import CURRENT, UNCOUNTED_BYTES
from .warning_log import log_new

T = TypeVar("T")
Cancellation: TypeAlias = Callable[[], bool]
"""Returns whether the client has disconnected."""

encode_json = msgspec.json.Encoder().encode

_UTF8_BOM = b"\xef\xbb\xbf"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""An escape in JSON; `lone` matches half of a surrogate pair without the other half."""
_UNCOUNTED_VALUES, _VALUE_BYTES = 10_000, 100
_MAX_HEADER_CHARACTERS = 4000
"""Length of the header with warnings: some clients read no header of more than 8 KiB."""


async def read_body(request: Request) -> bytearray:
    """The whole body. `decode_object` empties it."""
    encoding = request.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(
            f"the content encoding {encoding!r} is not supported; send the body uncompressed", "Content-Encoding"
        )
    body, context, counted_bytes = bytearray(), CURRENT.get(), 0
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > UNCOUNTED_BYTES and context is not None:
                await context.budget.add_body(context, len(body) - counted_bytes)
                counted_bytes = len(body)
    except ClientDisconnect:
        raise Cancelled("the client disconnected while it sent the request") from None
    return body


async def run_on_thread(
    request: Request, work: Callable[[Cancellation], T], undo: Callable[[T], None] = lambda _result: None
) -> T:
    """Runs `work` on a thread, and passes it a function that returns whether the client has disconnected.

    If the client disconnects first, raises `Cancelled`, and `undo` gets the result when the work is done.
    """
    for _ in range(2):  # lets the loop notice a client that hung up as soon as it had sent the request
        await asyncio.sleep(0)
    if await request.is_disconnected():
        raise Cancelled("the client disconnected")
    disconnected = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, disconnected.is_set))
    count(working)
    try:
        return await unless_disconnected(request, asyncio.shield(working))
    except (asyncio.CancelledError, Cancelled):
        disconnected.set()
        working.add_done_callback(lambda done: _undo(done, undo))
        raise
    finally:
        del working  # its error's traceback has this frame: a cycle that would hold the request's files


def count(working: asyncio.Future[Any]) -> None:
    """Counts the current request as running until the work is done. Then its memory is released, unless kept."""
    context = CURRENT.get()
    if context is None:
        return

    def done(_working: asyncio.Future[Any]) -> None:
        context.threads -= 1
        if context.foreground is not None:
            context.foreground.discard(working)
        if context.held_bytes and not context.threads and (context.has_ended or not context.is_kept):
            context.budget.release(context)

    context.threads += 1
    if context.foreground is not None:
        context.foreground.add(working)
    working.add_done_callback(done)


def _undo(done: asyncio.Future[T], undo: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Awaits `work`; cancels it and raises `Cancelled` if the client disconnects first."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client disconnected")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
        del work, working, watching  # as above


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer_on_thread(
    request: Request, work: Callable[[bytearray, Cancellation], tuple[Struct, list[str]]]
) -> Response:
    """Runs `work` on the body, on a thread; responds with the struct and the warnings that it returns."""
    body = await read_body(request)
    return answer_response(*await run_on_thread(request, partial(work, body)))


def answer_response(answer: Struct, warnings: Sequence[str] = ()) -> Response:
    """The response with a whole answer. A header lists its `warnings`, or those given if it has none."""
    return json_response(answer, warning_headers(getattr(answer, "warnings", None) or warnings))


def json_response(answer: Struct, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode_json(answer), headers=headers, media_type="application/json")


def warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """The warnings as a header, for clients that do not look at the body's `warnings`.

    A stream's header is sent before the model's process has seen the request: its warnings are only in the body.
    """
    if not warnings:
        return {}
    log_new(warnings)
    shown, characters = list[str](), 0
    for text in warnings:
        characters += len(json.dumps(text)) + 2
        if characters > _MAX_HEADER_CHARACTERS:
            shown.append(f"{len(warnings) - len(shown)} more warnings are in the answer's body")
            break
        shown.append(text)
    return {"x-galago-warnings": json.dumps(shown)}


def decode_object(body: bytes | bytearray, warnings: Warnings) -> dict[str, Any]:
    """The JSON object in a request's body. A `bytearray` is emptied: its memory is needed for the values."""
    _count_values(body)
    try:
        raw = _decoded(body[len(_UTF8_BOM) :] if body.startswith(_UTF8_BOM) else body, warnings)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply to be read") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise json_errors.invalid_json(body, error) from error
    if isinstance(body, bytearray):
        body.clear()
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object")
    return raw


def _count_values(body: bytes | bytearray) -> None:
    """Refuses JSON with too many values, which take much more memory than in the body, and counts many values.

    Commas and brackets in texts count as well: no text that a model could read has more of them than the limit.
    """
    if (context := CURRENT.get()) is not None:
        count = body.count(b",") + body.count(b"[") + body.count(b"{")
        if count > context.budget.max_values:
            raise limit_error("json_values", f"the body has {count:,} commas and opening brackets")
        if count > _UNCOUNTED_VALUES:
            context.budget.add(context, count * _VALUE_BYTES)


def _decoded(body: bytes | bytearray, warnings: Warnings) -> Any:
    """The JSON value in a body. Halves of surrogate pairs, where a text was cut inside a character, are replaced."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        repaired, has_lone = body if isinstance(body, bytearray) else bytearray(body), False
        for escape in _ESCAPE.finditer(repaired):
            if escape["lone"]:
                repaired[escape.start() : escape.end()] = b"\\ufffd"
                has_lone = True
        if not has_lone:
            raise
    raw = msgspec.json.decode(repaired)
    warnings.add_unless_strict(
        "a text has half of a surrogate pair, which is not a character", instead="it is replaced by U+FFFD"
    )
    return raw


def convert_object(raw: dict[str, Any], struct: type[T], warnings: Warnings) -> T:
    """The object as a struct; an error names the field at fault. Warns about fields that are not used as given.

    A struct may have `adapt(raw, warnings)`, which converts other clients' forms of the object to the documented one;
    `settings`, fields whose values are ignored with a warning if they cannot be read; and `accepted_values`, which
    list the supported values of tagged fields for error messages.
    """
    adapt: Callable[[dict[str, Any], Warnings], dict[str, Any]] | None = getattr(struct, "adapt", None)
    converted, unused = _converted(raw, struct), _unused_fields(raw, struct)
    if adapt is not None and (converted is None or unused):
        try:
            raw = adapt(raw, warnings)
        except RecursionError:
            raise InvalidRequest("the body is nested too deeply to be read") from None
        converted, unused = _converted(raw, struct), _unused_fields(raw, struct)
    if converted is None:
        from .value_forms import converted_as_meant

        converted = converted_as_meant(raw, struct, warnings)
    _add_unused(unused, warnings)
    return converted


def _converted(raw: dict[str, Any], struct: type[T]) -> T | None:
    try:
        return msgspec.convert(raw, struct)
    except (msgspec.ValidationError, RecursionError):
        return None


def parse_body(body: bytes | bytearray, struct: type[T], strict: bool) -> tuple[T, Warnings]:
    """The request in a body, and warnings about its fields."""
    warnings = no_warnings(strict)
    return convert_object(decode_object(body, warnings), struct, warnings), warnings


def no_warnings(strict: bool) -> Warnings:
    warnings = Warnings()
    warnings.strict = strict
    return warnings


ANY = object()
"""An ignored field may have any value."""


@dataclass(frozen=True, slots=True)
class OtherFields:
    """Fields that clients send and a struct does not declare; structs hold it as `other_fields`.

    The rule: a field that cannot be honored is ignored with a warning, and refused in strict mode. Exceptions:

    - `ignored` maps a field to the values that ask for nothing: one value, a tuple of several, or `ANY`. These, and
      null, are accepted silently.
    - `warned` maps a field to the reason why it changes nothing in any answer: the warning stays one in strict mode.
    - `refused` maps a field to the values that ask for nothing, as `ignored` does; others are always refused, because
      an answer without them is not the one that was asked for.
    - `adapted` maps a field to the declared ones that the struct's `adapt` replaces it by.
    """

    ignored: Mapping[str, object] = field(default_factory=dict)
    warned: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, object] = field(default_factory=dict)
    adapted: Mapping[str, str] = field(default_factory=dict)

    def asks_for_nothing(self, name: str, value: object) -> bool:
        if self.ignored.get(name) is ANY:
            return True
        known = name in self.ignored or name in self.warned or name in self.refused or name in self.adapted
        return known and value in self.harmless_values(name)

    def harmless_values(self, name: str) -> tuple[object, ...]:
        """The values of a field that ask for nothing."""
        given = (fields[name] for fields in (self.ignored, self.refused) if name in fields)
        return (None, *chain.from_iterable(one if isinstance(one, tuple) else (one,) for one in given))


class UndeclaredField(NamedTuple):
    """A field of a request that its struct does not declare."""

    path: str
    struct: type
    name: str
    value: object


_NO_FIELDS = OtherFields()
MAX_WARNINGS = 20
MAX_PATH_CHARACTERS = 200
"""Length of an unknown field's path in a warning or an error."""


def other_fields(struct: type) -> OtherFields:
    fields: OtherFields = getattr(struct, "other_fields", _NO_FIELDS)
    return fields


def _unused_fields(raw: dict[str, Any], struct: type) -> list[UndeclaredField]:
    """The fields that a struct does not declare and that ask for something."""
    return [
        field
        for field in _undeclared_fields(raw, struct, "")
        if not other_fields(field.struct).asks_for_nothing(field.name, field.value)
    ]


def _add_unused(fields: Sequence[UndeclaredField], warnings: Warnings) -> None:
    """Adds at most `MAX_WARNINGS` warnings about fields that are ignored.

    Raises `UnsupportedField` for a refused field and, in strict mode, for all that have an effect elsewhere.
    """
    texts = [_ignored_field(field, warnings.strict) for field in fields]
    left = len(texts) - MAX_WARNINGS
    if left > 0:
        texts[MAX_WARNINGS:] = [f"{left} more fields were ignored"]
    warnings += texts


def _ignored_field(field: UndeclaredField, strict: bool) -> str:
    """The warning about an ignored field. Raises `UnsupportedField` if it must not be ignored."""
    fields, name, path = other_fields(field.struct), field.name, field.path[:MAX_PATH_CHARACTERS]
    reason = fields.warned.get(name)
    if reason is not None:
        return f"the field {path} has no effect here{reason}"
    if name in fields.refused:
        raise UnsupportedField(f"{path} is not supported here; remove it from the request", path)
    kind = "not supported here" if name in fields.ignored else "unknown"
    if strict:
        raise UnsupportedField(f"the field {path} is {kind}; --strict refuses it", path)
    return f"the field {path} is {kind} and was ignored"


def _undeclared_fields(raw: object, kind: Any, path: str) -> Iterator[UndeclaredField]:
    if isinstance(raw, list):
        item = item_type(kind)
        for i, value in enumerate(raw) if item is not None else ():
            if isinstance(value, list | dict):
                yield from _undeclared_fields(value, item, f"{path}[{i}]")
    elif isinstance(raw, dict):
        struct = struct_for(raw, kind)
        if struct is not None:
            yield from _undeclared_in(raw, struct, path)


def _undeclared_in(raw: dict[str, Any], struct: type[Struct], path: str) -> Iterator[UndeclaredField]:
    hints = type_hints(struct)
    for name, value in raw.items():
        if name in hints:
            if isinstance(value, list | dict):
                yield from _undeclared_fields(value, hints[name], f"{path}.{name}" if path else name)
        elif value is not None and name != struct.__struct_config__.tag_field:
            yield UndeclaredField(f"{path}.{name}" if path else name, struct, name, value)


def struct_for(raw: dict[str, Any], kind: Any) -> type[Struct] | None:
    """The struct of a union that the tag in `raw` names, or the only struct."""
    for struct in _structs(kind):
        config = struct.__struct_config__
        if config.tag_field is None or raw.get(config.tag_field) == config.tag:
            return struct
    return None


@cache
def type_hints(struct: type[Struct]) -> dict[str, Any]:
    """The types of a struct's fields, by their names in JSON."""
    hints = typing.get_type_hints(struct)
    return {
        wire: hints[name] for name, wire in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    }


@cache
def item_type(kind: Any) -> Any:
    """The type of a list's items, or `None` if `kind` is not a list."""
    return next((typing.get_args(k)[0] for k in alternatives(kind) if typing.get_origin(k) is list), None)


@cache
def _structs(kind: Any) -> tuple[type[Struct], ...]:
    return tuple(k for k in alternatives(kind) if isinstance(k, type) and issubclass(k, Struct))


def alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
