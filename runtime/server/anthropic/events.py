"""The runtime's events as those of a streamed message, and as the blocks of a whole one. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ....models.errors import InvalidRequest
from ...types.events import Delta, Finished, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ...types.messages import ToolCall
from . import convert, schema


class MessageEvents:
    """Turns what one answer says into the events of a stream: block after block, each started, told and stopped."""

    def __init__(self) -> None:
        self._index = -1
        self._open: type[schema.ContentBlock] | None = None

    def feed(self, said: OutputDelta) -> Iterator[schema.StreamEvent]:
        match said:
            case Delta(text=""):
                pass
            case Delta(text=text):
                yield from self._begin(schema.TextBlock(""))
                yield schema.BlockDelta(self._index, schema.TextDelta(text))
            case ReasoningDelta(text):
                yield from self._begin(schema.ThinkingBlock(""))
                yield schema.BlockDelta(self._index, schema.ThinkingDelta(text))
            case ToolCallStart(_, call_id, name):
                yield from self._end()
                yield from self._begin(schema.ToolUseBlock(call_id, name, {}))
            case ToolCallArguments(_, text):
                yield schema.BlockDelta(self._index, schema.InputDelta(text))

    def finish(self, end: Finished) -> Iterator[schema.StreamEvent]:
        yield from self._end()
        yield schema.MessageDelta(convert.ending(end), convert.usage(end.usage))
        yield schema.MessageStop()

    def _begin(self, block: schema.ContentBlock) -> Iterator[schema.StreamEvent]:
        """Opens a block, unless one of its kind is open."""
        if self._open is not type(block):
            yield from self._end()
            self._index += 1
            self._open = type(block)
            yield schema.BlockStart(self._index, block)

    def _end(self) -> Iterator[schema.StreamEvent]:
        if self._open is not None:
            self._open = None
            yield schema.BlockStop(self._index)


def blocks(said: Sequence[OutputDelta]) -> tuple[list[schema.ContentBlock], list[str]]:
    """The blocks that a whole answer consists of, as they are streamed, and warnings of a call that is left out."""
    found: list[schema.ContentBlock] = []
    arguments: dict[int, str] = {}
    told = MessageEvents()
    for event in (event for piece in said for event in told.feed(piece)):
        match event:
            case schema.BlockStart(content_block=block):
                found.append(block)
            case schema.BlockDelta(index, schema.TextDelta(text)) if isinstance(
                block := found[index], schema.TextBlock
            ):
                block.text += text
            case schema.BlockDelta(index, schema.ThinkingDelta(text)) if isinstance(
                block := found[index], schema.ThinkingBlock
            ):
                block.thinking += text
            case schema.BlockDelta(index, schema.InputDelta(text)):
                arguments[index] = arguments.get(index, "") + text
    warnings = []
    for index, block in enumerate(found):
        if isinstance(block, schema.ToolUseBlock):
            try:
                block.input = ToolCall(block.id, block.name, arguments.get(index, "")).parsed()
            except InvalidRequest:
                warnings.append(f"the call of {block.name} was cut off, and is left out")
    if warnings:
        found.pop()  # only the last one can be cut off
    return found, warnings
