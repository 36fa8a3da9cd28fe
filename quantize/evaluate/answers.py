"""Asks a loaded model questions, and scores its answers."""

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
from .intervals import change_interval, ratio_interval
from .passages import modality_of
from .questions import MAX_ANSWER_TOKENS, Question, Score, normalize_answer, word_count, word_errors
from .record_log import Record

_REPETITION = re.compile(r"((.{1,40}?)\2{3,}).{0,40}\Z", re.DOTALL)
_MIN_REPETITION_CHARACTERS = 24


def answerable(questions: Sequence[Question], vision: bool, audio: bool) -> list[Question]:
    """Returns the questions that need no modality the model lacks."""
    return [q for q in questions if (vision or not q.needs(Image)) and (audio or not q.needs(Audio))]


def answer_questions(model: LocalModel, questions: Sequence[Question], strict: bool = True) -> Iterator[Record]:
    """Yields a record of each answer: `sense`, `group`, `task`, `right`, `empty`, `repeats`, `cut` and `text`.

    Transcripts also have `words` and `word_errors`. Answers that should be JSON or a tool call have `valid`. Questions
    are asked one at a time with greedy decoding, because concurrent requests would change the last digits of logits.
    If `strict`, raises `InvalidRequest` for a question that the model cannot process; otherwise it counts as wrong.
    """
    for question in questions:
        try:
            yield _ask(model, question)
        except InvalidRequest:
            if strict:
                raise
            yield _record(question, "", ()) | {"right": False, "empty": False, "cut": False}


def _ask(model: LocalModel, question: Question) -> Record:
    choices = "|".join(question.accepted) if question.match == "choice" else None  # decodes the most likely letter
    request = Request(
        question.messages,
        Sampling(temperature=0),
        max_tokens=MAX_ANSWER_TOKENS,
        tools=question.tools,
        cache=False,
        regex=choices,
    )
    with model.stream(request) as answer:
        text = "".join(answer)
        return _record(question, text, answer.reply.calls) | {"cut": answer.reply.finish_reason == "length"}


def _record(question: Question, text: str, calls: Sequence[ToolCall]) -> Record:
    record: Record = {
        "sense": modality_of(question.messages),
        "group": question.group,
        "task": question.task,
        "right": question.is_correct(text, calls),
        "empty": not text.strip() and not calls,
        "repeats": is_repetitive(text),
        "text": text,
    }
    if question.match == "words":
        record |= {"words": word_count(question.answer), "word_errors": word_errors(question.answer, text)}
    if question.calls or question.answer.startswith("{"):
        record["valid"] = _is_valid(text, calls) and bool(calls) == bool(question.calls)
    return record


def _is_valid(text: str, calls: Sequence[ToolCall]) -> bool:
    """Returns whether the arguments of every call, or without calls the text, are a JSON object."""
    try:
        return all(isinstance(call.parsed(), dict) for call in calls) if calls else isinstance(json.loads(text), dict)
    except (InvalidRequest, ValueError, RecursionError):
        return False


def is_repetitive(text: str) -> bool:
    """Returns whether a text ends with the same 1 to 40 characters at least four times."""
    match = _REPETITION.search(text.strip()[-400:])
    return match is not None and len(match[1]) >= _MIN_REPETITION_CHARACTERS


def summarize_answers(records: Sequence[Record], baseline: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Summarizes answers by modality.

    Returns `accuracy`, its 95 % interval `low` and `high`, `n`, and the shares `empty`, `repeats`, `cut` (at the
    maximum length) and `same` (the most common answer); `change`, the accuracy gained over the baseline on the same
    questions, with its interval;
    for transcripts `word_error_rate` with its interval; for answers that should be JSON or tool calls, the share
    `valid`.
    """
    result = {}
    for modality in dict.fromkeys(record["sense"] for record in records):
        rows = [record for record in records if record["sense"] == modality]
        score = Score(sum(row["right"] for row in rows), len(rows))
        result[modality] = {
            "accuracy": score.accuracy,
            "low": score.interval[0],
            "high": score.interval[1],
            "n": score.total,
            "empty": sum(row["empty"] for row in rows) / len(rows),
            "repeats": sum(row["repeats"] for row in rows) / len(rows),
            "cut": sum(row["cut"] for row in rows) / len(rows),
            "same": Counter(normalize_answer(row["text"]) for row in rows).most_common(1)[0][1] / len(rows),
        }
        if transcripts := [row for row in rows if "words" in row]:
            errors, words = (
                np.array([row[key] for row in transcripts], np.float64) for key in ("word_errors", "words")
            )
            low, high = ratio_interval(errors, words)
            rate = float(errors.sum() / max(words.sum(), 1))
            result[modality]["word_error_rate"] = {"mean": rate, "low": low, "high": high}
        if structured := [row["valid"] for row in rows if "valid" in row]:
            result[modality]["valid"] = sum(structured) / len(structured)
        before = [record for record in baseline if record["sense"] == modality]
        if len(before) == len(rows):
            gained = sum(now["right"] > then["right"] for now, then in zip(rows, before, strict=True))
            lost = sum(now["right"] < then["right"] for now, then in zip(rows, before, strict=True))
            low, high = change_interval(gained, lost, len(rows))
            result[modality]["change"] = {"mean": (gained - lost) / len(rows), "low": low, "high": high}
    return result
