"""The tools of a request: which ones the model can call, their names, and how calls are written."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from ....types.messages import Tool
from ....types.warnings import Warnings
from ...http import tool_forms
from . import item_schema as schema

JsonObject: TypeAlias = dict[str, Any]

_INPUT: JsonObject = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The parameters of a custom tool, which takes text."""
_INPUT_START = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_LONGEST_ESCAPE = 12
"""Length of a surrogate pair in JSON."""


def kept(raw_tools: Sequence[Any], warnings: Warnings) -> list[Any]:
    """The tools that the caller runs: functions, also those in namespaces, and custom tools. Warns about the others."""
    tools: list[Any] = []
    for i, raw in enumerate(raw_tools):
        path = f"tools[{i}]"
        if raw is None:
            continue
        if not isinstance(raw, dict):
            tool_forms.leave_out(raw, path, warnings)
            continue
        fields = {name: value for name, value in raw.items() if value is not None}
        kind = fields.get("type", "function")
        if kind == "namespace" and isinstance(fields.get("tools"), list):
            inner = kept([tool for tool in fields["tools"] if isinstance(tool, dict)], warnings)
            tools += [tool | {"namespace": fields.get("name", "")} for tool in inner]
        elif kind in ("function", "custom"):
            nested = fields.get("function") if kind == "function" else None  # as the Chat Completions API writes it
            function = {"type": kind} | (nested if isinstance(nested, dict) else fields)
            if tool_forms.has_name(function):
                tools.append(tool_forms.read(function, "parameters", path, warnings))
            else:
                tool_forms.leave_out(raw, path, warnings)
        else:
            problem = f"the tool {str(kind)[:60]!r} belongs to another service"
            warnings.add_unless_strict(problem, path, instead="it is left out")
    return tools


def choice(raw: Any, any_kept: bool, any_given: bool, warnings: Warnings) -> Any:
    """The `tool_choice` among the tools that were kept; `auto`, with a warning, if it asks for one that was not."""
    if raw is not None and (raw := tool_forms.choice(raw, warnings)) == "any":
        raw = "required"
    if raw == "required" and any_given and not any_kept:
        return _auto("requires a call, but all tools were left out", warnings)
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind in ("auto", "none", "required"):
        return kind
    if kind in ("function", "custom"):
        return _named(raw)
    if kind == "allowed_tools" and isinstance(raw.get("tools"), list):
        allowed = [_named(tool) for tool in raw["tools"] if _is_kept(tool)]
        if raw["tools"] and not allowed:
            return _auto("allows only tools that were left out", warnings)
        if len(allowed) < len(raw["tools"]):
            warnings.add_unless_strict("tool_choice allows tools that were left out", "tool_choice")
        return {"mode": "auto"} | raw | {"tools": allowed}
    if kind is not None and kind != "allowed_tools":
        return _auto(f"names the tool {str(kind)[:60]!r}, which was left out", warnings)
    return raw


def _is_kept(tool: Any) -> bool:
    return not isinstance(tool, dict) or tool.get("type", "function") in ("function", "custom")


def _named(raw: Any) -> Any:
    """A named tool; also as the Chat Completions API writes it."""
    if not isinstance(raw, dict):
        return raw
    function = raw.get("function")
    return (
        {name: value for name, value in raw.items() if name == "name"}
        | ({"name": function.get("name")} if isinstance(function, dict) else {})
        | {"type": "function"}
    )


def _auto(problem: str, warnings: Warnings) -> str:
    warnings.add_unless_strict(f"tool_choice {problem}", "tool_choice", instead="no call is required")
    return "auto"


def full_name(name: str, namespace: str | None) -> str:
    """The name under which the model calls a tool: models have no namespaces."""
    return f"{namespace}__{name}" if namespace else name


def by_name(tools: Iterable[schema.Tool]) -> dict[str, schema.Tool]:
    """The tools by their names for the model."""
    return {full_name(tool.name, tool.namespace): tool for tool in tools}


def chosen_name(name: str, tools: Iterable[schema.Tool]) -> str:
    """The model's name for the tool that `tool_choice` names."""
    matches = [full_name(tool.name, tool.namespace) for tool in tools if tool.name == name]
    return matches[0] if len(matches) == 1 else name


def for_model(tool: schema.Tool, warnings: Warnings) -> Tool:
    """The tool as the runtime knows it; a custom tool is a function with one text."""
    name = full_name(tool.name, tool.namespace)
    if tool.type == "function":
        return Tool(name, tool.description, tool.parameters, tool.strict is True)
    description = tool.description or ""
    if (tool.format or {}).get("type") == "grammar":
        warnings.add_unless_strict(
            f"the grammar of the custom tool {name!r} is not enforced", "tools", instead="the model is shown it"
        )
        description += f"\n\nThe input must match this grammar:\n{(tool.format or {}).get('definition')}"
    return Tool(name, description or None, _INPUT)


def echoed(tool: schema.Tool) -> JsonObject:
    """The tool as the response repeats it."""
    named: JsonObject = {"type": tool.type, "name": tool.name, "description": tool.description}
    if tool.namespace:
        named["namespace"] = tool.namespace
    if tool.type == "custom":
        return named | {"format": tool.format or {"type": "text"}}
    return named | {"parameters": tool.parameters, "strict": tool.strict is True}


def arguments(custom_input: str) -> str:
    """The arguments of a call of a custom tool."""
    return json.dumps({"input": custom_input}, ensure_ascii=False)


def custom_input(call_arguments: str) -> str:
    """The text in the arguments of a call of a custom tool, even if they were cut off."""
    with contextlib.suppress(ValueError):
        value = json.loads(call_arguments, strict=False)
        return str(value.get("input", "")) if isinstance(value, dict) else call_arguments
    start = _INPUT_START.match(call_arguments)
    cut_off = call_arguments[start.end() :] if start else ""
    for length in range(len(cut_off), max(len(cut_off) - _LONGEST_ESCAPE, 0), -1):
        with contextlib.suppress(ValueError):
            return str(json.loads(f'"{cut_off[:length]}"', strict=False))
    return ""
