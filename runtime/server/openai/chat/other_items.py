"""Reads the items of the Responses API as chat messages: clients such as Cursor send them to the chat route."""

from __future__ import annotations

from typing import Any

from ...http import shown_values
from .other_parts import text_part

_UNUSED = ("type", "id", "status", "phase")
"""Fields that a message has as an item, but not as a chat message."""


def messages(given: Any) -> Any:
    """Converts the value of `input` to messages. Calls and reasoning join the assistant's message."""
    if isinstance(given, str | dict):
        given = [given]
    if not isinstance(given, list):
        return given
    chat: list[dict[str, Any]] = []
    for item in given:
        if item is not None:
            _add(chat, item if isinstance(item, dict) else {"role": "user", "content": item})
    return chat


def _add(chat: list[dict[str, Any]], item: dict[str, Any]) -> None:
    last = chat[-1] if chat and chat[-1].get("role") == "assistant" else None
    match item.get("type") or ("message" if "role" in item else None):
        case "message":
            message = {name: value for name, value in item.items() if name not in _UNUSED}
            if last and not last.get("content") and not last.get("tool_calls") and message.get("role") == "assistant":
                last.update(message)
            else:
                chat.append(message)
        case "reasoning":
            chat.append({"role": "assistant", "content": None, "reasoning_content": _reasoning(item)})
        case "function_call" | "custom_tool_call" as kind:
            if last is None or not isinstance(last.setdefault("tool_calls", []), list):
                last = {"role": "assistant", "content": None, "tool_calls": []}
                chat.append(last)
            arguments = item.get("arguments") if kind == "function_call" else {"input": item.get("input")}
            last["tool_calls"].append({"id": item.get("call_id"), "name": item.get("name"), "arguments": arguments})
        case "function_call_output" | "custom_tool_call_output":
            chat.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
        case kind:
            chat.append({"role": "user", "content": [text_part(shown_values.as_text(kind, item, _UNUSED))]})


def _reasoning(item: dict[str, Any]) -> str:
    """The text of reasoning, or else its summary."""
    parts = item.get("content") or item.get("summary")
    parts = parts if isinstance(parts, list) else [parts]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))
