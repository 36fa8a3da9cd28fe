"""Question sets with correct answers, and how many of them a model answers correctly.

A set is a zip archive with `questions.jsonl` and the media files it names. A line holds `group` and `task`, under which
it is counted; `messages`, whose content is a list of `{"type": "text", "text": ...}`, `{"type": "image", "file": ...}`
and `{"type": "audio", "file": ...}`; the correct `answer`; for questions with tools, `tools` as in the OpenAI API, and
`calls`, the correct tool calls, each `{"name": ..., "arguments": {...}}`.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ...models.errors import ConfigError, InvalidRequest
from ...runtime.chat_input import tools
from ...runtime.types.messages import Audio, Image, Message, Part, Text, Tool, ToolCall
from .intervals import wilson

Match: TypeAlias = Literal["exact", "normal", "choice", "words"]

MAX_ANSWER_TOKENS = 128
"""Correct answers are far shorter; a model that fails tends to repeat itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """A chat whose correct reply is `answer` or `calls`.

    `match` says how an answer is compared: "exact" literally; "normal" with any of `accepted`, ignoring case, articles
    and punctuation; "choice" as one letter of `accepted`; "words" by the words alone.
    """

    group: str
    task: str
    messages: tuple[Message, ...]
    answer: str
    tools: tuple[Tool, ...] = ()
    calls: tuple[dict[str, Any], ...] = ()
    accepted: tuple[str, ...] = ()
    match: Match = "exact"

    @property
    def display_text(self) -> str:
        """The last message's text, with media names in brackets."""
        parts = self.messages[-1].parts
        return " ".join(part.text if isinstance(part, Text) else f"[{part.source}]" for part in parts)

    def needs(self, media: type[Image] | type[Audio]) -> bool:
        return any(isinstance(part, media) for message in self.messages for part in message.parts)

    def is_correct(self, answer: str, calls: Sequence[ToolCall] = ()) -> bool:
        """Returns whether the tool calls are the same and the text matches. JSON answers are compared as values."""
        try:
            if [{"name": call.name, "arguments": call.parsed()} for call in calls] != list(self.calls):
                return False
        except InvalidRequest:
            return False
        if self.match == "words":
            return word_errors(self.answer, answer) == 0
        if self.match == "normal":
            return normalize_answer(answer) in map(normalize_answer, self.accepted)
        if answer.strip() == self.answer:
            return True
        try:
            return self.answer.startswith("{") and bool(json.loads(answer) == json.loads(self.answer))
        except json.JSONDecodeError:
            return False


def normalize_answer(text: str) -> str:
    """Removes case, punctuation and articles, as SQuAD and VQA do before comparing answers."""
    words = re.sub(r"[^\w\s]", " ", text.casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def word_errors(reference: str, transcript: str) -> int:
    """Returns the word-level Levenshtein distance of two transcripts, ignoring case and punctuation."""
    expected, actual = _words(reference), _words(transcript)
    row = list(range(len(actual) + 1))
    for i, word in enumerate(expected, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(actual, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


def word_count(text: str) -> int:
    return len(_words(text))


def _words(text: str) -> list[str]:
    return re.sub(r"[^\w\s']", " ", text.casefold()).split()


@dataclass(frozen=True, slots=True)
class Score:
    """The number of correct answers among all."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy."""
        return wilson(self.accuracy, self.total)


GroupScores = dict[str, dict[str, Score]]
"""Scores by group, then by task; the task "" is the whole group."""


def read(path: Path) -> tuple[Question, ...]:
    """Reads a question set. Raises `ConfigError` if the archive is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("questions.jsonl").decode().splitlines()
            return tuple(_question(json.loads(line), archive) for line in lines)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, InvalidRequest) as error:
        raise ConfigError(f"{path.name} is not a question set: {error}") from None


def _question(line: dict[str, Any], archive: zipfile.ZipFile) -> Question:
    messages = tuple(Message(m["role"], tuple(_part(p, archive) for p in m["content"])) for m in line["messages"])
    question_tools, calls = tools(line.get("tools", ())), tuple(line.get("calls", ()))
    return Question(line["group"], line["task"], messages, line["answer"], question_tools, calls)


def _part(part: dict[str, str], archive: zipfile.ZipFile) -> Part:
    if part["type"] == "text":
        return Text(part["text"])
    data = archive.read(part["file"])
    return Image(data, part["file"]) if part["type"] == "image" else Audio(data, part["file"])


def score(answers: Iterable[tuple[str, str, bool]]) -> GroupScores:
    """Counts answers, given as group, task and whether they are correct."""
    counts: dict[str, dict[str, list[bool]]] = {}
    for group, task, correct in answers:
        tasks = counts.setdefault(group, {"": []})
        tasks[""].append(correct)
        tasks.setdefault(task, []).append(correct)
    return {group: {task: Score(sum(c), len(c)) for task, c in tasks.items()} for group, tasks in counts.items()}


def format_scores(groups: Mapping[str, Any]) -> str:
    """Formats what `as_json` returns as a text table."""
    lines = [f"{'':<26}{'correct':>8}{'of':>6}{'accuracy':>10}    95 % interval"]
    for group, whole in groups.items():
        for name, entry in [(group, whole), *((f"  {task}", entry) for task, entry in whole["tasks"].items())]:
            interval = f"{entry['low']:.1%} to {entry['high']:.1%}"
            lines.append(f"{name:<26}{entry['right']:>8}{entry['of']:>6}{entry['accuracy']:>10.1%}    {interval}")
    return "\n".join(lines)


def as_json(scores: GroupScores) -> dict[str, Any]:
    """Returns `right`, `of`, `accuracy`, `low` and `high` by group, and the same for its `tasks`."""
    return {
        group: _entry(tasks[""]) | {"tasks": {task: _entry(score) for task, score in sorted(tasks.items()) if task}}
        for group, tasks in scores.items()
    }


def _entry(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"right": score.correct, "of": score.total, "accuracy": score.accuracy, "low": low, "high": high}
