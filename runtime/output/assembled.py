"""Collects the events of one answer into its whole text, reasoning and tool calls."""

from __future__ import annotations

from ..types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ..types.messages import ToolCall


class AssembledAnswer:
    """The answer as far as its events have been added."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallStart, list[str]]] = []

    def add(self, delta: OutputDelta) -> None:
        match delta:
            case Delta(text=text):
                self._text.append(text)
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ToolCallStart():
                self._calls.append((delta, []))
            case ToolCallArguments(index, text):
                self._calls[index][1].append(text)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls. The arguments of the last one may be cut off."""
        return tuple(ToolCall(start.id, start.name, "".join(arguments)) for start, arguments in self._calls)
