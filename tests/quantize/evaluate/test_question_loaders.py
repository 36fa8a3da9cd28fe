"""Questions in other formats: Galago's own JSON lines, MMLU, VQA and LibriSpeech."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.models.errors import ConfigError
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate.answers import answer_questions, summarize_answers
from galago.quantize.evaluate.question_loaders import digest, read
from galago.quantize.evaluate.questions import normalize_answer, word_errors
from galago.runtime import LocalModel
from galago.runtime.types.messages import Audio, Image, Text

SAMPLES = builtin_folder() / "samples"
WORDS = st.lists(st.sampled_from("one two three four".split()), max_size=8)


def lines(folder: Path, *rows: object) -> Path:
    path = folder / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_json_lines_are_loaded_with_media(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "shapes.png", tmp_path / "a.png")
    shutil.copy(SAMPLES / "speech.wav", tmp_path / "b.wav")
    path = lines(
        tmp_path,
        {"question": "How many?", "answer": ["Four", "4"], "image": "a.png"},
        {"question": "Which?", "choices": ["red", "blue"], "answer": 1, "context": "The ball is blue."},
        {"question": "Write it down.", "answer": "spell ehn", "audio": "b.wav", "match": "words"},
    )
    with_image, with_choices, with_audio = read(path)
    assert [type(part) for part in with_image.messages[0].parts] == [Image, Text]
    assert with_image.is_correct(" four. ") and with_image.is_correct("The 4") and not with_image.is_correct("Five")
    assert with_choices.display_text.startswith("The ball is blue.\n\nWhich?\nA. red\nB. blue\n")
    assert with_choices.answer == "B" and with_choices.is_correct("B") and not with_choices.is_correct("A")
    assert isinstance(with_audio.messages[0].parts[0], Audio) and with_audio.is_correct("Spell, ehn!")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "line 1, is not a question: 'answer' is missing"),
        ({"question": "a", "answer": "b", "image": "gone.png"}, "line 1.*gone.png"),
        ({"question": "a", "answer": "b", "pictures": []}, "unknown field pictures"),
        ({"question": "a", "answer": "c", "choices": ["x", "y"]}, "not one of the choices"),
        ({"question": "a", "answer": 5, "choices": ["x", "y"]}, "line 1"),
        ({"question": "a", "answer": "c", "image": "../own.png"}, "outside the folder"),
        ([1], "line 1"),
    ],
)
def test_an_invalid_line_is_reported_with_its_number(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(lines(tmp_path, row))


def test_mmlu_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "physics.csv").write_text('"What falls, and why?",stones,birds,stars,fish,A\nTwo?,1,2,3,4,B\n')
    first, second = read(tmp_path)
    assert (first.task, first.answer, second.answer) == ("physics", "A", "B")
    (tmp_path / "broken.csv").write_text("Two?,1,2\n")
    with pytest.raises(ConfigError, match="broken.csv, line 1"):
        read(tmp_path)


def test_vqa_is_loaded(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "shapes.png", tmp_path / "COCO_val2014_000000000042.png")
    asked = {"questions": [{"question_id": 1, "image_id": 42, "question": "How many?"}]}
    known = {"question_id": 1, "multiple_choice_answer": "4", "answers": [{"answer": "four"}] * 3 + [{"answer": "5"}]}
    (tmp_path / "questions.json").write_text(json.dumps(asked))
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": [known]}))
    (question,) = read(tmp_path)
    assert question.accepted == ("4", "four") and question.needs(Image)
    (tmp_path / "COCO_val2014_000000000042.png").unlink()
    with pytest.raises(ConfigError, match="question 1 has no image"):
        read(tmp_path)


def test_librispeech_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "1089" / "134686"
    folder.mkdir(parents=True)
    shutil.copy(SAMPLES / "speech.wav", folder / "1089-134686-0000.wav")
    (folder / "1089-134686.trans.txt").write_text("1089-134686-0000 SPELL EHN\n")
    before = digest(tmp_path)
    (question,) = read(tmp_path)
    assert question.needs(Audio) and question.match == "words" and question.answer == "SPELL EHN"
    (folder / "1089-134686.trans.txt").write_text("1089-134686-0001 SPELL\n")
    assert digest(tmp_path) != before
    with pytest.raises(ConfigError, match="no audio file 1089-134686-0001"):
        read(tmp_path)


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contains no questions"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="there are no questions at"):
        read(tmp_path / "gone")


@given(WORDS, WORDS, WORDS)
def test_word_errors_are_a_metric(one: list[str], other: list[str], third: list[str]) -> None:
    a, b, c = " ".join(one), " ".join(other), " ".join(third)
    assert (word_errors(a, b) == 0) == (one == other) and word_errors(a, b) == word_errors(b, a)
    assert abs(len(one) - len(other)) <= word_errors(a, b) <= max(len(one), len(other))
    assert word_errors(a, c) <= word_errors(a, b) + word_errors(b, c)


@pytest.mark.parametrize(("text", "same"), [("The Cat.", "cat"), ("a  red, ball!", "Red ball"), ("É", "é")])
def test_answers_are_normalized_before_comparison(text: str, same: str) -> None:
    assert normalize_answer(text) == normalize_answer(same)


def test_multiple_choice_is_answered_with_one_of_its_letters(model: LocalModel, tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} plus 1?", "choices": ["7", "8", "9"], "answer": "8"} for i in range(4)]
    shutil.copy(SAMPLES / "speech.wav", tmp_path / "b.wav")
    with_audio = {"question": "What was said?", "answer": "one two three", "audio": "b.wav", "match": "words"}
    records = list(answer_questions(model, read(lines(tmp_path, *rows, with_audio))))
    assert {record["text"] for record in records[:4]} <= {"A", "B", "C"}
    assert records[4]["words"] == 3 and records[4]["word_errors"] > 0
    assert summarize_answers(records, records)["audio"]["word_error_rate"]["mean"] > 0
