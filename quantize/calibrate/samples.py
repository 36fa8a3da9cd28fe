"""What models are calibrated on: texts, and chats with pictures and sounds. Reads files; runs no model.

A file is text in UTF-8; or JSON lines, each with `text` or with `messages` as in a set of questions (`questions.py`),
whose media are files named from where the lines are; or a set of questions (.zip).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError, GalagoError
from ...runtime.types.messages import Audio, Image, Message, Part, Text
from ..evaluate import questions

BUILTIN = "Python's manual"


@dataclass(frozen=True, slots=True)
class TextSample:
    """A text that is read from one end to the other."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatSample:
    """Messages in the model's own template; an answer at the end is read as far as it goes."""

    messages: tuple[Message, ...]

    def needs(self, sense: type[Image] | type[Audio]) -> bool:
        return any(isinstance(part, sense) for message in self.messages for part in message.parts)


Sample = TextSample | ChatSample


def read(files: Sequence[Path]) -> list[Sample]:
    """The samples of files, of the text that comes with Python where there are none. Raises `ConfigError`."""
    return [sample for path in files for sample in _read(path)] if files else [TextSample(builtin_text())]


def builtin_text() -> str:
    """The topics of Python's reference manual, English about a programming language, from the interpreter itself."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of what the samples are read from, media in other files aside."""
    total = hashlib.sha256()
    for content in (path.read_bytes() for path in files) if files else [builtin_text().encode()]:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def _read(path: Path) -> list[Sample]:
    if path.suffix == ".zip":
        return [_question(question) for question in questions.read(path)]
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", "data") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 from byte {error.start} on", "data") from None
    if path.suffix != ".jsonl":
        return [TextSample(text)]
    lines = enumerate(text.splitlines(), 1)
    return [_line(line, path, number) for number, line in lines if line.strip()]


def _question(question: questions.Question) -> ChatSample:
    return ChatSample((*question.messages, Message("assistant", (Text(question.answer),))))


def _line(line: str, path: Path, number: int) -> Sample:
    try:
        row = json.loads(line)
        if "text" in row:
            return TextSample(str(row["text"]))
        return ChatSample(tuple(Message(m["role"], _parts(m["content"], path.parent)) for m in row["messages"]))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, GalagoError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ConfigError(f"{path}, line {number}: {reason}", "data") from None


def _parts(content: Any, folder: Path) -> tuple[Part, ...]:
    return (Text(content),) if isinstance(content, str) else tuple(_part(part, folder) for part in content)


def _part(part: dict[str, str], folder: Path) -> Part:
    kind = part["type"]
    if kind == "text":
        return Text(part["text"])
    if kind not in ("image", "audio"):
        raise ConfigError(f"there is no type {kind}; there are text, image and audio")
    data = (folder / part["file"]).read_bytes()
    return Image(data, part["file"]) if kind == "image" else Audio(data, part["file"])
