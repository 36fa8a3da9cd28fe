"""Brings messages in the forms of other programs' clients into the documented form.

Everything that a client sent stays in the message, or a warning says that it is left out. Entered only if a request
does not have the documented form.
"""

from __future__ import annotations

import json
from typing import Any

from ....types.warnings import Warnings
from ...http import message_forms
from ...http.text_forms import as_text
from .other_parts import adapt_parts, is_known_part, text_part

_ROLES = ("system", "developer", "user", "assistant", "tool")


def adapt(messages: Any, warnings: Warnings) -> Any:
    """A copy of the messages in the documented form. Calls without an id get one, and results without one the id of
    the first call that has no result yet."""
    messages = message_forms.listed(messages, _ROLES, warnings)
    if not isinstance(messages, list):
        return messages
    open_calls: list[dict[str, Any]] = []
    return [_message(message, f"messages[{i}]", i, open_calls, warnings) for i, message in enumerate(messages)]


def _message(
    message: dict[str, Any], path: str, index: int, open_calls: list[dict[str, Any]], warnings: Warnings
) -> dict[str, Any]:
    role = message["role"]
    if not isinstance(message.get("name", ""), str):
        del message["name"]
    message["content"] = _content(message, f"{path}.content", warnings)
    if role == "assistant":
        calls = message_forms.calls(message, path, warnings)
        message["tool_calls"] = [_call(call, f"call_{index}_{i}") for i, call in enumerate(calls)]
        message.pop("function_call", None)
        _set_refusal(message)
        _set_reasoning(message)
        open_calls += message["tool_calls"]
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
    if isinstance(content, list):
        return adapt_parts(content, message, path, warnings)
    return as_text(content, path, warnings)


def _are_parts(content: Any) -> bool:
    """Whether a tool's result is a list of content parts, not a list or another value that is the result itself."""
    return isinstance(content, list) and (not content or any(map(is_known_part, content)))


def _call(call: message_forms.CallForm, default_id: str) -> dict[str, Any]:
    arguments = "" if call.arguments is None else call.arguments
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {**call.function_fields, "name": call.name, "arguments": arguments}
    return {**call.fields, "id": call.id or default_id, "type": "function", "function": function}


def _call_id(message: dict[str, Any], index: int, open_calls: list[dict[str, Any]]) -> str:
    """The id of the call that a tool's message answers, which is then no longer open."""
    given, name = message.get("tool_call_id"), message.get("name")
    if given in (None, ""):
        matching = [call for call in open_calls if call["function"]["name"] == name] or open_calls
    else:
        matching = [call for call in open_calls if call["id"] == str(given)]
    if matching:
        call = matching[0]
        open_calls.remove(call)
        return str(call["id"])
    return f"call_{index}" if given in (None, "") else str(given)


def _set_refusal(message: dict[str, Any]) -> None:
    """Uses a refusal as the content of the assistant's message."""
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
