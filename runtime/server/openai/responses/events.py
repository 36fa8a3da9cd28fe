"""Converts the runtime's events to those of a streamed response, and builds the response from them. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from msgspec import UNSET

from .....models.errors import GalagoError
from ....types.events import Delta, Finished, OutputDelta, ReasoningDelta, Started, ToolCallArguments, ToolCallStart
from ..chat.convert import logprobs
from . import convert, item_schema, schema, tools
from . import stream_schema as stream

ERROR_CODE = "server_error"
"""The code of a failed response: the only code of this API that fits."""


class ResponseEncoder:
    """Encodes one answer as events, item by item, and writes it into `response` at the same time.

    Events after the response was cancelled change nothing. `clock` returns the time in seconds since 1970.
    """

    def __init__(
        self,
        response: schema.Response,
        warnings: Sequence[str],
        clock: Callable[[], float],
        kept_tools: Iterable[item_schema.Tool] = (),
    ) -> None:
        self.response = response
        self._warnings = warnings
        self._clock = clock
        self._tools = tools.by_name(kept_tools)
        self._open_item: item_schema.OutputItem | None = None
        self._custom_arguments = ""
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

    def whole(self, output: Iterable[item_schema.OutputItem]) -> Iterable[stream.StreamEvent]:
        """The events of a response that is made without a model."""
        return self._numbered(self._whole(output))

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

    def _whole(self, output: Iterable[item_schema.OutputItem]) -> Iterator[stream.StreamEvent]:
        yield from self._start(Started(0))
        for item in output:
            self.response.output.append(item)
            yield stream.ItemAdded(self._index, item)
            yield stream.ItemDone(self._index, item)
        self.response.usage = convert.NO_USAGE
        yield from self._complete()

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
                yield from self._add_item(self._call_item(call_id, name))
            case ToolCallArguments(_, text) if isinstance(self._open_item, item_schema.CallItem):
                self._open_item.arguments += text
                yield stream.ArgumentsDelta(self._open_item.id, self._index, text)
            case ToolCallArguments(_, text):
                self._custom_arguments += text

    def _finish(self, event: Finished) -> Iterator[stream.StreamEvent]:
        cut_off = event.reason == "length"
        yield from self._close_item("incomplete" if cut_off else "completed")
        self.response.usage = convert.usage(event.usage)
        if cut_off:
            self.response.completed_at = int(self._clock())
            self.response.status = "incomplete"
            self.response.incomplete_details = schema.IncompleteDetails("max_output_tokens")
            yield stream.ResponseIncomplete(self.response)
        else:
            yield from self._complete()

    def _complete(self) -> Iterator[stream.StreamEvent]:
        self.response.completed_at = int(self._clock())
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

    def _call_item(self, call_id: str, name: str) -> item_schema.CallItem | item_schema.CustomCallItem:
        """A call of a tool, with the name that the request has for it."""
        tool = self._tools.get(name) or item_schema.Tool("function", name)
        namespace = tool.namespace or UNSET
        if tool.type == "function":
            return item_schema.CallItem(new_id("fc"), call_id, tool.name, namespace=namespace)
        self._custom_arguments = ""
        return item_schema.CustomCallItem(new_id("ctc"), call_id, tool.name, namespace=namespace)

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _open_message(self) -> Generator[stream.StreamEvent, None, item_schema.MessageItem]:
        """Returns the open message item, or adds one."""
        if not isinstance(self._open_item, item_schema.MessageItem):
            yield from self._close_item()
            message = item_schema.MessageItem(new_id("msg"), [])
            yield from self._add_item(message)
            return message
        return self._open_item

    def _open_reasoning(self) -> Generator[stream.StreamEvent, None, item_schema.ReasoningItem]:
        if not isinstance(self._open_item, item_schema.ReasoningItem):
            yield from self._close_item()
            reasoning = item_schema.ReasoningItem(new_id("rs"), [])
            yield from self._add_item(reasoning)
            return reasoning
        return self._open_item

    def _add_item(self, item: item_schema.OutputItem) -> Iterator[stream.StreamEvent]:
        self._open_item = item
        self.response.output.append(item)
        yield stream.ItemAdded(self._index, item)
        if isinstance(item, item_schema.MessageItem):
            item.content.append(item_schema.OutputText("", [], []))
        elif isinstance(item, item_schema.ReasoningItem):
            item.content.append(item_schema.ReasoningText(""))
        if isinstance(item, item_schema.MessageItem | item_schema.ReasoningItem):
            yield stream.PartAdded(item.id, self._index, item.content[0])

    def _close_item(self, status: item_schema.ItemStatus = "completed") -> Iterator[stream.StreamEvent]:
        item, self._open_item = self._open_item, None
        if item is None or isinstance(item, item_schema.CompactionItem):
            return
        item.status = status
        if isinstance(item, item_schema.CustomCallItem):
            item.input = tools.custom_input(self._custom_arguments)
        yield from closing_events(item, self._index)


def closing_events(item: item_schema.OutputItem, index: int) -> Iterator[stream.StreamEvent]:
    """The events with which a whole item ends."""
    match item:
        case item_schema.CallItem():
            yield stream.ArgumentsDone(item.id, index, item.name, item.arguments)
        case item_schema.CustomCallItem():
            yield stream.CustomInputDelta(item.id, index, item.input)
            yield stream.CustomInputDone(item.id, index, item.input)
        case item_schema.MessageItem(content=[text]):
            yield stream.TextDone(item.id, index, text.text, text.logprobs)
            yield stream.PartDone(item.id, index, text)
        case item_schema.ReasoningItem(content=[reasoning]):
            yield stream.ReasoningTextDone(item.id, index, reasoning.text)
            yield stream.PartDone(item.id, index, reasoning)
    yield stream.ItemDone(index, item)


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
