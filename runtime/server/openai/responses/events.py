"""The runtime's events as those of a streamed response, and the response that they lead to. No I/O, no clock."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator

from .....models.errors import GalagoError
from ....types.events import Delta, Finished, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from .. import convert as chat
from . import convert, schema

CODE = "server_error"
"""Of a response that could not be made: of the codes that this API has here, the one that fits."""


class ResponseEvents:
    """Turns what one answer says into events, item after item, and writes it into `response` meanwhile."""

    def __init__(self, response: schema.Response) -> None:
        self.response = response
        self._open: schema.OutputItem | None = None

    def begin(self) -> Iterator[schema.StreamEvent]:
        yield schema.Created(self.response)
        yield schema.InProgress(self.response)

    def feed(self, said: OutputDelta) -> Iterator[schema.StreamEvent]:
        match said:
            case Delta(text=text, logprobs=tokens) if text or tokens:
                item = yield from self._message()
                part = item.content[0]
                told = chat.logprobs(tokens).content
                part.text += text
                part.logprobs += told
                yield schema.TextDelta(item.id, self._index, text, told)
            case ReasoningDelta(text):
                thought = yield from self._reasoning()
                thought.content[0].text += text
                yield schema.ReasoningTextDelta(thought.id, self._index, text)
            case ToolCallStart(_, call_id, name):
                yield from self._end()
                yield from self._begin(schema.CallItem(new_id("fc"), call_id, name))
            case ToolCallArguments(_, text) if isinstance(self._open, schema.CallItem):
                self._open.arguments += text
                yield schema.ArgumentsDelta(self._open.id, self._index, text)

    def finish(self, end: Finished, now: float) -> Iterator[schema.StreamEvent]:
        """The end of an answer that was made."""
        cut_off = end.reason == "length"
        yield from self._end("incomplete" if cut_off else "completed")
        self.response.usage = convert.usage(end.usage)
        self.response.completed_at = now
        if cut_off:
            self.response.status = "incomplete"
            self.response.incomplete_details = schema.Incomplete("max_output_tokens")
            yield schema.IncompleteEnd(self.response)
        else:
            self.response.status = "completed"
            yield schema.Completed(self.response)

    def fail(self, error: GalagoError) -> Iterator[schema.StreamEvent]:
        """The end of one that could not be made."""
        yield from self._end("incomplete")
        self.response.status = "failed"
        self.response.error = schema.Error(CODE, error.message)
        yield schema.FailedEnd(self.response)

    def cancel(self) -> Iterator[schema.StreamEvent]:
        """The end of one that nobody wants any more."""
        yield from self._end("incomplete")
        self.response.status = "cancelled"
        yield schema.IncompleteEnd(self.response)

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _message(self) -> Generator[schema.StreamEvent, None, schema.MessageItem]:
        """Opens a message, unless one is open, and returns it."""
        if not isinstance(self._open, schema.MessageItem):
            yield from self._end()
            message = schema.MessageItem(new_id("msg"), [])
            yield from self._begin(message)
            return message
        return self._open

    def _reasoning(self) -> Generator[schema.StreamEvent, None, schema.ReasoningItem]:
        if not isinstance(self._open, schema.ReasoningItem):
            yield from self._end()
            thought = schema.ReasoningItem(new_id("rs"), [])
            yield from self._begin(thought)
            return thought
        return self._open

    def _begin(self, item: schema.OutputItem) -> Iterator[schema.StreamEvent]:
        self._open = item
        self.response.output.append(item)
        yield schema.ItemAdded(self._index, item)
        if isinstance(item, schema.MessageItem):
            item.content.append(schema.OutputText("", [], []))
        elif isinstance(item, schema.ReasoningItem):
            item.content.append(schema.ReasoningText(""))
        if not isinstance(item, schema.CallItem):
            yield schema.PartAdded(item.id, self._index, item.content[0])

    def _end(self, status: schema.ItemStatus = "completed") -> Iterator[schema.StreamEvent]:
        item, self._open = self._open, None
        if item is None:
            return
        item.status = status
        match item:
            case schema.CallItem():
                yield schema.ArgumentsDone(item.id, self._index, item.name, item.arguments)
            case schema.MessageItem():
                part = item.content[0]
                yield schema.TextDone(item.id, self._index, part.text, part.logprobs)
                yield schema.PartDone(item.id, self._index, part)
            case schema.ReasoningItem():
                yield schema.ReasoningTextDone(item.id, self._index, item.content[0].text)
                yield schema.PartDone(item.id, self._index, item.content[0])
        yield schema.ItemDone(self._index, item)


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
