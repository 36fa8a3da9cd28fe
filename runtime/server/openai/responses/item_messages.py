"""Converts items to the messages that the model is shown. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from ....types.messages import Image, Message, Part, Text, ToolCall
from ..chat import message_parts
from ..chat.message_parts import ReadFile
from . import compaction, tools
from . import item_schema as schema


def messages(items: Sequence[schema.Item | None], path: str, read_file: ReadFile) -> tuple[Message, ...]:
    """The items as messages. Consecutive reasoning, text and tool calls form one assistant's message."""
    return tuple(chain.from_iterable(_turns(items, path, _PartReader(read_file))))


def _turns(items: Sequence[schema.Item | None], path: str, reader: _PartReader) -> Iterator[tuple[Message, ...]]:
    turn = _AssistantTurn()
    for i, item in enumerate(items):
        item_path = f"{path}[{i}]"
        match item:
            case schema.Reasoning(content):
                if content and (turn.parts or turn.calls):
                    yield turn.end()
                turn.reasoning += [part.text for part in content or ()]
            case schema.Message("assistant", content):
                if turn.parts or turn.calls:
                    yield turn.end()
                turn.parts += reader.parts(content, f"{item_path}.content")
            case schema.FunctionCall(call_id, name, arguments, namespace):
                turn.calls.append(ToolCall(call_id, tools.full_name(name, namespace), arguments))
            case schema.CustomToolCall(call_id, name, text, namespace):
                turn.calls.append(ToolCall(call_id, tools.full_name(name, namespace), tools.arguments(text)))
            case schema.FunctionCallOutput(call_id, output) | schema.CustomToolCallOutput(call_id, output):
                yield turn.end()
                yield (Message("tool", reader.parts(output, f"{item_path}.output"), tool_call_id=call_id),)
            case schema.Compaction(encrypted):
                yield turn.end()
                yield (Message("assistant", (Text(compaction.shown(encrypted)),)),)
            case schema.Message(role, content):
                yield turn.end()
                yield (Message(role, reader.parts(content, f"{item_path}.content")),)
    yield turn.end()


class _AssistantTurn:
    """Collects the items of one assistant's message."""

    def __init__(self) -> None:
        self.reasoning: list[str] = []
        self.parts: list[Part] = []
        self.calls: list[ToolCall] = []

    def end(self) -> tuple[Message, ...]:
        """The message, if it is not empty. Starts the next turn."""
        reasoning = "".join(self.reasoning)
        message = Message("assistant", tuple(self.parts), tool_calls=tuple(self.calls), reasoning=reasoning or None)
        self.reasoning, self.parts, self.calls = [], [], []
        return (message,) if message != Message("assistant", ()) else ()


@dataclass(frozen=True)
class _PartReader:
    """Reads the parts of messages, with the bytes of their media."""

    read_file: ReadFile

    def parts(self, content: str | Sequence[schema.InputPart | None], path: str) -> tuple[Part, ...]:
        if isinstance(content, str):
            return (Text(content),) if content else ()
        return tuple(self._part(part, f"{path}[{i}]") for i, part in enumerate(content) if part is not None)

    def _part(self, part: schema.InputPart, path: str) -> Part:
        match part:
            case schema.InputImage():
                return message_parts.readable("picture", path, lambda: self._image(part, path))
            case schema.AudioPart(audio):
                return message_parts.readable(
                    "sound", path, lambda: message_parts.audio_part(audio, path, self.read_file)
                )
            case schema.InputFile():
                return message_parts.readable("file", path, lambda: self._file(part, path))
            case schema.Refusal(text):
                return Text(text)
        return Text(part.text)

    def _image(self, image: schema.InputImage, path: str) -> Part:
        decode = message_parts.from_data_uri
        return Image(
            *message_parts.media_bytes(image.image_url, image.file_id, path, "image_url", decode, self.read_file)
        )

    def _file(self, file: schema.InputFile, path: str) -> Part:
        if file.file_data is None and file.file_id is None:
            name = file.filename or file.file_url or "without a name"
            return message_parts.unfetched_file(f"file {name[: message_parts.MAX_NAME_CHARACTERS]}", path)
        return message_parts.file_part(file.file_data, file.file_id, path, file.filename, self.read_file)
