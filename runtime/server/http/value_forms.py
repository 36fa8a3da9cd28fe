"""Reads values that clients write in another form, such as `8.0` or `"8"` for 8, and ignores unreadable settings.

Entered only if a request does not have the documented form.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

from ...types.warnings import Warnings
from .request_io import alternatives, item_type, struct_for, type_hints

T = TypeVar("T")

_NUMBER = re.compile(r"-?(0|[1-9]\d{0,18})(\.\d{1,30})?([eE][+-]?\d{1,3})?")
_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
_MAX_SHOWN = 40
"""Characters of a value that a warning shows."""


def converted_as_meant(raw: dict[str, Any], struct: type[T], warnings: Warnings) -> T:
    """The object as a struct. Reads values in other forms, and ignores settings that cannot be read.

    Raises `InvalidRequest` if it still does not fit.
    """
    from . import field_errors

    try:
        raw = fit(raw, struct, "", warnings)
        while True:
            try:
                return msgspec.convert(raw, struct)
            except msgspec.ValidationError as error:
                problem = field_errors.invalid_field(str(error), raw, struct)
                rest = _without_setting(raw, cast(type[Struct], struct), problem.param or "")
                if rest is None:
                    raise problem from error
                warnings.add_unless_strict(problem.message, problem.param, instead="it is ignored")
                raw = rest
    except RecursionError as error:
        raise field_errors.invalid_field(str(error), raw, struct) from error


def fit(raw: object, kind: Any, path: str, warnings: Warnings) -> Any:
    """A copy of `raw` that fits the type `kind` better; values that fit in no form are left as they are.

    A whole number may be written `8.0`, a word in capitals, and null may stand for a field that has a default: these
    change nothing. A number or boolean that is written as a text is read with a warning, and so is a setting in
    another readable form.
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
        hint, place = hints.get(name), f"{path}.{name}" if path else name
        if hint is None:
            fitted[name] = value
        elif _is_empty(value) and types.NoneType in alternatives(hint) and not _fits(value, hint):
            warnings.add_unless_strict(f"{place} is {json.dumps(value)}", place, instead="it is read as null")
        elif value is not None or name in required or types.NoneType in alternatives(hint):
            given = _fit_setting(value, hint, place, warnings) if name in _settings(struct) else value
            fitted[name] = fit(given, hint, place, warnings)
    return fitted


def _is_empty(value: object) -> bool:
    return value is False or isinstance(value, str | list | dict) and not value


def _settings(struct: type[Struct]) -> frozenset[str]:
    """The fields of a struct that are ignored, with a warning, if their values fit in no form."""
    names: frozenset[str] = getattr(struct, "settings", frozenset())
    return names


def _fit_setting(value: object, kind: Any, path: str, warnings: Warnings) -> object:
    """Reads one value as a list, a number as a text, or a fraction as a whole number."""
    accepted, item = set(alternatives(kind)), item_type(kind)
    if isinstance(value, list):
        given = enumerate(value)
        return value if item is None else [_fit_setting(one, item, f"{path}[{i}]", warnings) for i, one in given]
    if item is not None and isinstance(value, str | int | float) and value != "" and str not in accepted:
        shown = json.dumps(value, ensure_ascii=False)
        warnings.add_unless_strict(f"{path} is {shown[:_MAX_SHOWN]}, not a list", path, instead="it is read as one")
        return [value]
    if type(value) not in (int, float) or float in accepted or isinstance(value, float) and not math.isfinite(value):
        return value
    assert isinstance(value, int | float)
    if int not in accepted and str in accepted:
        warnings.add_unless_strict(f"{path} is {value}, not a text", path, instead="it is read as one")
        return str(value)
    if int in accepted and isinstance(value, float) and not value.is_integer():
        whole = max(int(value), 1) if value > 0 else int(value)
        warnings.add_unless_strict(f"{path} is {value}, not a whole number", path, instead=f"{whole} is used")
        return whole
    return value


def _without_setting(raw: dict[str, Any], struct: type[Struct], path: str) -> dict[str, Any] | None:
    """A copy of an object without the misfits in the setting at a path; `None` if there is no setting at the path."""
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    value = raw.get(name)
    if name in _settings(struct) and name in raw:
        others = {key: one for key, one in raw.items() if key != name}
        kept = _fitting(value, struct, name)
        return others | {name: kept} if kept else others
    inner = struct_for(value, type_hints(struct).get(name)) if isinstance(value, dict) else None
    if inner is None or not isinstance(value, dict):
        return None
    rest = _without_setting(value, inner, path[len(name) + 1 :])
    return None if rest is None else raw | {name: rest}


def _fitting(value: object, struct: type[Struct], name: str) -> object:
    """The values in a list or an object that fit on their own; `None` if all do."""
    kind = next(field.type for field in msgspec.structs.fields(struct) if field.name == name)
    kept: list[object] | dict[str, object]
    if isinstance(value, list):
        kept = [one for one in value if _fits([one], kind)]
    elif isinstance(value, dict):
        kept = {key: one for key, one in value.items() if _fits({key: one}, kind)}
    else:
        return None
    return kept if len(kept) < len(value) else None


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _fit_scalar(raw: str | int, kind: Any, path: str, warnings: Warnings) -> object:
    """Reads a text as a number or boolean, or 0 and 1 as booleans, where the type requires it."""
    accepted = set(alternatives(kind))
    if type(raw) in accepted:
        return raw
    if words := [word for one in accepted if typing.get_origin(one) is typing.Literal for word in typing.get_args(one)]:
        word = raw.strip().lower() if isinstance(raw, str) else raw
        return word if word in words and word != "" else raw
    value: object = raw
    if bool in accepted and (raw in (0, 1) or isinstance(raw, str) and raw.lower() in _FLAGS):
        value = _FLAGS[raw.lower()] if isinstance(raw, str) else bool(raw)
    elif isinstance(raw, str) and accepted & {int, float} and _NUMBER.fullmatch(raw.strip()):
        number = _number(raw.strip(), whole=float not in accepted)
        value = raw if number is None else number
    if value is not raw:
        text = str(value).lower()
        expected = "true or false" if isinstance(value, bool) else "a number"
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
