"""Reads messages, roles and tool calls that are written in other forms than the documented one, for all APIs.

Works on decoded JSON of any shape. Entered only if a request does not have the documented form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...types.warnings import Warnings

_ROLES = {
    "user": ("user", "human"),
    "assistant": ("assistant", "ai", "bot", "chatbot", "agent", "gpt", "model"),
    "system": ("system", "developer", "control", "latest_reminder", "instruction", "instructions"),
    "tool": (
        "tool", "function", "ipython", "observation", "tool_result", "tool_response", "function_response",
        "function_result",
    ),
}  # fmt: skip
"""The roles that all chat templates know, each with its names in other programs and models."""
_SYNONYMS = {word: role for role, words in _ROLES.items() for word in words}
_SAME = ("developer", "function")
"""Documented names of OpenAI's API that mean the same as another one."""
UNNAMED = "function"
"""The name of a function that is called without one."""


def listed(messages: Any, roles: Sequence[str], warnings: Warnings) -> Any:
    """The messages as objects with one of these roles. A value that cannot be a list of messages is left as it is."""
    if isinstance(messages, str | dict):
        kind = "a text" if isinstance(messages, str) else "an object"
        warnings.add_unless_strict(f"messages is {kind}, not a list", "messages", instead="it is read as one message")
        messages = [{"role": "user", "content": messages} if isinstance(messages, str) else messages]
    if not isinstance(messages, list):
        return messages
    read = (_message(message, roles, f"messages[{i}]", warnings) for i, message in enumerate(messages))
    return [message for message in read if message is not None]


def _message(message: Any, roles: Sequence[str], path: str, warnings: Warnings) -> dict[str, Any] | None:
    if message is None:
        warnings.add_unless_strict(f"{path} is null", path, instead="it is left out")
        return None
    if isinstance(message, dict):
        return with_content({**message, "role": nearest_role(message, roles, path, warnings)})
    if isinstance(message, list) and len(message) == 2 and str(message[0]).lower() in _SYNONYMS:  # LangChain's pairs
        return _message({"role": message[0], "content": message[1]}, roles, path, warnings)
    problem = f"{path} is not an object"
    warnings.add_unless_strict(problem, path, instead="it is read as a message of the user")
    return {"role": "user", "content": message if isinstance(message, str | list) else json.dumps(message)}


def with_content(message: dict[str, Any]) -> dict[str, Any]:
    """The message with `content`, if it has `parts` instead, as in Gemini's API and in Vercel's messages."""
    parts = message.get("parts")
    if message.get("content") is not None or not isinstance(parts, list):
        return message
    others = {name: value for name, value in message.items() if name != "parts"}
    return others | {"content": list(map(_part, parts))}


def _part(part: Any) -> Any:
    """A part with its type; Gemini's media have none."""
    data = (part.get("inlineData") or part.get("inline_data")) if isinstance(part, dict) else None
    return {**data, "type": "media"} if isinstance(data, dict) else part


def nearest_role(message: dict[str, Any], roles: Sequence[str], path: str, warnings: Warnings) -> str:
    """The role of a message; if it is none of these, the nearest of them, with a warning."""
    given = message.get("role")
    if isinstance(given, str) and given in roles:
        return given
    word = given.strip().lower() if isinstance(given, str) else ""
    role = word if word in roles else _SYNONYMS.get(word) or _role_by_fields(message)
    if given not in _SAME:
        shown = repr(given) if isinstance(given, str) else json.dumps(given)
        problem = f"{path}.role is {shown:.60}, not {', '.join(roles[:-1])} or {roles[-1]}"
        if given is None:
            problem = f"{path}.role is missing"
        instead = f"{role} is used" if role in roles else "it is read as a tool's result"
        warnings.add_unless_strict(problem, f"{path}.role", instead=instead)
    return role


def _role_by_fields(message: dict[str, Any]) -> str:
    if message.get("tool_calls") or message.get("function_call"):
        return "assistant"
    return "tool" if message.get("tool_call_id") else "user"


class CallForm(NamedTuple):
    """A tool call. `arguments` are as given; `fields` and `function_fields` hold the other fields."""

    id: str | None
    name: str
    arguments: Any
    fields: dict[str, Any]
    function_fields: dict[str, Any]


_CALL_FIELDS = frozenset(("id", "type", "function", "custom", "name", "arguments", "args", "input"))


def calls(message: dict[str, Any], path: str, warnings: Warnings) -> list[CallForm]:
    """The tool calls of a message. Values that are not function calls are left out with a warning."""
    given, old = message.get("tool_calls"), message.get("function_call")
    if not given:
        given = [{"function": old}] if isinstance(old, dict) else []
    if not isinstance(given, list):
        given = [given]
    read = (_call(call, f"{path}.tool_calls[{i}]", warnings) for i, call in enumerate(given))
    return [call for call in read if call is not None]


def _call(call: Any, path: str, warnings: Warnings) -> CallForm | None:
    function = _function(call)
    name = function.get("name")
    arguments = next((function[field] for field in ("arguments", "args", "input") if field in function), None)
    if isinstance(name, int | float) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name:
        if arguments in (None, "", {}):
            warnings.add_unless_strict(f"{path} is not a call of a function", path, instead="it is left out")
            return None
        problem = f"{path} has no name of a function"
        warnings.add_unless_strict(problem, path, instead=f"it is shown as a call of {UNNAMED!r}")
        name = UNNAMED
    call_id = call.get("id")
    return CallForm(
        None if call_id in (None, "") else str(call_id),
        name,
        arguments,
        {field: value for field, value in call.items() if field not in _CALL_FIELDS},
        {field: value for field, value in function.items() if field not in _CALL_FIELDS},
    )


def _function(call: Any) -> dict[str, Any]:
    """The function that is called, in any form; an empty object if there is none."""
    if not isinstance(call, dict):
        return {}
    function, custom = call.get("function"), call.get("custom")
    if isinstance(function, dict):
        return function
    if isinstance(custom, dict):
        return {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}
    flat = {field: call[field] for field in ("name", "arguments", "args", "input") if field in call}
    return {"name": function} | flat if isinstance(function, str) else flat
