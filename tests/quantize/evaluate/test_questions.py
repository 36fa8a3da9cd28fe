"""Question sets: which answers are correct, and how they are counted."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.models.errors import ConfigError
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate.questions import Question, Score, as_json, format_scores, read, score
from galago.runtime.types.messages import Audio, Image, ToolCall


def question(answer: str, group: str = "text", task: str = "add") -> Question:
    return Question(group, task, (), answer)


@pytest.mark.parametrize(
    ("expected", "answer", "correct"),
    [
        ("Two.", " Two.\n", True),
        ("Two.", "two.", False),
        ("CAT", "cat", False),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1}', '{"a": 1', False),
        ("5", "5.0", False),
    ],
)
def test_answers_are_compared_with_the_correct_one(expected: str, answer: str, correct: bool) -> None:
    assert question(expected).is_correct(answer) is correct


def test_a_tool_call_is_correct_with_the_same_name_and_arguments() -> None:
    asked = Question("tools", "tool", (), "", calls=({"name": "f", "arguments": {"a": 1, "b": 2}},))
    assert asked.is_correct("", [ToolCall("1", "f", '{"b": 2, "a": 1}')])
    assert not asked.is_correct("", [ToolCall("1", "f", '{"a": 1}')])
    assert not asked.is_correct("", [ToolCall("1", "f", '{"a": 1')])
    assert not asked.is_correct("f(a=1, b=2)")
    assert not question("Two.").is_correct("Two.", [ToolCall("1", "f", "{}")])


def test_scores_are_counted_by_group_and_task() -> None:
    scores = score([("text", "add", True), ("text", "subtract", False), ("image", "count", True)])
    assert (scores["text"][""], scores["text"]["subtract"]) == (Score(1, 2), Score(0, 1))
    assert scores["image"][""].accuracy == 1
    names = [line.split()[0] for line in format_scores(as_json(scores)).splitlines()[1:]]
    assert names == ["text", "add", "subtract", "image", "count"]


@given(st.integers(1, 2000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_an_interval_contains_its_accuracy(counts: tuple[int, int]) -> None:
    right, of = counts
    low, high = Score(right, of).interval
    assert 0 <= low <= right / of + 1e-9 and right / of - 1e-9 <= high <= 1
    narrower = Score(right * 100, of * 100).interval
    assert low <= narrower[0] + 1e-9 and narrower[1] <= high + 1e-9


def test_the_held_out_set_covers_every_modality() -> None:
    asked = read(builtin_folder() / "heldout.zip")
    assert {q.group for q in asked} > {"text", "image", "speech, known voices", "speech, unseen voices"}
    assert sum(q.needs(Image) for q in asked) > 400 < sum(q.needs(Audio) for q in asked)
    assert any(q.calls for q in asked)
    assert all(q.messages[-1].role == "user" and bool(q.calls) == bool(q.tools) != bool(q.answer) for q in asked)


@pytest.mark.parametrize("line", ["{", '{"group": "text"}', json.dumps({"group": "a", "task": "b", "messages": 3})])
def test_a_damaged_set_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("questions.jsonl", line)
    with pytest.raises(ConfigError, match="set.zip is not a question set"):
        read(path)
    path.write_bytes(b"PK")
    with pytest.raises(ConfigError, match="set.zip is not a question set"):
        read(path)
