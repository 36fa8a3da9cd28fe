"""Answers are scored as correct, empty or repetitive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.quantize.evaluate.answers import is_repetitive, summarize_answers


@pytest.mark.parametrize(
    ("text", "repeating"),
    [
        ("the cat the cat the cat the cat the cat the cat", True),
        ("Yes. Yes. Yes. Yes. Yes. Yes.", True),
        ("no no no", False),
        ("Two.", False),
        ("One, two, three, four, five, six, seven, eight, nine, ten.", False),
        ("100000000", False),
        ("", False),
    ],
)
def test_repetitive_texts_are_detected(text: str, repeating: bool) -> None:
    assert is_repetitive(text) is repeating


@given(st.text(min_size=1, max_size=30).filter(str.strip))
def test_any_text_repeated_often_enough_is_detected(text: str) -> None:
    assert is_repetitive("Well: " + (text + " ") * 30)


def record(right: bool, modality: str = "text", text: str = "Two.") -> dict[str, object]:
    return {
        "sense": modality,
        "task": "add",
        "right": right,
        "empty": not text,
        "repeats": False,
        "cut": False,
        "text": text,
    }


def test_a_summary_compares_answers_to_the_same_questions() -> None:
    before = [record(True)] * 6 + [record(True, "image")] * 4
    after = [record(True)] * 3 + [record(False, text="")] * 3
    summary = summarize_answers(after, before)
    assert list(summary) == ["text"]
    assert summary["text"]["accuracy"] == 0.5 == summary["text"]["empty"] and summary["text"]["n"] == 6
    assert summary["text"]["change"]["mean"] == -0.5
    assert -1 <= summary["text"]["change"]["low"] <= -0.5 <= summary["text"]["change"]["high"] < 0.1
