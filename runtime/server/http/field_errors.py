"""Errors that name a request's field, its value and the values it may have. Entered only if a request is refused."""

from __future__ import annotations

import re
import typing
from functools import cache
from typing import Any, get_args

from ....models.errors import InvalidRequest
from ...types.options import Dialect, bounds
from .request_io import alternatives, item_type, struct_for, type_hints

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_MISSING = re.compile(r"missing required field `(\w+)`")
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `\w+`")
_WRONG_VALUE = re.compile(r"Invalid (?:enum )?value")
_TYPES = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
"""msgspec's names of JSON types, in words."""
_LISTED = frozenset(("messages", "tools", "images"))
"""Fields whose names describe the items of their lists."""
_MAX_SHOWN = 40
_NO_VALUE = object()


def invalid_field(message: str, raw: dict[str, Any], struct: type) -> InvalidRequest:
    """The error for JSON that does not fit its struct, from msgspec's message, with the field's path in the API."""
    where, missing = _PATH.search(message), _MISSING.search(message)
    path = where[1] if where else ""
    text = message[: where.start()] if where else message
    if missing:
        param = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(f"{param} is missing", param)
    if not path:
        return InvalidRequest(text)
    value, kind = _at(path, raw, struct)
    if _WRONG_VALUE.match(text):
        return InvalidRequest(f"{path} is {_shown(value)}; use {_accepted(path, kind, struct)}", path)
    wrong = _WRONG_TYPE.match(text)
    if wrong and any(typing.get_origin(one) is typing.Literal for one in alternatives(kind)):
        return InvalidRequest(f"{path} is {_shown(value)}; use {_accepted(path, kind, struct)}", path)
    if wrong:
        names = wrong[1].split(" | ")
        expected = _expected(path.rpartition(".")[2], names)
        if "[...]" in path:  # msgspec does not say which member it is
            return InvalidRequest(f"{path.replace('[...]', '')}: each value must be {expected}", path)
        given = _shown(value) if {"int", "float", "bool"} & set(names) else _kind_of(value)
        return InvalidRequest(f"{path} is {given}; it must be {expected}", path)
    return InvalidRequest(f"{path} {_beyond_limit(text, value)}", path)


def _beyond_limit(text: str, value: object) -> str:
    """Why a value of the right type is refused."""
    if "matching regex" in text:
        return "is not the data of a file: addresses are not fetched; send the file in base64 or as a data URI"
    if text.endswith("of length >= 1"):
        return "is empty"
    limit = re.fullmatch(r"Expected `(?:int|float)` ([<>]=?) (-?[\d.]+)", text)
    if limit is None:
        return f"is {_shown(value)}, which is not accepted: {text}"
    return f"is {_shown(value)}; it must be a number of at {'least' if '>' in limit[1] else 'most'} {limit[2]}"


def _at(path: str, raw: object, kind: Any) -> tuple[object, Any]:
    """The value at a path of a request, and the type that it should have; `None` for a type that is not known."""
    value = raw
    for index, name in _STEP.findall(path):
        if index:
            value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else _NO_VALUE
            kind = item_type(kind)
        else:
            struct = struct_for(value, kind) if isinstance(value, dict) else None
            kind = None if struct is None else type_hints(struct).get(name)
            value = value.get(name, _NO_VALUE) if isinstance(value, dict) else _NO_VALUE
    return value, kind


def _accepted(path: str, kind: Any, struct: type) -> str:
    """The values that a field may have, in words."""
    listed: dict[str, str] = getattr(struct, "accepted_values", {})
    if (values := next((values for ending, values in listed.items() if path.endswith(ending)), None)) is not None:
        return values
    texts: list[str] = []
    for one in alternatives(kind):
        if typing.get_origin(one) is typing.Literal:
            texts += [text for text in map(str, get_args(one)) if text]
        elif typing.get_origin(one) is dict or hasattr(one, "__struct_fields__"):
            texts.append("an object")
        elif one is bool:
            texts += ["true", "false"]
    return _either(texts) or "another value"


def _expected(name: str, names: list[str]) -> str:
    texts = [_TYPES.get(one, one) for one in names if not (one == "int" and "float" in names)]
    for i, text in enumerate(texts):
        if text == "a list" and name in _LISTED:
            texts[i] = f"a list of {name}"
        elif text in ("a number", "a whole number") and name in (ranges := _ranges()):
            low, high = ranges[name]
            texts[i] += f" from {low} to {high}" if high < 1e9 else f" of at least {low}" if abs(low) < 1e9 else ""
    if len(texts) > 1 and texts[-1] == "null":
        texts.pop()  # null only stands for the default
    return _either(texts)


@cache
def _ranges() -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each number."""
    return {name: limits for dialect in get_args(Dialect) for name, limits in bounds(dialect).items()}


def _either(texts: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))) if texts else ""


def _shown(value: object) -> str:
    """A short value as it is, or the kind of a long one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) or isinstance(value, str) and len(value) <= _MAX_SHOWN:
        return repr(value)[: 2 * _MAX_SHOWN]
    return _kind_of(value)


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case None:
            return "null"
    return "a value of another type"
