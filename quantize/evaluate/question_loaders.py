"""Loads questions in other formats: Galago's own JSON lines, and folders in the formats of well-known benchmarks.

A line of a `.jsonl` file holds `question` and `answer`: a text or a list of accepted texts, or, with `choices`, the
index of the correct choice (from 0), its letter or its text. Optional fields are `image` and `audio`, files next to the
`.jsonl` file; `context`, a text to read first; and `task`, under which the question is counted. With `"match": "words"`
the answer is a transcript, and its word errors are counted.

A folder is searched for such lines, for MMLU (`.csv` without a header: question, four choices, letter), for VQA (JSON
with `questions`, and with `annotations` in the same or another file; images by `image_id`) and for LibriSpeech
(`.trans.txt`, with an audio file for each line).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError, GalagoError
from ...models.fingerprint import fingerprint
from ...models.regular_file import open_regular, read_text
from ...runtime.python_api import read_media
from ...runtime.types.messages import Message, Part, Text
from . import questions
from .questions import Match, Question

LETTERS = string.ascii_uppercase[:10]
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
_AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg")
_TRANSCRIBE = "Write down what is said, word for word, and nothing else."
_ANSWER_BRIEFLY = "Answer with one word or a short phrase."


def read(path: Path) -> list[Question]:
    """Reads the questions of an archive, a file or a folder. Raises `ConfigError` that names the file and the line."""
    if path.is_file() and path.suffix == ".zip":
        return list(questions.read(path))
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not path.exists():
        raise ConfigError(f"there are no questions at {path}", "questions")
    loaded = [question for file in files for question in _read_file(file, files)]
    if not loaded:
        raise ConfigError(
            f"{path} contains no questions in a supported format; the evaluation guide describes the formats",
            "questions",
        )
    return loaded


def digest(path: Path) -> str:
    """Identifies a question set; a folder by the names, sizes and modification times of its files."""
    if path.is_file():
        return fingerprint(path)
    stats = [(str(file.relative_to(path)), file.stat()) for file in sorted(path.rglob("*"))]
    listing = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.blake2b(listing.encode(), digest_size=16).hexdigest()


def _read_file(file: Path, files: list[Path]) -> Iterator[Question]:
    try:
        if file.suffix == ".jsonl":
            yield from _read_lines(file)
        elif file.suffix == ".csv":
            yield from _read_mmlu(file)
        elif file.suffix == ".json":
            yield from _read_vqa(file, files)
        elif file.name.endswith(".trans.txt"):
            yield from _read_transcripts(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read: {error}", "questions") from None


def _read_lines(file: Path) -> Iterator[Question]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            try:
                yield _question(file, json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError, GalagoError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else error
                raise ConfigError(f"{file}, line {number}, is not a question: {reason}", "questions") from None


def _question(file: Path, line: dict[str, Any]) -> Question:
    unknown = set(line) - {"question", "choices", "answer", "image", "audio", "context", "task", "match"}
    if unknown:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
    task, answer = line.get("task", file.stem), line["answer"]
    media = [_read_media(file, kind, line[kind]) for kind in ("image", "audio") if line.get(kind)]
    text = "\n\n".join(filter(None, [line.get("context"), line["question"]]))
    if line.get("choices"):
        return _choice(task, text, [str(choice) for choice in line["choices"]], answer, media)
    match: Match = "words" if line.get("match") == "words" else "normal"
    accepted = tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)
    return Question(task, task, _user_message(media, text), accepted[0], accepted=accepted, match=match)


def _choice(task: str, text: str, choices: list[str], answer: object, media: list[Part]) -> Question:
    """Returns a multiple-choice question, answered by the most likely letter."""
    letters = LETTERS[: len(choices)]
    if len(letters) < len(choices) or not letters:
        raise ValueError(f"there must be 1 to {len(LETTERS)} choices")
    if isinstance(answer, int) and 0 <= answer < len(choices):
        correct = letters[answer]
    elif str(answer) in choices:
        correct = letters[choices.index(str(answer))]
    elif str(answer) in letters and len(str(answer)) == 1:
        correct = str(answer)
    else:
        raise ValueError(f"the answer {answer!r} is not one of the choices")
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    messages = _user_message(media, f"{text}\n{listed}\nAnswer with the letter of the right choice.")
    return Question(task, task, messages, correct, accepted=tuple(letters), match="choice")


def _user_message(media: list[Part], text: str) -> tuple[Message, ...]:
    return (Message("user", (*media, Text(text))),)


def _read_media(file: Path, kind: Any, name: str) -> Part:
    path = (file.parent / name).resolve()
    if not path.is_relative_to(file.parent.resolve()):
        raise ValueError(f"{name} is outside the folder")
    return read_media(kind, path)


def _read_mmlu(file: Path) -> Iterator[Question]:
    with io.TextIOWrapper(open_regular(file), "utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if len(row) != 6 or row[5].strip() not in tuple(LETTERS[:4]):
                raise ConfigError(f"{file}, line {number}: expected a question, four choices and a letter")
            yield _choice(file.stem, row[0], row[1:5], row[5].strip(), [])


def _read_vqa(file: Path, files: list[Path]) -> Iterator[Question]:
    rows = _read_json(file).get("questions", [])
    if not rows:
        return
    annotations = {
        a["question_id"]: a for f in files if f.suffix == ".json" for a in _read_json(f).get("annotations", [])
    }
    images = {_trailing_number(f.stem): f for f in files if f.suffix.lower() in _IMAGE_SUFFIXES}
    for row in rows:
        try:
            annotation = annotations[row["question_id"]]
            answers = [a["answer"] for a in annotation.get("answers", [])]
            most_common = annotation.get("multiple_choice_answer") or answers[0]
            accepted = tuple(dict.fromkeys([most_common, *_agreed(answers)]))
            image = images[int(row["image_id"])]
            text = f"{row['question']} {_ANSWER_BRIEFLY}"
        except (KeyError, IndexError, TypeError, ValueError) as error:
            name = row.get("question_id") if isinstance(row, dict) else row
            raise ConfigError(f"{file}: question {name} has no image or no answer: {error!r}") from None
        yield Question(
            file.stem, file.stem, _user_message([read_media("image", image)], text), accepted[0],
            accepted=accepted, match="normal",
        )  # fmt: skip


def _agreed(answers: list[str]) -> list[str]:
    """Returns the answers that at least three of ten people gave, which VQA counts as fully correct."""
    return [answer for answer in answers if answers.count(answer) >= 3]


def _trailing_number(stem: str) -> int:
    """Returns the number at the end of a name, as in COCO_val2014_000000262148, or -1."""
    digits = stem[len(stem.rstrip(string.digits)) :]
    return int(digits) if digits else -1


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} is not JSON", "questions") from None
    return value if isinstance(value, dict) else {}


def _read_transcripts(file: Path) -> Iterator[Question]:
    sounds = {path.stem: path for path in sorted(file.parent.iterdir()) if path.suffix.lower() in _AUDIO_SUFFIXES}
    for line in filter(str.strip, read_text(file).splitlines()):
        name, _, words = line.partition(" ")
        if name not in sounds:
            raise ConfigError(f"{file}: there is no audio file {name}", "questions")
        messages = _user_message([read_media("audio", sounds[name])], _TRANSCRIBE)
        yield Question("speech", file.name.split(".")[0], messages, words, accepted=(words,), match="words")
