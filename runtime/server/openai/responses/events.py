"""The runtime's events as the events of a streamed response, and the response that they build up. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from msgspec import UNSET

from .....models.errors import GalagoError
from ....types.events import Delta, Finished, OutputDelta, ReasoningDelta, Started, ToolCallArguments, ToolCallStart
from ..chat.convert import logprobs
from . import convert, schema
from . import stream_schema as stream

ERROR_CODE = "server_error"
"""The code of a failed response; the only one of this API's codes that fits."""


class ResponseEncoder:
    """Encodes one answer as events, item by item, and writes it into `response` at the same time.

    After the response was cancelled, later events change nothing. `clock` returns the time in seconds since 1970.
    """

    def __init__(self, response: schema.Response, warnings: Sequence[str], clock: Callable[[], float]) -> None:
        self.response = response
        self._warnings = warnings
        self._clock = clock
        self._open_item: schema.OutputItem | None = None
        self._event_count = 0

    def start(self, index: int, event: Started) -> Iterable[stream.StreamEvent]:
        return self._numbered(self._start(event))

    def delta(self, index: int, event: OutputDelta) -> Iterable[stream.StreamEvent]:
        return self._numbered(self._delta(event))

    def finish(self, index: int, event: Finished) -> Iterable[stream.StreamEvent]:
        return self._numbered(self._finish(event))

    def cancel(self) -> Iterable[stream.StreamEvent]:
        return self._numbered(self._cancel())

    def fail(self, error: GalagoError) -> Iterable[stream.StreamEvent]:
        return self._numbered(self._fail(convert.with_api_field_name(error)))

    def _numbered(self, events: Iterable[stream.StreamEvent]) -> Iterator[stream.StreamEvent]:
        if self.response.status == "cancelled":
            return
        for event in events:
            event.sequence_number = self._event_count
            self._event_count += 1
            yield event

    def _start(self, event: Started) -> Iterator[stream.StreamEvent]:
        self.response.warnings = [*self._warnings, *event.warnings] or UNSET
        yield stream.ResponseCreated(self.response)
        yield stream.ResponseInProgress(self.response)

    def _delta(self, delta: OutputDelta) -> Iterator[stream.StreamEvent]:
        match delta:
            case Delta(text=text, logprobs=tokens) if text or tokens:
                message = yield from self._open_message()
                part = message.content[0]
                token_logprobs = logprobs(tokens).content
                part.text += text
                part.logprobs += token_logprobs
                yield stream.TextDelta(message.id, self._index, text, token_logprobs)
            case ReasoningDelta(text):
                reasoning = yield from self._open_reasoning()
                reasoning.content[0].text += text
                yield stream.ReasoningTextDelta(reasoning.id, self._index, text)
            case ToolCallStart(_, call_id, name):
                yield from self._close_item()
                yield from self._add_item(schema.CallItem(new_id("fc"), call_id, name))
            case ToolCallArguments(_, text) if isinstance(self._open_item, schema.CallItem):
                self._open_item.arguments += text
                yield stream.ArgumentsDelta(self._open_item.id, self._index, text)

    def _finish(self, event: Finished) -> Iterator[stream.StreamEvent]:
        cut_off = event.reason == "length"
        yield from self._close_item("incomplete" if cut_off else "completed")
        self.response.usage = convert.usage(event.usage)
        self.response.completed_at = self._clock()
        if cut_off:
            self.response.status = "incomplete"
            self.response.incomplete_details = schema.IncompleteDetails("max_output_tokens")
            yield stream.ResponseIncomplete(self.response)
        else:
            self.response.status = "completed"
            yield stream.ResponseCompleted(self.response)

    def _fail(self, error: GalagoError) -> Iterator[stream.StreamEvent]:
        yield from self._close_item("incomplete")
        self.response.status = "failed"
        self.response.error = schema.ResponseError(ERROR_CODE, error.message)
        yield stream.ResponseFailed(self.response)

    def _cancel(self) -> Iterator[stream.StreamEvent]:
        yield from self._close_item("incomplete")
        self.response.status = "cancelled"
        yield stream.ResponseIncomplete(self.response)

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _open_message(self) -> Generator[stream.StreamEvent, None, schema.MessageItem]:
        """Returns the open message item, or adds one."""
        if not isinstance(self._open_item, schema.MessageItem):
            yield from self._close_item()
            message = schema.MessageItem(new_id("msg"), [])
            yield from self._add_item(message)
            return message
        return self._open_item

    def _open_reasoning(self) -> Generator[stream.StreamEvent, None, schema.ReasoningItem]:
        if not isinstance(self._open_item, schema.ReasoningItem):
            yield from self._close_item()
            reasoning = schema.ReasoningItem(new_id("rs"), [])
            yield from self._add_item(reasoning)
            return reasoning
        return self._open_item

    def _add_item(self, item: schema.OutputItem) -> Iterator[stream.StreamEvent]:
        self._open_item = item
        self.response.output.append(item)
        yield stream.ItemAdded(self._index, item)
        if isinstance(item, schema.MessageItem):
            item.content.append(schema.OutputText("", [], []))
        elif isinstance(item, schema.ReasoningItem):
            item.content.append(schema.ReasoningText(""))
        if not isinstance(item, schema.CallItem):
            yield stream.PartAdded(item.id, self._index, item.content[0])

    def _close_item(self, status: schema.ItemStatus = "completed") -> Iterator[stream.StreamEvent]:
        item, self._open_item = self._open_item, None
        if item is None:
            return
        item.status = status
        match item:
            case schema.CallItem():
                yield stream.ArgumentsDone(item.id, self._index, item.name, item.arguments)
            case schema.MessageItem():
                part = item.content[0]
                yield stream.TextDone(item.id, self._index, part.text, part.logprobs)
                yield stream.PartDone(item.id, self._index, part)
            case schema.ReasoningItem():
                yield stream.ReasoningTextDone(item.id, self._index, item.content[0].text)
                yield stream.PartDone(item.id, self._index, item.content[0])
        yield stream.ItemDone(self._index, item)


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
