"""Reads calibration samples from files: texts, and chats with images and audio. Runs no model.

A file is UTF-8 text; or JSON lines, each with `text`, or with `messages` as in a question set (`questions.py`), whose
media files are relative to the JSON lines; or a question set (.zip).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ...models.errors import ConfigError, GalagoError
from ...models.regular_file import open_regular
from ...runtime.types.messages import Audio, Image, Message, Part, Text
from ..evaluate import questions

BUILTIN = "Python's manual"


@dataclass(frozen=True, slots=True)
class TextSample:
    """A text that is read from beginning to end."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatSample:
    """Messages in the model's own template. A final answer is read as unfinished."""

    messages: tuple[Message, ...]

    def has(self, media: type[Image] | type[Audio]) -> bool:
        return any(isinstance(part, media) for message in self.messages for part in message.parts)


Sample: TypeAlias = TextSample | ChatSample


def read(files: Sequence[Path]) -> list[Sample]:
    """Returns the samples of files, or without files those of the built-in text. Raises `ConfigError`."""
    return [sample for path in files for sample in _read(path)] if files else [TextSample(builtin_text())]


def builtin_text() -> str:
    """Returns Python's reference manual, English text about a programming language, from the interpreter itself."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def digest(files: Sequence[Path]) -> str:
    """Returns the SHA-256 of the files, without media in other files."""
    total = hashlib.sha256()
    for content in map(_bytes, files) if files else [builtin_text().encode()]:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def _bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _read(path: Path) -> list[Sample]:
    if path.suffix == ".zip":
        return [_from_question(question) for question in questions.read(path)]
    try:
        text = _bytes(path).decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", "data") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start} is invalid", "data") from None
    if path.suffix != ".jsonl":
        return [TextSample(text)]
    lines = enumerate(text.splitlines(), 1)
    return [_from_line(line, path, number) for number, line in lines if line.strip()]


def _from_question(question: questions.Question) -> ChatSample:
    return ChatSample((*question.messages, Message("assistant", (Text(question.answer),))))


def _from_line(line: str, path: Path, number: int) -> Sample:
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
        raise ConfigError(f"the type {kind} is not supported; use text, image or audio")
    data = _bytes(folder / part["file"])
    return Image(data, part["file"]) if kind == "image" else Audio(data, part["file"])
