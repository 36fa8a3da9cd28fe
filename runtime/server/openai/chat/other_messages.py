"""Brings messages in the forms of other programs' clients into the documented form.

Whatever a client sent stays in the message, or a warning names what is left out. Entered only if a request does not
have the documented form.
"""

from __future__ import annotations

import json
from typing import Any

from ....types.warnings import Warnings
from .other_parts import adapt_parts, is_known_part, text_part


def adapt(messages: list[Any], warnings: Warnings) -> list[Any]:
    """A copy of the messages in the documented form. Calls without an id get one, and results without one the id of
    the first call that has no result yet."""
    open_calls: list[dict[str, Any]] = []
    adapted = []
    for i, message in enumerate(messages):
        if isinstance(message, dict):
            message = _message({**message}, f"messages[{i}]", i, open_calls, warnings)
        adapted.append(message)
    return adapted


def _message(
    message: dict[str, Any], path: str, index: int, open_calls: list[dict[str, Any]], warnings: Warnings
) -> dict[str, Any]:
    if message.get("role") == "function":
        message["role"] = "tool"
    role = message.get("role")
    if not isinstance(message.get("name", ""), str):
        del message["name"]
    message["content"] = _content(message, f"{path}.content", warnings)
    if role == "assistant":
        _set_calls(message, path, index, warnings)
        _set_refusal(message)
        _set_reasoning(message)
        open_calls += message.get("tool_calls") or ()
    elif role == "tool":
        message["tool_call_id"] = _call_id(message, index, open_calls)
    return message


def _content(message: dict[str, Any], path: str, warnings: Warnings) -> Any:
    content, role = message.get("content"), message.get("role")
    if content is None:
        if role not in ("assistant", "tool"):
            warnings.add_unless_strict(f"{path} is missing", path, instead="the message is empty")
        return None if role == "assistant" else ""
    if isinstance(content, dict) and is_known_part(content):
        content = [content]
    if role == "tool" and not isinstance(content, str) and not _are_parts(content):
        return json.dumps(content, ensure_ascii=False)
    return adapt_parts(content, message, path, warnings) if isinstance(content, list) else content


def _are_parts(content: Any) -> bool:
    """Whether a tool's result is a list of content parts, not a list or another value that is the result itself."""
    return isinstance(content, list) and (not content or any(map(is_known_part, content)))


def _set_calls(message: dict[str, Any], path: str, index: int, warnings: Warnings) -> None:
    calls, old = message.get("tool_calls"), message.pop("function_call", None)
    if not calls and isinstance(old, dict):
        calls = [{"function": old}]
    if isinstance(calls, list):
        named = (_call(call, f"call_{index}_{i}", path, i, warnings) for i, call in enumerate(calls))
        message["tool_calls"] = [call for call in named if call is not None]


def _call(call: Any, default_id: str, path: str, index: int, warnings: Warnings) -> Any:
    """The call in the documented form, or `None` for one without a name, which is left out."""
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    custom = call.get("custom")
    if not isinstance(function, dict) and isinstance(custom, dict):
        function = {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}
    elif not isinstance(function, dict) and "name" in call:
        function = {"name": call["name"], "arguments": call.get("arguments", call.get("args", call.get("input")))}
    if not isinstance(function, dict):
        if "type" in call and call["type"] != "function":
            where = f"{path}.tool_calls[{index}]"
            warnings.add_unless_strict(f"{where} is not a call of a function", where, instead="it is left out")
            return None
        return call
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    call_id = call.get("id")
    known = {"index": call.get("index")} | {name: value for name, value in call.items() if name not in _CALL_FIELDS}
    return known | {
        "id": default_id if call_id in (None, "") else str(call_id),
        "type": "function",
        "function": {**function, "arguments": arguments},
    }


_CALL_FIELDS = frozenset(("id", "type", "function", "custom", "name", "arguments", "args", "input"))


def _call_id(message: dict[str, Any], index: int, open_calls: list[dict[str, Any]]) -> str:
    """The id of the call that a tool's message answers, which is then no longer open."""
    given, name = message.get("tool_call_id"), message.get("name")
    calls = [call for call in open_calls if isinstance(call, dict) and isinstance(call.get("function"), dict)]
    if given in (None, ""):
        matching = [call for call in calls if call["function"].get("name") == name] or calls
    else:
        matching = [call for call in calls if call.get("id") == str(given)]
    if matching:
        open_calls.remove(matching[0])
        return str(matching[0]["id"])
    return f"call_{index}" if given in (None, "") else str(given)


def _set_refusal(message: dict[str, Any]) -> None:
    """A refusal is what the assistant said."""
    refusal = message.pop("refusal", None)
    if not refusal or not isinstance(refusal, str):
        return
    content = message.get("content")
    if not content:
        message["content"] = refusal
    elif isinstance(content, str):
        message["content"] = [text_part(content), text_part(refusal)]
    elif isinstance(content, list):
        content.append(text_part(refusal))


def _set_reasoning(message: dict[str, Any]) -> None:
    """Takes the reasoning from LiteLLM's and OpenRouter's fields if it is not in the usual ones."""
    for name in ("reasoning", "reasoning_content", "thinking_blocks", "reasoning_details"):
        if isinstance(message.get(name), str):
            continue
        blocks = message.pop(name, None)
        if isinstance(blocks, list) and not message.get("reasoning_content") and not message.get("reasoning"):
            texts = [block.get("thinking") or block.get("text") for block in blocks if isinstance(block, dict)]
            message["reasoning_content"] = "\n".join(text for text in texts if isinstance(text, str)) or None
