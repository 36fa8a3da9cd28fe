"""Brings requests in the forms of coding agents and proxies into the documented form. Pure: no I/O.

Entered only if a request does not have the documented form.

Coding agents send what only Anthropic's own service can do, and proxies send null, one object for a list, and the like.
Anything that this server cannot do is left out with a warning; strict servers refuse it.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from ...types.warnings import Warnings
from ..http import effort_forms, message_forms, tool_forms
from . import other_blocks, other_tools

_THINKING_TYPES = ("enabled", "adaptive", "disabled")
_ROLES = ("user", "assistant", "system")
_TYPES_BY_ROLE = {
    "system": other_blocks.SYSTEM_TYPES,
    "user": other_blocks.USER_TYPES,
    "assistant": other_blocks.ASSISTANT_TYPES,
}


def adapt(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """A copy of a request in the schema's form. Values that have no known form are left as they are."""
    adapted = dict(raw)
    adapted["messages"] = message_forms.listed(raw.get("messages"), _ROLES, warnings)
    _adapt_tools(adapted, warnings)
    if raw.get("system") is not None:
        adapted["system"] = other_blocks.adapt_content(raw["system"], other_blocks.SYSTEM_TYPES, "system", warnings)
    if isinstance(adapted.get("messages"), list):
        adapted["messages"] = _adapt_messages(adapted["messages"], warnings)
    _adapt_settings(adapted, warnings)
    return adapted


def _adapt_tools(adapted: dict[str, Any], warnings: Warnings) -> None:
    given = tool_forms.listed(adapted.get("tools"), warnings) or []
    if isinstance(adapted.get("messages"), list):
        given, adapted["messages"] = other_tools.change_tools(given, adapted["messages"])
    adapted["tools"], left_out = other_tools.adapt_tools(given, warnings)
    if adapted.get("tool_choice") is not None:
        adapted["tool_choice"] = tool_forms.choice(adapted["tool_choice"], warnings)
    choice = adapted.get("tool_choice")
    if isinstance(choice, str):
        choice = adapted["tool_choice"] = {"type": {"required": "any"}.get(choice, choice)}
    if not left_out or not isinstance(choice, dict):
        return
    is_left_out = choice.get("type") == "tool" and str(choice.get("name")) in left_out
    if is_left_out or choice.get("type") == "any" and not adapted["tools"]:
        problem = "tool_choice requires a tool that is left out"
        warnings.add_unless_strict(problem, "tool_choice", instead="no call is required")
        adapted["tool_choice"] = {"type": "auto"}


def _adapt_messages(messages: list[dict[str, Any]], warnings: Warnings) -> list[Any]:
    adapted = []
    open_ids: list[str] = []  # of calls without a result so far
    for i, message in enumerate(messages):
        message = _as_blocks(message, f"messages[{i}]", warnings)
        content = message["content"]
        if isinstance(content, list):
            content = [_with_id(block, f"toolu_{i}_{j}", open_ids) for j, block in enumerate(content)]
        if isinstance(config := message.get("output_config"), dict):
            message = message | {"output_config": _adapt_output_config(config)}
        adapted.append(message | {"content": content})
    return adapted


def _as_blocks(message: dict[str, Any], path: str, warnings: Warnings) -> dict[str, Any]:
    """The message with blocks that the schema has. Calls and results may be written as in OpenAI's API."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": content}
        role, content = "user", [result]
        message = {name: value for name, value in message.items() if name not in ("tool_call_id", "name")}
    content = other_blocks.adapt_content(content, _TYPES_BY_ROLE[role], f"{path}.content", warnings)
    calls = message_forms.calls(message, path, warnings) if role == "assistant" else []
    if calls:
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        content = [*blocks, *map(_call_block, calls)]
    if role == "assistant":
        message = {name: value for name, value in message.items() if name not in ("tool_calls", "function_call")}
    return message | {"role": role, "content": content}


def _call_block(call: message_forms.CallForm) -> dict[str, Any]:
    given = call.arguments
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _with_id(block: Any, default_id: str, open_ids: list[str]) -> Any:
    """The block with an id if it is a call, or with the id of a call if it is a result: the first that has none yet."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "tool_use":
        given = block.get("input") or {}
        given = given if isinstance(given, dict | list | str) else json.dumps(given)
        block = block | {"id": block.get("id") or default_id, "input": given}
        open_ids.append(str(block["id"]))
    elif kind == "tool_result":
        call_id = block.get("tool_use_id") or (open_ids[0] if open_ids else default_id)
        block = block | {"tool_use_id": call_id}
        if call_id in open_ids:
            open_ids.remove(call_id)
    return block


def _adapt_settings(adapted: dict[str, Any], warnings: Warnings) -> None:
    thinking = adapted.get("thinking")
    is_known = isinstance(thinking, dict) and thinking.get("type") in _THINKING_TYPES
    if not is_known and isinstance(switch := effort_forms.effort_or_switch(thinking), bool):
        thinking = {"type": "enabled" if switch else "disabled"}
    elif isinstance(thinking, str):
        thinking = {"type": thinking}
    adapted["thinking"] = thinking
    if isinstance(thinking, dict) and thinking.get("budget_tokens") is not None:
        text = "thinking.budget_tokens has no effect: thinking is limited by max_tokens"
        warnings.add_unless_strict(text, "thinking.budget_tokens")
        adapted["thinking"] = {name: value for name, value in thinking.items() if name != "budget_tokens"}
    output_format = adapted.pop("output_format", None)
    config = adapted.get("output_config")
    if output_format is not None and (config is None or isinstance(config, dict)):
        config = {"format": output_format} | (config or {})
    if isinstance(config, dict):
        adapted["output_config"] = config = _adapt_output_config(config)
        if config.get("effort") == "none":
            adapted |= {"thinking": {"type": "disabled"}, "output_config": config | {"effort": None}}
    stops = adapted.get("stop_sequences")
    if isinstance(stops, str):
        adapted["stop_sequences"] = [stops]
    elif isinstance(stops, list):
        adapted["stop_sequences"] = [stop for stop in stops if stop is not None]


def _adapt_output_config(config: dict[str, Any]) -> dict[str, Any]:
    effort, output_format = effort_forms.effort(config.get("effort")), config.get("format")
    config = config | {"effort": "low" if effort == "minimal" else effort}
    if isinstance(output_format, dict) and output_format.get("type") == "text":
        config = config | {"format": None}
    return config
