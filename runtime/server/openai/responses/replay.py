"""The events of a stored response, for clients that stream it again: each text comes in one delta. Pure.

The numbers of the events are always the same, so that a client can go on after any of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from . import item_schema as items
from . import stream_schema as stream
from .events import closing_events
from .schema import Response


def first_events(response: Response) -> Iterator[stream.StreamEvent]:
    """The events with which every response begins."""
    begun = replace(
        response,
        status="in_progress",
        output=[],
        completed_at=None,
        error=None,
        incomplete_details=None,
        usage=None,
    )
    yield stream.ResponseCreated(begun, 0)
    yield stream.ResponseInProgress(begun, 1)


def other_events(response: Response) -> Iterator[stream.StreamEvent]:
    """The events after the first ones, of a response that has ended."""
    for number, event in enumerate(_items_and_end(response), 2):
        event.sequence_number = number
        yield event


def _items_and_end(response: Response) -> Iterator[stream.StreamEvent]:
    for index, item in enumerate(response.output):
        yield from _begin(item, index)
        yield from closing_events(item, index)
    match response.status:
        case "completed":
            yield stream.ResponseCompleted(response)
        case "failed":
            yield stream.ResponseFailed(response)
        case _:
            yield stream.ResponseIncomplete(response)


def _begin(item: items.OutputItem, index: int) -> Iterator[stream.StreamEvent]:
    """The events of an item, up to its whole text."""
    match item:
        case items.MessageItem(content=[part]):
            yield stream.ItemAdded(index, replace(item, content=[], status="in_progress"))
            yield stream.PartAdded(item.id, index, items.OutputText("", [], []))
            yield stream.TextDelta(item.id, index, part.text, part.logprobs)
        case items.ReasoningItem(content=[reasoning]):
            yield stream.ItemAdded(index, replace(item, content=[], status="in_progress"))
            yield stream.PartAdded(item.id, index, items.ReasoningText(""))
            yield stream.ReasoningTextDelta(item.id, index, reasoning.text)
        case items.CallItem():
            yield stream.ItemAdded(index, replace(item, arguments="", status="in_progress"))
            yield stream.ArgumentsDelta(item.id, index, item.arguments)
        case items.CustomCallItem():
            yield stream.ItemAdded(index, replace(item, input="", status="in_progress"))
        case _:
            yield stream.ItemAdded(index, item)
