"""Chats of the same shape as others, with short marks as texts, to see which texts a template shows.

Rounds that repeat are left out, so that long conversations have few shapes and the shapes are short.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..types.messages import Tool, ToolCall
from .turns import Turn

MAX_ROUND = 6
"""The longest round, in turns, that may be left out."""

TOOL_MARKS = ("galago_tool", "GalagoAbout", "galago_argument")
MARKED_TOOL = Tool(
    TOOL_MARKS[0],
    TOOL_MARKS[1],
    {"type": "object", "properties": {TOOL_MARKS[2]: {"type": "string", "description": "x"}}},
)
"""A tool with a unique name, description and argument."""


class TurnShape(NamedTuple):
    """Which texts a turn has. `call`: which of the last calls a result is for, -1 for none of them."""

    role: str
    content: bool
    calls: int
    reasoning: bool
    name: bool
    call: int


@dataclass(frozen=True)
class ChatShape:
    """The shape of a chat. `turns`: for each of its turns the indexes of the turns that have this shape and place."""

    shapes: tuple[TurnShape, ...]
    turns: tuple[tuple[int, ...], ...]


class Mark(NamedTuple):
    """A text that stands for a part of a turn of a shape."""

    turn: int
    part: str
    text: str


def shape_of(turns: Sequence[Turn]) -> ChatShape:
    """The shape of a chat, without rounds that repeat the two rounds before."""
    shapes: list[TurnShape] = []
    represented: list[list[int]] = []
    call_ids: list[str] = []
    for i, turn in enumerate(turns):
        if turn.calls:
            call_ids = [call.id for call in turn.calls]
        call = call_ids.index(turn.call_id) if turn.call_id in call_ids else -1
        shapes.append(
            TurnShape(turn.role, not turn.is_silent, len(turn.calls), bool(turn.reasoning), turn.name is not None, call)
        )
        represented.append([i])
        for length in range(1, MAX_ROUND + 1):
            if shapes[-length:] == shapes[-2 * length : -length] == shapes[-3 * length : -2 * length]:
                for k in range(length):
                    represented[k - 2 * length] += represented[k - length]
                del shapes[-length:], represented[-length:]
                break
    return ChatShape(tuple(shapes), tuple(map(tuple, represented)))


def marked_turns(shapes: Sequence[TurnShape]) -> tuple[list[Turn], list[Mark]]:
    """Turns of these shapes with short unique texts, and these texts."""
    marks: list[Mark] = []
    turns: list[Turn] = []
    last_calls: tuple[ToolCall, ...] = ()

    def mark(part: str) -> str:
        marks.append(Mark(len(turns), part, f"Galago{len(marks)}x"))
        return marks[-1].text

    for i, shape in enumerate(shapes):
        content = mark("content") if shape.content else ""
        reasoning = mark("reasoning") if shape.reasoning else None
        calls = tuple(
            ToolCall(f"call{i:03}{k:02}", mark("call"), json.dumps({mark("call"): mark("call")}))
            for k in range(shape.calls)
        )
        last_calls = calls or last_calls
        call_id = name = None
        if shape.role == "tool":
            call_id = last_calls[shape.call].id if shape.call >= 0 else f"none{i:05}"
            name = last_calls[shape.call].name if shape.call >= 0 else "f"
        elif shape.name:
            name = mark("name")
        turns.append(Turn(shape.role, content, calls, reasoning, call_id, name))
    return turns, marks


def is_shown(text: str, rendered: str) -> bool:
    """Whether a rendered prompt has a text; its lines may have been indented or trimmed."""
    if any(form in rendered for form in _forms(text)):
        return True
    lines = [line.strip() for line in text.splitlines()]
    return all(line in rendered for line in lines if line)


def _forms(text: str) -> Iterator[str]:
    """The forms in which a template may write a text: as it is, without the space around it, or as a JSON string."""
    yield text
    yield text.strip()
    yield json.dumps(text.strip(), ensure_ascii=False)[1:-1]
