"""Brings values that clients write in another form, such as `8.0` or `"8"` for 8, into the form of a struct's field.

Entered only if a request does not have the documented form.
"""

from __future__ import annotations

import math
import re
import types
import typing
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from ...types.warnings import Warnings
from .request_io import alternatives, item_type, struct_for, type_hints

_NUMBER = re.compile(r"-?(0|[1-9]\d{0,18})(\.\d{1,30})?([eE][+-]?\d{1,3})?")
_FLAGS = {"true": True, "false": False}
_MAX_SHOWN = 40
"""Characters of a value that a warning shows."""


def fit(raw: object, kind: Any, path: str, warnings: Warnings) -> Any:
    """A copy of `raw` that fits the type `kind` better; what does not fit in any form is left as it is.

    A whole number may be written `8.0`, and null may stand for a field that has a default: neither changes anything. A
    number or a truth value that is written as a text is read, with a warning.
    """
    if isinstance(raw, list):
        item = item_type(kind)
        return raw if item is None else [fit(value, item, f"{path}[{i}]", warnings) for i, value in enumerate(raw)]
    if isinstance(raw, dict):
        return _fit_object(raw, kind, path, warnings)
    if isinstance(raw, float):
        return int(raw) if raw.is_integer() and {int, float} & set(alternatives(kind)) == {int} else raw
    if isinstance(raw, str | int):
        return _fit_scalar(raw, kind, path, warnings)
    return raw


def _fit_object(raw: dict[str, Any], kind: Any, path: str, warnings: Warnings) -> dict[str, Any]:
    struct = struct_for(raw, kind)
    if struct is None:
        value_type = _value_type(kind)
        if value_type is None:
            return raw
        return {name: fit(value, value_type, f"{path}.{name}", warnings) for name, value in raw.items()}
    hints, required = type_hints(struct), _required_fields(struct)
    fitted = {}
    for name, value in raw.items():
        hint = hints.get(name)
        if hint is None:
            fitted[name] = value
        elif value is not None or name in required or types.NoneType in alternatives(hint):
            fitted[name] = fit(value, hint, f"{path}.{name}" if path else name, warnings)
    return fitted


def _fit_scalar(raw: str | int, kind: Any, path: str, warnings: Warnings) -> object:
    """A number or a truth value for a text, or a truth value for 0 or 1, where the type has no such values."""
    accepted = set(alternatives(kind))
    if type(raw) in accepted or any(typing.get_origin(one) is typing.Literal for one in accepted):
        return raw
    value: object = raw
    if bool in accepted and (raw in (0, 1) or isinstance(raw, str) and raw.lower() in _FLAGS):
        value = _FLAGS[raw.lower()] if isinstance(raw, str) else bool(raw)
    elif isinstance(raw, str) and accepted & {int, float} and _NUMBER.fullmatch(raw.strip()):
        number = _number(raw.strip(), whole=float not in accepted)
        value = raw if number is None else number
    elif raw == "" and accepted & {int, float, bool} and types.NoneType in accepted:
        value = None
    if value is not raw:
        text = "null" if value is None else str(value).lower()
        expected = "true or false" if isinstance(value, bool) else "null" if value is None else "a number"
        given = f"the text {raw!r:.{_MAX_SHOWN}}" if isinstance(raw, str) else raw
        warnings.add_unless_strict(f"{path} is {given}, not {expected}", path, instead=f"it was read as {text}")
    return value


def _number(text: str, whole: bool) -> int | float | None:
    """The number that a text writes; `None` if it is too large, or if it must be whole and is not."""
    if text.lstrip("-").isdecimal():
        return int(text)
    number = float(text)
    if not math.isfinite(number) or whole and not number.is_integer():
        return None
    return int(number) if whole else number


@cache
def _required_fields(struct: type[Struct]) -> frozenset[str]:
    return frozenset(field.name for field in msgspec.structs.fields(struct) if field.required)


@cache
def _value_type(kind: Any) -> Any:
    """The type of a mapping's values, or `None` if `kind` is not a mapping with a type of its own."""
    value_type = next((typing.get_args(k)[1] for k in alternatives(kind) if typing.get_origin(k) is dict), None)
    return None if value_type is Any else value_type
