"""Sets of questions with right answers, and how many of them a model answers rightly. Knows no HTTP.

A set is a zip archive with `questions.jsonl` and the media it names. A line holds `group` and `task`, under which it is
counted; `messages`, whose content is a list of `{"type": "text", "text": ...}`, `{"type": "image", "file": ...}` and
`{"type": "audio", "file": ...}`; the right `answer`; where the question comes with tools, `tools` as in the OpenAI API,
and `calls`, the right ones, each `{"name": ..., "arguments": {...}}`.
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


@dataclass(frozen=True, slots=True)
class Question:
    """A chat that waits for `answer`, or for `calls`.

    `match` says how: "exact" as it stands, "normal" one of `accepted` but for case, articles and punctuation, "choice"
    one letter of `accepted`, "words" with no other words.
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
    def shown(self) -> str:
        """The last message's text, media in brackets."""
        parts = self.messages[-1].parts
        return " ".join(part.text if isinstance(part, Text) else f"[{part.source}]" for part in parts)

    def needs(self, sense: type[Image] | type[Audio]) -> bool:
        return any(isinstance(part, sense) for message in self.messages for part in message.parts)

    def is_right(self, answer: str, calls: Sequence[ToolCall] = ()) -> bool:
        """The same calls, and the same text, spaces around it aside, or the same JSON, where JSON is right."""
        try:
            if [{"name": call.name, "arguments": call.parsed()} for call in calls] != list(self.calls):
                return False
        except InvalidRequest:
            return False
        if self.match == "words":
            return word_errors(self.answer, answer) == 0
        if self.match == "normal":
            return normal(answer) in map(normal, self.accepted)
        if answer.strip() == self.answer:
            return True
        try:
            return self.answer.startswith("{") and bool(json.loads(answer) == json.loads(self.answer))
        except json.JSONDecodeError:
            return False


def normal(text: str) -> str:
    """A text without case, punctuation and articles, as SQuAD and VQA compare answers."""
    words = re.sub(r"[^\w\s]", " ", text.casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def word_errors(right: str, heard: str) -> int:
    """Words to change, leave out or add to make one transcript the other (Levenshtein), case and punctuation aside."""
    here, there = _words(right), _words(heard)
    row = list(range(len(there) + 1))
    for i, word in enumerate(here, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(there, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


def word_count(text: str) -> int:
    return len(_words(text))


def _words(text: str) -> list[str]:
    return re.sub(r"[^\w\s']", " ", text.casefold()).split()


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers among all."""

    right: int
    of: int

    @property
    def share(self) -> float:
        return self.right / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """At 95 %."""
        return wilson(self.share, self.of)


Scores = dict[str, dict[str, Score]]
"""By group, then by task; the task "" stands for all of a group."""

LONGEST_ANSWER = 128
"""Tokens. The right answers are far shorter; a model that has lost its way repeats itself."""


def read(path: Path) -> tuple[Question, ...]:
    """The questions of a set. Raises `ConfigError` where the archive is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("questions.jsonl").decode().splitlines()
            return tuple(_question(json.loads(line), archive) for line in lines)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, InvalidRequest) as error:
        raise ConfigError(f"{path.name} is not a set of questions: {error}") from None


def _question(line: dict[str, Any], archive: zipfile.ZipFile) -> Question:
    messages = tuple(Message(m["role"], tuple(_part(p, archive) for p in m["content"])) for m in line["messages"])
    given, calls = tools(line.get("tools", ())), tuple(line.get("calls", ()))
    return Question(line["group"], line["task"], messages, line["answer"], given, calls)


def _part(part: dict[str, str], archive: zipfile.ZipFile) -> Part:
    if part["type"] == "text":
        return Text(part["text"])
    data = archive.read(part["file"])
    return Image(data, part["file"]) if part["type"] == "image" else Audio(data, part["file"])


def score(answered: Iterable[tuple[str, str, bool]]) -> Scores:
    """Of answers by group and task, each right or not."""
    counts: dict[str, dict[str, list[bool]]] = {}
    for group, task, right in answered:
        tasks = counts.setdefault(group, {"": []})
        tasks[""].append(right)
        tasks.setdefault(task, []).append(right)
    return {group: {task: Score(sum(r), len(r)) for task, r in tasks.items()} for group, tasks in counts.items()}


def table(groups: Mapping[str, Any]) -> str:
    """What `as_json` gives, as lines of text."""
    lines = [f"{'':<26}{'right':>6}{'of':>6}{'share':>9}    95 % interval"]
    for group, all_ in groups.items():
        for name, one in [(group, all_), *((f"  {task}", one) for task, one in all_["tasks"].items())]:
            span = f"{one['low']:.1%} to {one['high']:.1%}"
            lines.append(f"{name:<26}{one['right']:>6}{one['of']:>6}{one['accuracy']:>9.1%}    {span}")
    return "\n".join(lines)


def as_json(scores: Scores) -> dict[str, Any]:
    """By group: `right`, `of`, `accuracy`, `low`, `high`, and the same of its `tasks`."""
    return {
        group: _entry(tasks[""]) | {"tasks": {task: _entry(one) for task, one in sorted(tasks.items()) if task}}
        for group, tasks in scores.items()
    }


def _entry(one: Score) -> dict[str, Any]:
    low, high = one.interval
    return {"right": one.right, "of": one.of, "accuracy": one.share, "low": low, "high": high}
