"""Puts the pieces of an answer together. Knows no tokens and no wire format."""

from __future__ import annotations

from ..types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ..types.messages import ToolCall


class AssembledAnswer:
    """What an answer has said so far."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[tuple[ToolCallStart, list[str]]] = []

    def add(self, said: OutputDelta) -> None:
        match said:
            case Delta(text=text):
                self._said.append(text)
            case ReasoningDelta(text):
                self._thoughts.append(text)
            case ToolCallStart():
                self._calls.append((said, []))
            case ToolCallArguments(index, text):
                self._calls[index][1].append(text)

    @property
    def text(self) -> str:
        return "".join(self._said)

    @property
    def thoughts(self) -> str:
        return "".join(self._thoughts)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Its calls; the arguments of the last one may be cut off."""
        return tuple(ToolCall(begun.id, begun.name, "".join(pieces)) for begun, pieces in self._calls)
