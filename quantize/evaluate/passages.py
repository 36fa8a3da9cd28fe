"""What a model's probabilities are compared on: answers to chats, pictures and sounds, and stretches of plain text.

Knows no model: a passage says what is asked and what stands behind it.
"""

from __future__ import annotations

import io
import struct
import wave
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from ...models.errors import ConfigError
from ...runtime.types.messages import Audio, Image, Message, Part
from .loaders import read
from .questions import Question

Sense: TypeAlias = Literal["text", "image", "audio", "both"]
SENSES: tuple[Sense, ...] = ("text", "image", "audio", "both")


LOOKED = 50
"""Questions of each group that are also asked with a blank picture or sound; what they tell differs by much."""


@dataclass(frozen=True, slots=True)
class Passage:
    """`answer` behind a chat, or, where there are no messages, plain text to be cut into stretches of the context.

    `blind` says that it is to be read with blank media as well.
    """

    sense: Sense
    messages: tuple[Message, ...]
    answer: str
    blind: bool = False


def sense_of(messages: Sequence[Message]) -> Sense:
    """What it takes to answer; "both" where there is something to see and something to hear."""
    kinds = {type(part) for message in messages for part in message.parts}
    if Image in kinds:
        return "both" if Audio in kinds else "image"
    return "audio" if Audio in kinds else "text"


def asked(sets: Sequence[Path], most: int) -> list[Question]:
    """The questions of all sets, at most so many of each group; first those that need no projector."""
    questions = [question for path in sets for question in thinned(read(path), most)]
    return sorted(questions, key=lambda question: sense_of(question.messages) != "text")


def of_questions(questions: Sequence[Question]) -> list[Passage]:
    """The right answers to questions; where a call is right, there is none."""
    looked = set(map(id, thinned(questions, LOOKED)))
    return [_of_question(q, id(q) in looked) for q in questions if q.answer]


def _of_question(question: Question, looked: bool) -> Passage:
    sense = sense_of(question.messages)
    return Passage(sense, question.messages, question.answer, looked and sense != "text")


def of_text(path: Path) -> Passage:
    """A text file as one passage. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}", "text") from None
    if not text.strip():
        raise ConfigError(f"{path} holds no text", "text")
    return Passage("text", (), text)


def thinned(questions: Sequence[Question], most: int) -> list[Question]:
    """At most so many questions of each group, evenly from its beginning to its end."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    kept: list[Question] = []
    for group in groups.values():
        count = min(most, len(group))
        kept += [group[i * len(group) // count] for i in range(count)]
    return kept


def blinded(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same chat with a grey picture for each picture, and silence for each sound."""
    return tuple(replace(message, parts=tuple(map(_blank, message.parts))) for message in messages)


def _blank(part: Part) -> Part:
    if isinstance(part, Image):
        return GREY
    return SILENCE if isinstance(part, Audio) else part


def _png(side: int) -> bytes:
    """A grey square (PNG specification, third edition: 8 bits of grey, no filter)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _wav(seconds: int, rate: int = 16000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * rate * seconds))
    return out.getvalue()


GREY, SILENCE = Image(_png(256), "grey picture"), Audio(_wav(2), "silence")


def gather(sets: Sequence[Path], texts: Sequence[Path], most: int) -> list[Passage]:
    """The passages of text files and of question sets, those that need no projector first. Raises `ConfigError`."""
    return [of_text(text) for text in texts] + of_questions(asked(sets, most))
