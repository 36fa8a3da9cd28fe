"""The passages on which token probabilities are compared: answers to questions, and windows of plain text.

A passage is what the model reads and the answer that follows. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from ...models.errors import ConfigError
from ...runtime.media.blank import gray_image, silence
from ...runtime.types.messages import Audio, Image, Message, Part
from .question_loaders import read
from .questions import Question

Modality: TypeAlias = Literal["text", "image", "audio", "both"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio", "both")

GRAY_IMAGE, SILENCE = gray_image(), silence()

MEDIA_GAIN_QUESTIONS = 50
"""Questions of each group that are also asked with blank media. What media contribute varies widely by question."""


@dataclass(frozen=True, slots=True)
class Passage:
    """An `answer` to a chat, or, without messages, plain text to be cut into windows.

    `with_blank_media` says that it is also read with blank images and silent audio.
    """

    modality: Modality
    messages: tuple[Message, ...]
    answer: str
    with_blank_media: bool = False


def modality_of(messages: Sequence[Message]) -> Modality:
    """Returns which media the messages contain; "both" if they contain images and audio."""
    kinds = {type(part) for message in messages for part in message.parts}
    if Image in kinds:
        return "both" if Audio in kinds else "image"
    return "audio" if Audio in kinds else "text"


def select_questions(sets: Sequence[Path], limit: int) -> list[Question]:
    """Returns the questions of all sets, at most `limit` of each group, text-only questions first."""
    questions = [question for path in sets for question in sample_evenly(read(path), limit)]
    return sorted(questions, key=lambda question: modality_of(question.messages) != "text")


def from_questions(questions: Sequence[Question]) -> list[Passage]:
    """Returns the correct answers as passages. Questions whose correct answer is a tool call have none."""
    with_blank = set(map(id, sample_evenly(questions, MEDIA_GAIN_QUESTIONS)))
    return [_from_question(question, id(question) in with_blank) for question in questions if question.answer]


def _from_question(question: Question, with_blank: bool) -> Passage:
    modality = modality_of(question.messages)
    return Passage(modality, question.messages, question.answer, with_blank and modality != "text")


def from_text(path: Path) -> Passage:
    """Reads a text file as one passage. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}", "text") from None
    if not text.strip():
        raise ConfigError(f"{path} contains no text", "text")
    return Passage("text", (), text)


def sample_evenly(questions: Sequence[Question], limit: int) -> list[Question]:
    """Returns at most `limit` questions of each group, evenly spaced from its beginning to its end."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    sampled: list[Question] = []
    for group in groups.values():
        count = min(limit, len(group))
        sampled += [group[i * len(group) // count] for i in range(count)]
    return sampled


def blank_media(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Returns the messages with every image replaced by a gray one and every audio clip by silence."""
    return tuple(replace(message, parts=tuple(map(_blank, message.parts))) for message in messages)


def _blank(part: Part) -> Part:
    if isinstance(part, Image):
        return GRAY_IMAGE
    return SILENCE if isinstance(part, Audio) else part


def collect_passages(sets: Sequence[Path], texts: Sequence[Path], limit: int) -> list[Passage]:
    """Returns the passages of text files and question sets, text-only ones first. Raises `ConfigError`."""
    return [from_text(text) for text in texts] + from_questions(select_questions(sets, limit))
