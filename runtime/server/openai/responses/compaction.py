"""Compacts the earlier items of a conversation into one short item, which a later request sends back.

No model is used: long texts are cut in the middle. The item's `encrypted_content` is not encrypted, since the text
is the client's own. It is the base64 form of the JSON object `{"galago_compaction": 1, "text": "..."}`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from . import item_schema as schema

MAX_TEXT_CHARACTERS = 32_000
"""Length of the text of all items together."""
_MAX_ITEM_CHARACTERS = 2000
_MAX_USER_CHARACTERS = 300
"""Length of a user's message, which the client may keep."""
_MAX_ENCODED_CHARACTERS = 8 * MAX_TEXT_CHARACTERS
_VERSION = 1
_HEADING = "Earlier in this conversation, in short:"


class _Content(Struct):
    galago_compaction: int
    text: str


def is_kept(item: schema.Item | None) -> bool:
    """Whether an item is kept next to a compaction: a message of the system, the developer or the user."""
    return isinstance(item, schema.Message) and item.role != "assistant"


def encoded(items: Sequence[schema.Item | None], *, beside_kept: bool = False) -> str:
    """The text of the items, as the content of a compaction item.

    With `beside_kept`, the kept messages come before it in their order, so that it only says where each of them was.
    """
    lines, kept = [], 0
    for item in items:
        if beside_kept and isinstance(item, schema.Message) and is_kept(item):
            kept += 1
            lines.append(f"{item.role}: [message {kept} above]")
        elif item is not None and (line := _line(item)):
            lines.append(line)
    text = _shortened("\n".join(lines), MAX_TEXT_CHARACTERS)
    return base64.b64encode(msgspec.json.encode(_Content(_VERSION, text))).decode()


def text_of(content: object) -> str | None:
    """The text in a compaction item's content, or `None` if another service wrote it."""
    if not isinstance(content, str) or len(content) > _MAX_ENCODED_CHARACTERS:
        return None
    try:
        decoded = msgspec.json.decode(base64.b64decode(content, validate=True), type=_Content)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return decoded.text if decoded.galago_compaction == _VERSION else None


def shown(content: str) -> str:
    """The text that the model is shown for a compaction item."""
    return f"{_HEADING}\n{text_of(content) or ''}"


def _line(item: schema.Item) -> str:
    match item:
        case schema.Message("assistant", content):
            return f"assistant: {_shortened(_text(content))}"
        case schema.Message(role, content):
            return f"{role}: {_shortened(_text(content), _MAX_USER_CHARACTERS)}"
        case schema.FunctionCall(name=name, arguments=text) | schema.CustomToolCall(name=name, input=text):
            return f"call of {name}: {_shortened(text)}"
        case schema.FunctionCallOutput(output=output) | schema.CustomToolCallOutput(output=output):
            return f"result: {_shortened(_text(output))}"
        case schema.Compaction(content):
            return text_of(content) or ""
    return ""


def _text(content: str | Sequence[schema.InputPart | None]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_part_text(part) for part in content if part is not None)


def _part_text(part: schema.InputPart) -> str:
    match part:
        case schema.InputText(text) | schema.OutputText(text):
            return text
        case schema.Refusal(text):
            return text
        case schema.InputFile(filename=name):
            return f"[file {name or ''}]"
    return "[image]" if isinstance(part, schema.InputImage) else "[audio]"


def _shortened(text: str, limit: int = _MAX_ITEM_CHARACTERS) -> str:
    """A text without its middle, if it is longer than the limit."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end]} [...] {text[-end:]}"
