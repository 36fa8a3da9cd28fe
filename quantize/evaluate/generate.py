"""Questions answered by a loaded model, and what the answers are worth. Knows no probabilities and no files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...models.errors import InvalidRequest
from ...runtime.python_api import LocalModel
from ...runtime.types.messages import Audio, Image, ToolCall
from ...runtime.types.request import Request, Sampling
from ..records import Record
from .intervals import change_interval, ratio_interval
from .passages import sense_of
from .questions import LONGEST_ANSWER, Question, Score, normal, word_count, word_errors

_REPEAT = re.compile(r"((.{1,40}?)\2{3,}).{0,40}\Z", re.DOTALL)
_SHORTEST_REPEAT = 24


def answerable(questions: Sequence[Question], vision: bool, audio: bool) -> list[Question]:
    """Those that need no sense the model lacks."""
    return [q for q in questions if (vision or not q.needs(Image)) and (audio or not q.needs(Audio))]


def answers(model: LocalModel, questions: Sequence[Question], strict: bool = True) -> Iterator[Record]:
    """A record of each, in their order: `sense`, `group`, `task`, `right`, `empty`, `repeats`, and the answer's `text`;
    of a transcript also its `words` and `word_errors`, and where JSON or a call is due, whether there is one (`valid`).

    Each is asked alone, since what is computed beside it would change an answer's last digits, and answered with the
    likeliest tokens. Raises `InvalidRequest` for one that the model cannot take if `strict`, else it counts as wrong.
    """
    for question in questions:
        try:
            yield _ask(model, question)
        except InvalidRequest:
            if strict:
                raise
            yield _record(question, "", ()) | {"right": False, "empty": False}


def _ask(model: LocalModel, question: Question) -> Record:
    choice = "|".join(question.accepted) if question.match == "choice" else None  # the likeliest of these letters
    request = Request(
        question.messages,
        Sampling(temperature=0),
        max_tokens=LONGEST_ANSWER,
        tools=question.tools,
        cache=False,
        regex=choice,
    )
    with model.stream(request) as answer:
        text = "".join(answer)
        return _record(question, text, answer.reply.calls)


def _record(question: Question, text: str, calls: Sequence[ToolCall]) -> Record:
    record: Record = {
        "sense": sense_of(question.messages),
        "group": question.group,
        "task": question.task,
        "right": question.is_right(text, calls),
        "empty": not text.strip() and not calls,
        "repeats": repeats(text),
        "text": text,
    }
    if question.match == "words":
        record |= {"words": word_count(question.answer), "word_errors": word_errors(question.answer, text)}
    if question.calls or question.answer.startswith("{"):
        record["valid"] = _is_valid(text, calls) and bool(calls) == bool(question.calls)
    return record


def _is_valid(text: str, calls: Sequence[ToolCall]) -> bool:
    """Whether every call's arguments are a JSON object, or, where there is no call, the text is."""
    try:
        return all(isinstance(call.parsed(), dict) for call in calls) if calls else isinstance(json.loads(text), dict)
    except (InvalidRequest, ValueError, RecursionError):
        return False


def repeats(text: str) -> bool:
    """Whether a text ends in the same stretch of up to 40 characters, four times or more."""
    found = _REPEAT.search(text.strip()[-400:])
    return found is not None and len(found[1]) >= _SHORTEST_REPEAT


def summary(records: Sequence[Record], baseline: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By sense: `accuracy`, its 95 % interval `low` and `high`, `n`, the shares `empty`, `repeats` and `same` (of the
    commonest answer); `change`, the accuracy gained over the baseline on the same questions, with its interval; where
    there are transcripts, their `word_error_rate` with its interval; and of the answers that were to be JSON or calls,
    the share that is `valid`."""
    result = {}
    for sense in dict.fromkeys(record["sense"] for record in records):
        rows = [record for record in records if record["sense"] == sense]
        score = Score(sum(row["right"] for row in rows), len(rows))
        result[sense] = {
            "accuracy": score.share,
            "low": score.interval[0],
            "high": score.interval[1],
            "n": score.of,
            "empty": sum(row["empty"] for row in rows) / len(rows),
            "repeats": sum(row["repeats"] for row in rows) / len(rows),
            "same": Counter(normal(row["text"]) for row in rows).most_common(1)[0][1] / len(rows),
        }
        if heard := [row for row in rows if "words" in row]:
            errors, words = (np.array([row[key] for row in heard], np.float64) for key in ("word_errors", "words"))
            low, high = ratio_interval(errors, words)
            rate = float(errors.sum() / max(words.sum(), 1))
            result[sense]["word_error_rate"] = {"mean": rate, "low": low, "high": high}
        if shaped := [row["valid"] for row in rows if "valid" in row]:
            result[sense]["valid"] = sum(shaped) / len(shaped)
        before = [record for record in baseline if record["sense"] == sense]
        if len(before) == len(rows):
            gained = sum(now["right"] > then["right"] for now, then in zip(rows, before, strict=True))
            lost = sum(now["right"] < then["right"] for now, then in zip(rows, before, strict=True))
            low, high = change_interval(gained, lost, len(rows))
            result[sense]["change"] = {"mean": (gained - lost) / len(rows), "low": low, "high": high}
    return result
