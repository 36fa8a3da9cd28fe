"""The runtime's events as the events of a streamed message, or as a whole message. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from msgspec import UNSET

from ....models.errors import GalagoError, InvalidRequest
from ...types.events import Delta, Finished, OutputDelta, ReasoningDelta, Started, ToolCallArguments, ToolCallStart
from ...types.messages import ToolCall
from ..http.whole_answers import CollectedAnswer
from . import convert, schema
from .errors import error_response


class MessageEncoder:
    """Encodes one answer as events, block by block, or as a whole message.

    With `prompt_only` the answer is left out: the client only wants the prompt in the cache.
    """

    def __init__(self, message_id: str, model: str, warnings: Sequence[str], prompt_only: bool = False) -> None:
        self._id = message_id
        self._model = model
        self._warnings = warnings
        self._prompt_only = prompt_only
        self._index = -1
        self._open_block: type[schema.ContentBlock] | None = None

    def start(self, index: int, event: Started) -> Iterable[schema.StreamEvent]:
        message = self._message([], schema.Usage(event.prompt_tokens, 0), event.warnings)
        return (schema.MessageStart(message), schema.Ping())

    def delta(self, index: int, event: OutputDelta) -> Iterator[schema.StreamEvent]:
        match event:
            case _ if self._prompt_only:
                pass
            case Delta(text=""):
                pass
            case Delta(text=text):
                yield from self._open(schema.TextBlock(""))
                yield schema.BlockDelta(self._index, schema.TextDelta(text))
            case ReasoningDelta(text):
                yield from self._open(schema.ThinkingBlock(""))
                yield schema.BlockDelta(self._index, schema.ThinkingDelta(text))
            case ToolCallStart(_, call_id, name):
                yield from self._close()
                yield from self._open(schema.ToolUseBlock(call_id, name, {}))
            case ToolCallArguments(_, text):
                yield schema.BlockDelta(self._index, schema.InputDelta(text))

    def finish(self, index: int, event: Finished) -> Iterator[schema.StreamEvent]:
        yield from self._close()
        end = self._end(event)
        yield schema.MessageDelta(convert.message_end(end), convert.usage(end.usage))
        yield schema.MessageStop()

    def cancel(self) -> Iterable[schema.StreamEvent]:
        return ()

    def fail(self, error: GalagoError) -> Iterable[schema.ErrorResponse]:
        return (error_response(error),)

    def message(self, answer: CollectedAnswer) -> schema.Message:
        """The whole message."""
        blocks, warnings = self.blocks(answer.deltas)
        finished = self._end(answer.end)
        message = self._message(blocks, convert.usage(finished.usage), [*answer.warnings, *warnings])
        end = convert.message_end(finished)
        message.stop_reason, message.stop_sequence = end.stop_reason, end.stop_sequence
        return message

    def blocks(self, deltas: Sequence[OutputDelta]) -> tuple[list[schema.ContentBlock], list[str]]:
        """The blocks that the events of these deltas build up, and a warning about a tool call that was cut off."""
        blocks: list[schema.ContentBlock] = []
        arguments: dict[int, str] = {}
        for event in (event for delta in deltas for event in self.delta(0, delta)):
            match event:
                case schema.BlockStart(content_block=block):
                    blocks.append(block)
                case schema.BlockDelta(index, schema.TextDelta(text)) if isinstance(
                    block := blocks[index], schema.TextBlock
                ):
                    block.text += text
                case schema.BlockDelta(index, schema.ThinkingDelta(text)) if isinstance(
                    block := blocks[index], schema.ThinkingBlock
                ):
                    block.thinking += text
                case schema.BlockDelta(index, schema.InputDelta(text)):
                    arguments[index] = arguments.get(index, "") + text
        warnings = []
        for index, block in enumerate(blocks):
            if isinstance(block, schema.ToolUseBlock):
                try:
                    block.input = ToolCall(block.id, block.name, arguments.get(index, "")).parsed()
                except InvalidRequest:
                    warnings.append(f"the tool call of {block.name} was cut off and is left out")
        if warnings:
            blocks.pop()  # only the last one can be cut off
        return blocks, warnings

    def _end(self, event: Finished) -> Finished:
        if not self._prompt_only:
            return event
        return replace(event, reason="length", usage=replace(event.usage, completion_tokens=0, reasoning_tokens=0))

    def _message(
        self, content: list[schema.ContentBlock], usage: schema.Usage, warnings: Sequence[str]
    ) -> schema.Message:
        return schema.Message(self._id, self._model, content, usage, warnings=[*self._warnings, *warnings] or UNSET)

    def _open(self, block: schema.ContentBlock) -> Iterator[schema.StreamEvent]:
        """Starts a block, unless one of its type is open."""
        if self._open_block is not type(block):
            yield from self._close()
            self._index += 1
            self._open_block = type(block)
            yield schema.BlockStart(self._index, block)

    def _close(self) -> Iterator[schema.StreamEvent]:
        if self._open_block is not None:
            self._open_block = None
            yield schema.BlockStop(self._index)
