"""Brings chat requests in the forms of other programs' clients into the documented form: tools, choices and more.

Entered only if a request does not have the documented form. Messages are in `other_messages`.
"""

from __future__ import annotations

from typing import Any

from ....types.warnings import Warnings
from ...http import effort_forms, tool_forms
from .. import other_forms
from . import other_items, other_messages

_MODES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")


def adapt(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """A copy of a chat request in the documented form. Adds warnings about what is left out or replaced."""
    raw = other_forms.settings(raw, warnings)
    _set_effort(raw, warnings)
    count = raw.get("logprobs")
    if isinstance(count, int) and not isinstance(count, bool):
        read = f"it was read as true, with top_logprobs: {count}"
        warnings.add_unless_strict(f"logprobs is {count}, not true or false", "logprobs", instead=read)
        raw |= {"logprobs": True, "top_logprobs": count}
    _replace_functions(raw, warnings)
    if (tools := tool_forms.listed(raw.get("tools"), warnings)) is not None:
        adapted = (_tool(tool, f"tools[{i}]", warnings) for i, tool in enumerate(tools))
        raw["tools"] = [tool for tool in adapted if tool is not None]
    if raw.get("tool_choice") is not None:
        raw["tool_choice"] = _choice(tool_forms.choice(raw["tool_choice"], warnings), raw.get("tools"))
    if raw.get("messages") is None and raw.get("input") is not None:
        _read_input(raw, warnings)
    if raw.get("messages") is not None:
        raw["messages"] = other_messages.adapt(raw["messages"], warnings)
    return raw


def _set_effort(raw: dict[str, Any], warnings: Warnings) -> None:
    """Replaces the fields by which other programs switch reasoning by `reasoning_effort`."""
    given = {name: raw.pop(name, None) for name in ("reasoning_effort", *effort_forms.REASONING_FIELDS)}
    efforts = {name: effort_forms.effort(value) for name, value in given.items() if value is not None}
    if not efforts:
        return
    field, effort = next(iter(efforts.items()))
    for name, other in efforts.items():
        if other != effort:
            problem = f"{field} and {name} have the same meaning and different values"
            warnings.add_unless_strict(problem, name, instead=f"{field} is used")
        for member in effort_forms.other_members(given[name]):
            warnings.add_unless_strict(f"{name}.{member} has no effect here", f"{name}.{member}")
    raw["reasoning_effort"] = effort
    warnings.caller_fields = {**warnings.caller_fields, "reasoning_effort": field}


def _read_input(raw: dict[str, Any], warnings: Warnings) -> None:
    """Replaces the fields that the Responses API has for the messages and the limit of the answer."""
    problem = "input belongs to /v1/responses"
    warnings.add_unless_strict(problem, "input", instead="it is read as messages, and answered as a chat")
    given, instructions, limit = (raw.pop(name, None) for name in ("input", "instructions", "max_output_tokens"))
    messages = other_items.messages(given)
    if instructions is not None and isinstance(messages, list):
        messages = [{"role": "system", "content": instructions}, *messages]
    raw["messages"] = messages
    if limit is not None and raw.get("max_tokens") is None:
        raw["max_tokens"] = limit


def _replace_functions(raw: dict[str, Any], warnings: Warnings) -> None:
    """Replaces `functions` and `function_call`, which OpenAI had before tools."""
    functions, choice = raw.pop("functions", None), raw.pop("function_call", None)
    if functions and isinstance(functions, list) and not raw.get("tools"):
        problem = "functions is the old form of tools"
        warnings.add_unless_strict(problem, "functions", instead="calls are answered as tool_calls")
        raw["tools"] = [{"type": "function", "function": function} for function in functions]
        if choice is not None and raw.get("tool_choice") is None:
            raw["tool_choice"] = choice


def _tool(tool: Any, path: str, warnings: Warnings) -> Any:
    """The tool in the documented form, or `None` for one that declares no function and is left out."""
    if tool is None:
        warnings.add_unless_strict(f"{path} is null", path, instead="it is left out")
        return None
    if not isinstance(tool, dict):
        tool_forms.leave_out(tool, path, warnings)
        return None
    kind, function = tool.get("type"), tool.get("function")
    if function is None and isinstance(tool.get("name"), str) and kind in (None, "function", "custom"):
        function = {name: tool[name] for name in _FUNCTION_FIELDS if name in tool}
        if "parameters" not in function and "input_schema" in tool:
            function["parameters"] = tool["input_schema"]
        if kind != "custom" or function.get("parameters") is not None:
            return {"type": "function", "function": tool_forms.read(function, "parameters", path, warnings)}
    if tool_forms.has_name(function) and kind in (None, "function"):
        function = tool_forms.read(function, "parameters", f"{path}.function", warnings)
        return {**tool, "type": "function", "function": function}
    if kind == "custom":
        problem = f"{path} has the type 'custom', which only /v1/responses supports"
        warnings.add_unless_strict(problem, path, instead="it is left out")
    elif isinstance(kind, str) and kind != "function":
        problem = f"{path} has the type {kind!r:.60}, which only its own service can run"
        warnings.add_unless_strict(problem, path, instead="it is left out")
    else:
        tool_forms.leave_out(tool, path, warnings)
    return None


def _choice(choice: Any, tools: Any) -> Any:
    if isinstance(choice, str):
        names = [tool["function"].get("name") for tool in tools or () if isinstance(tool, dict) and "function" in tool]
        return _named(choice) if choice in names else _MODES.get(choice, choice)
    if not isinstance(choice, dict):
        return choice
    kind, name = choice.get("type"), choice.get("name")
    if isinstance(kind, str) and kind in _MODES:
        return _MODES[kind]
    if isinstance(name, str) and kind in (None, "function", "tool"):
        return _named(name)
    if isinstance(choice.get("function"), dict) and kind is None:
        return {**choice, "type": "function"}
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        if isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
            named = [_choice(one, None) if isinstance(one, dict) else one for one in allowed["tools"]]
            mode = allowed.get("mode")
            return {
                "type": kind,
                "allowed_tools": {"mode": _MODES.get(mode, mode) if isinstance(mode, str) else "auto", "tools": named},
            }
    return choice


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}
