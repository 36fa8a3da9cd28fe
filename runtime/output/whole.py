"""Puts the pieces of an answer together. Knows no tokens and no wire format."""

from __future__ import annotations

from ..values import CallArguments, CallBegun, Delta, Said, Thought, ToolCall


class Whole:
    """What an answer has said so far."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[tuple[CallBegun, list[str]]] = []

    def add(self, said: Said) -> None:
        match said:
            case Delta(text=text):
                self._said.append(text)
            case Thought(text):
                self._thoughts.append(text)
            case CallBegun():
                self._calls.append((said, []))
            case CallArguments(index, text):
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
