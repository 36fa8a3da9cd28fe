"""Reads the tools of a request that are declared in other forms than the documented one, for the dialects of all APIs.

Works on decoded JSON of any shape. Entered only if a request does not have the documented form.
"""

from __future__ import annotations

import json
from typing import Any, TypeGuard

from ....models.errors import InvalidRequest
from ...types.warnings import Warnings

_ANY_OBJECT = {"type": "object", "additionalProperties": True}
_MEMBERS = ("type", "name", "function")
"""An object with one of these in the place of a list of tools is a tool itself."""


def listed(tools: Any, warnings: Warnings) -> Any:
    """The list of tools, if there is something else in its place that stands for one; what does not is kept."""
    if tools in ({}, "") or tools is False:
        warnings.add_unless_strict(
            f"tools is {_shown(tools)}, not a list", "tools", instead="it is read as an empty list"
        )
        return []
    if isinstance(tools, dict) and any(member in tools for member in _MEMBERS):
        warnings.add_unless_strict(
            "tools is an object, not a list", "tools", instead="it is read as a list with one tool"
        )
        return [tools]
    return tools


def leave_out(tool: Any, path: str, warnings: Warnings) -> None:
    """Says that a tool is left out because it declares no function that has a name."""
    if not isinstance(tool, dict):
        reason = f"is {_shown(tool)}"
    elif isinstance(tool.get("type"), str) and tool["type"] not in ("function", "custom"):
        reason = f"has the type {tool['type']!r:.60}"
    else:
        reason = f"has {', '.join(tool)[:80] or 'no fields'}"
    warnings.add_unless_strict(f"{path} {reason} and no function with a name", path, instead="it is left out")


def has_name(function: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(function, dict) and isinstance(function.get("name"), str) and bool(function["name"])


def read(function: dict[str, Any], schema_field: str, path: str, warnings: Warnings) -> dict[str, Any]:
    """A copy of a function whose description is a text and whose schema is an object."""
    read = {**function}
    if "description" in read:
        read["description"] = _description(read["description"], f"{path}.description", warnings)
    if schema_field in read:
        is_strict = read.get("strict") is True
        read[schema_field] = _schema(read[schema_field], f"{path}.{schema_field}", is_strict, warnings)
    return read


def _description(given: Any, path: str, warnings: Warnings) -> str | None:
    if given is None or isinstance(given, str):
        return given
    lines = given if isinstance(given, list) else [given] if given else []
    warnings.add_unless_strict(f"{path} is {_shown(given)}, not a text", path, instead="it is read as one")
    return "\n".join(line if isinstance(line, str) else _json(line) for line in lines) or None


def _schema(given: Any, path: str, is_strict: bool, warnings: Warnings) -> dict[str, Any] | None:
    """The schema of a tool's arguments. What is not a schema allows everything, if the tool is not strict."""
    if given is None or isinstance(given, dict):
        return given
    if given == []:  # PHP writes an empty object as a list
        return {}
    if isinstance(given, bool) or given == "":
        meaning = "a schema that allows any arguments" if given is True else "a schema without arguments"
        warnings.add_unless_strict(
            f"{path} is {_shown(given)}, not an object", path, instead=f"it is read as {meaning}"
        )
        return _ANY_OBJECT if given is True else {}
    decoded = _decoded(given) if isinstance(given, str) else given
    if decoded is None or isinstance(decoded, dict):
        warnings.add_unless_strict(f"{path} is a text, not an object", path, instead="the JSON in it is read")
        return decoded
    problem = f"{path} is {_shown(given)}, which is not a JSON schema"
    if is_strict:
        raise InvalidRequest(f"{problem}; a strict tool needs an object", path)
    warnings.add_unless_strict(problem, path, instead="any arguments are allowed")
    return _ANY_OBJECT


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shown(value: Any) -> str:
    return _json(value)[:60]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
