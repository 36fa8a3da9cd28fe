"""The JSON shapes of the events of a streamed response."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from ..chat.schema import TokenLogprob
from .item_schema import OutputItem, OutputText, ReasoningText
from .schema import Response


class ResponseCreated(Struct, tag="response.created"):
    response: Response
    sequence_number: int = 0


class ResponseInProgress(Struct, tag="response.in_progress"):
    response: Response
    sequence_number: int = 0


class ResponseCompleted(Struct, tag="response.completed"):
    response: Response
    sequence_number: int = 0


class ResponseIncomplete(Struct, tag="response.incomplete"):
    response: Response
    sequence_number: int = 0


class ResponseFailed(Struct, tag="response.failed"):
    response: Response
    sequence_number: int = 0


class ItemAdded(Struct, tag="response.output_item.added"):
    output_index: int
    item: OutputItem
    sequence_number: int = 0


class ItemDone(Struct, tag="response.output_item.done"):
    output_index: int
    item: OutputItem
    sequence_number: int = 0


class PartAdded(Struct, tag="response.content_part.added"):
    item_id: str
    output_index: int
    part: OutputText | ReasoningText
    content_index: int = 0
    sequence_number: int = 0


class PartDone(Struct, tag="response.content_part.done"):
    item_id: str
    output_index: int
    part: OutputText | ReasoningText
    content_index: int = 0
    sequence_number: int = 0


class TextDelta(Struct, tag="response.output_text.delta"):
    item_id: str
    output_index: int
    delta: str
    logprobs: list[TokenLogprob]
    content_index: int = 0
    sequence_number: int = 0


class TextDone(Struct, tag="response.output_text.done"):
    item_id: str
    output_index: int
    text: str
    logprobs: list[TokenLogprob]
    content_index: int = 0
    sequence_number: int = 0


class ReasoningTextDelta(Struct, tag="response.reasoning_text.delta"):
    item_id: str
    output_index: int
    delta: str
    content_index: int = 0
    sequence_number: int = 0


class ReasoningTextDone(Struct, tag="response.reasoning_text.done"):
    item_id: str
    output_index: int
    text: str
    content_index: int = 0
    sequence_number: int = 0


class ArgumentsDelta(Struct, tag="response.function_call_arguments.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int = 0


class ArgumentsDone(Struct, tag="response.function_call_arguments.done"):
    item_id: str
    output_index: int
    name: str
    arguments: str
    sequence_number: int = 0


class CustomInputDelta(Struct, tag="response.custom_tool_call_input.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int = 0


class CustomInputDone(Struct, tag="response.custom_tool_call_input.done"):
    item_id: str
    output_index: int
    input: str
    sequence_number: int = 0


StreamEvent: TypeAlias = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextDelta
    | TextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | ArgumentsDelta
    | ArgumentsDone
    | CustomInputDelta
    | CustomInputDone
)
