"""The runtime's events as those of a streamed response, and the response that they lead to. No I/O, no clock."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator

from ....models.errors import GalagoError
from ...values import CallArguments, CallBegun, Delta, Finished, Said, Thought
from .. import convert as chat
from . import convert, wire

CODE = "server_error"
"""Of a response that could not be made: of the codes that this API has here, the one that fits."""


class ResponseEvents:
    """Turns what one answer says into events, item after item, and writes it into `response` meanwhile."""

    def __init__(self, response: wire.Response) -> None:
        self.response = response
        self._open: wire.OutputItem | None = None

    def begin(self) -> Iterator[wire.StreamEvent]:
        yield wire.Created(self.response)
        yield wire.InProgress(self.response)

    def feed(self, said: Said) -> Iterator[wire.StreamEvent]:
        match said:
            case Delta(text=text, logprobs=tokens) if text or tokens:
                item = yield from self._message()
                part = item.content[0]
                told = chat.logprobs(tokens).content
                part.text += text
                part.logprobs += told
                yield wire.TextDelta(item.id, self._index, text, told)
            case Thought(text):
                thought = yield from self._reasoning()
                thought.content[0].text += text
                yield wire.ReasoningDelta(thought.id, self._index, text)
            case CallBegun(_, call_id, name):
                yield from self._end()
                yield from self._begin(wire.CallItem(new_id("fc"), call_id, name))
            case CallArguments(_, text) if isinstance(self._open, wire.CallItem):
                self._open.arguments += text
                yield wire.ArgumentsDelta(self._open.id, self._index, text)

    def finish(self, end: Finished, now: float) -> Iterator[wire.StreamEvent]:
        """The end of an answer that was made."""
        cut_off = end.reason == "length"
        yield from self._end("incomplete" if cut_off else "completed")
        self.response.usage = convert.usage(end.usage)
        self.response.completed_at = now
        if cut_off:
            self.response.status = "incomplete"
            self.response.incomplete_details = wire.Incomplete("max_output_tokens")
            yield wire.IncompleteEnd(self.response)
        else:
            self.response.status = "completed"
            yield wire.Completed(self.response)

    def fail(self, error: GalagoError) -> Iterator[wire.StreamEvent]:
        """The end of one that could not be made."""
        yield from self._end("incomplete")
        self.response.status = "failed"
        self.response.error = wire.Error(CODE, error.message)
        yield wire.FailedEnd(self.response)

    def cancel(self) -> Iterator[wire.StreamEvent]:
        """The end of one that nobody wants any more."""
        yield from self._end("incomplete")
        self.response.status = "cancelled"
        yield wire.IncompleteEnd(self.response)

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _message(self) -> Generator[wire.StreamEvent, None, wire.MessageItem]:
        """Opens a message, unless one is open, and returns it."""
        if not isinstance(self._open, wire.MessageItem):
            yield from self._end()
            message = wire.MessageItem(new_id("msg"), [])
            yield from self._begin(message)
            return message
        return self._open

    def _reasoning(self) -> Generator[wire.StreamEvent, None, wire.ReasoningItem]:
        if not isinstance(self._open, wire.ReasoningItem):
            yield from self._end()
            thought = wire.ReasoningItem(new_id("rs"), [])
            yield from self._begin(thought)
            return thought
        return self._open

    def _begin(self, item: wire.OutputItem) -> Iterator[wire.StreamEvent]:
        self._open = item
        self.response.output.append(item)
        yield wire.ItemAdded(self._index, item)
        if isinstance(item, wire.MessageItem):
            item.content.append(wire.OutputText("", [], []))
        elif isinstance(item, wire.ReasoningItem):
            item.content.append(wire.ReasoningText(""))
        if not isinstance(item, wire.CallItem):
            yield wire.PartAdded(item.id, self._index, item.content[0])

    def _end(self, status: wire.ItemStatus = "completed") -> Iterator[wire.StreamEvent]:
        item, self._open = self._open, None
        if item is None:
            return
        item.status = status
        match item:
            case wire.CallItem():
                yield wire.ArgumentsDone(item.id, self._index, item.name, item.arguments)
            case wire.MessageItem():
                part = item.content[0]
                yield wire.TextDone(item.id, self._index, part.text, part.logprobs)
                yield wire.PartDone(item.id, self._index, part)
            case wire.ReasoningItem():
                yield wire.ReasoningDone(item.id, self._index, item.content[0].text)
                yield wire.PartDone(item.id, self._index, item.content[0])
        yield wire.ItemDone(self._index, item)


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
