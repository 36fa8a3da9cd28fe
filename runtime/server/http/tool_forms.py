"""Reads the tools of a request that are declared in other forms than the documented one, for the dialects of all APIs.

Works on decoded JSON of any shape. Entered only if a request does not have the documented form.
"""

from __future__ import annotations

import json
from typing import Any, TypeGuard

from ....models.errors import InvalidRequest
from ...types.warnings import Warnings

_ANY_OBJECT = {"type": "object", "additionalProperties": True}
_MODES = ("auto", "none", "required", "any")
_SCHEMA_FIELDS = ("parameters", "input_schema", "inputSchema")


def listed(tools: Any, warnings: Warnings) -> list[Any] | None:
    """The list of tools, also if another value holds them."""
    if tools is None or isinstance(tools, list):
        return tools
    problem = f"tools is {_shown(tools)}, not a list"
    decoded = _decoded(tools) if isinstance(tools, str) else tools
    if isinstance(decoded, list):
        warnings.add_unless_strict(problem, "tools", instead="the JSON in it is read")
        return decoded
    if isinstance(decoded, dict) and _is_tool(decoded):
        warnings.add_unless_strict(problem, "tools", instead="it is read as a list with one tool")
        return [decoded]
    if isinstance(decoded, dict) and decoded and all(isinstance(one, dict) for one in decoded.values()):
        warnings.add_unless_strict(problem, "tools", instead="it is read as functions by their names")
        return [{"type": "function", "function": _named(name, one)} for name, one in decoded.items()]
    warnings.add_unless_strict(problem, "tools", instead="no tool can be called")
    return []


def _is_tool(given: dict[str, Any]) -> bool:
    return isinstance(given.get("type"), str) or isinstance(given.get("name"), str) or "function" in given


def _named(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A function given by name: as a function, a tool or the schema of its arguments."""
    function = given["function"] if isinstance(given.get("function"), dict) else given
    if "$ref" in function or "properties" in function or function.get("type") == "object":
        function = {"parameters": function}
    schema = next((function[field] for field in _SCHEMA_FIELDS if field in function), None)
    others = {field: value for field, value in function.items() if field not in (*_SCHEMA_FIELDS, "type")}
    return others | {"name": name, "parameters": schema}


def choice(given: Any, warnings: Warnings) -> Any:
    """A `tool_choice`, or `None` for one that chooses nothing."""
    if given not in ({}, [], "", "default") and not isinstance(given, bool | int | float):
        return given.strip().lower() if isinstance(given, str) and given.strip().lower() in _MODES else given
    problem = f"tool_choice is {_shown(given)}, which chooses nothing"
    warnings.add_unless_strict(problem, "tool_choice", instead="the model decides")
    return None


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
    """The schema of a tool's arguments. A value that is not a schema allows anything, unless the tool is strict."""
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
