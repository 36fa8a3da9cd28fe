"""Turns of a conversation as they are given to a chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..types.messages import Tool, ToolCall

Protect = Callable[[str], str]
"""Prevents a text from becoming control tokens."""

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Turn:
    """A message for a chat template.

    `sources`: the indexes of the messages that its texts come from; none if the turn was put in.
    """

    role: str
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    call_id: str | None = None
    name: str | None = None
    sources: tuple[int, ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether the turn has no text."""
        return not self.content.strip()


def merged(first: Turn, second: Turn) -> Turn:
    """One turn with the texts of both, in the role of the first."""
    return replace(
        first,
        content=_joined(first.content, second.content),
        calls=first.calls + second.calls,
        reasoning=_joined(first.reasoning or "", second.reasoning or "") or None,
        name=first.name or second.name,
        sources=(*first.sources, *second.sources),
    )


def _joined(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))


def written_call(call: ToolCall) -> str:
    """A call as plain text, for a place in which a model's own form of calls is not possible."""
    name = json.dumps(call.name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments}}}\n</tool_call>'


def written_result(content: str) -> str:
    """A tool's result as text in a user's message."""
    return f"<tool_response>\n{content}\n</tool_response>"


def protected(value: Any, protect: Protect) -> Any:
    """A JSON value with all texts in it protected."""
    if isinstance(value, str):
        return protect(value)
    if isinstance(value, list):
        return [protected(item, protect) for item in value]
    if isinstance(value, dict):
        return {protect(key): protected(item, protect) for key, item in value.items()}
    return value


def protected_tool(tool: Tool, protect: Protect) -> Tool:
    description = None if tool.description is None else protect(tool.description)
    return replace(tool, description=description, parameters=protected(tool.parameters, protect))
