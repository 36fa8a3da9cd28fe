"""The runtime's events as those of a streamed message, and as the blocks of a whole one. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ....models.errors import InvalidRequest
from ...values import CallArguments, CallBegun, Delta, Finished, Said, Thought, ToolCall
from . import convert, wire


class MessageEvents:
    """Turns what one answer says into the events of a stream: block after block, each started, told and stopped."""

    def __init__(self) -> None:
        self._index = -1
        self._open: type[wire.ContentBlock] | None = None

    def feed(self, said: Said) -> Iterator[wire.StreamEvent]:
        match said:
            case Delta(text=""):
                pass
            case Delta(text=text):
                yield from self._begin(wire.TextBlock(""))
                yield wire.BlockDelta(self._index, wire.TextDelta(text))
            case Thought(text):
                yield from self._begin(wire.ThinkingBlock(""))
                yield wire.BlockDelta(self._index, wire.ThinkingDelta(text))
            case CallBegun(_, call_id, name):
                yield from self._end()
                yield from self._begin(wire.ToolUseBlock(call_id, name, {}))
            case CallArguments(_, text):
                yield wire.BlockDelta(self._index, wire.InputDelta(text))

    def finish(self, end: Finished) -> Iterator[wire.StreamEvent]:
        yield from self._end()
        yield wire.MessageDelta(convert.ending(end), convert.usage(end.usage))
        yield wire.MessageStop()

    def _begin(self, block: wire.ContentBlock) -> Iterator[wire.StreamEvent]:
        """Opens a block, unless one of its kind is open."""
        if self._open is not type(block):
            yield from self._end()
            self._index += 1
            self._open = type(block)
            yield wire.BlockStart(self._index, block)

    def _end(self) -> Iterator[wire.StreamEvent]:
        if self._open is not None:
            self._open = None
            yield wire.BlockStop(self._index)


def blocks(said: Sequence[Said]) -> tuple[list[wire.ContentBlock], list[str]]:
    """The blocks that a whole answer consists of, as they are streamed, and warnings of a call that is left out."""
    found: list[wire.ContentBlock] = []
    arguments: dict[int, str] = {}
    told = MessageEvents()
    for event in (event for piece in said for event in told.feed(piece)):
        match event:
            case wire.BlockStart(content_block=block):
                found.append(block)
            case wire.BlockDelta(index, wire.TextDelta(text)) if isinstance(block := found[index], wire.TextBlock):
                block.text += text
            case wire.BlockDelta(index, wire.ThinkingDelta(text)) if isinstance(
                block := found[index], wire.ThinkingBlock
            ):
                block.thinking += text
            case wire.BlockDelta(index, wire.InputDelta(text)):
                arguments[index] = arguments.get(index, "") + text
    warnings = []
    for index, block in enumerate(found):
        if isinstance(block, wire.ToolUseBlock):
            try:
                block.input = ToolCall(block.id, block.name, arguments.get(index, "")).parsed()
            except InvalidRequest:
                warnings.append(f"the call of {block.name} was cut off, and is left out")
    if warnings:
        found.pop()  # only the last one can be cut off
    return found, warnings
