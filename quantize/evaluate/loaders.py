"""Questions of other sources: Galago's own JSON lines, and folders in the forms that well-known sets come in.

A line of a `.jsonl` file holds `question`; `answer`, a text or a list of texts that are all right, or, beside
`choices`, the place of the right one among them (from 0), its letter or its text; and, where there are any, `image` and
`audio`, files beside the `.jsonl` file, `context`, a text to read first, and `task`, under which it is counted. With
`"match": "words"` the answer is a transcript, whose wrong words are counted.

Of a folder everything is read that looks like such lines, like MMLU (`.csv` without a header: question, four choices,
letter), like VQA (JSON with `questions`, and with `annotations` in the same or another file; pictures by `image_id`) or
like LibriSpeech (`.trans.txt`, with a sound file for each line).
"""

from __future__ import annotations

import csv
import hashlib
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError, GalagoError
from ...models.fingerprint import fingerprint
from ...runtime.python_api import read_media
from ...runtime.types.messages import Message, Part, Text
from . import questions
from .questions import Match, Question

LETTERS = string.ascii_uppercase[:10]
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
_SOUNDS = (".flac", ".wav", ".mp3", ".ogg")
_TRANSCRIBE = "Write down what is said, word for word, and nothing else."
_SHORT = "Answer with one word or a short phrase."


def read(path: Path) -> list[Question]:
    """The questions of an archive, a file or a folder. Raises `ConfigError` naming what is wrong, and its line."""
    if path.is_file() and path.suffix == ".zip":
        return list(questions.read(path))
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not path.exists():
        raise ConfigError(f"there are no questions at {path}", "questions")
    found = [question for file in files for question in _of_file(file, files)]
    if not found:
        raise ConfigError(f"{path} holds no questions in a known form; the README describes them", "questions")
    return found


def digest(path: Path) -> str:
    """What tells one set of questions from another: of a folder names, sizes and times of its files."""
    if path.is_file():
        return fingerprint(path)
    stats = [(str(file.relative_to(path)), file.stat()) for file in sorted(path.rglob("*"))]
    seen = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()


def _of_file(file: Path, files: list[Path]) -> Iterator[Question]:
    try:
        if file.suffix == ".jsonl":
            yield from _of_lines(file)
        elif file.suffix == ".csv":
            yield from _of_mmlu(file)
        elif file.suffix == ".json":
            yield from _of_vqa(file, files)
        elif file.name.endswith(".trans.txt"):
            yield from _of_transcripts(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read: {error}", "questions") from None


def _of_lines(file: Path) -> Iterator[Question]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                yield _question(file, json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError, GalagoError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else error
                raise ConfigError(f"{file}, line {number}, is no question: {reason}", "questions") from None


def _question(file: Path, line: dict[str, Any]) -> Question:
    unknown = set(line) - {"question", "choices", "answer", "image", "audio", "context", "task", "match"}
    if unknown:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
    task, answer = line.get("task", file.stem), line["answer"]
    media = [_medium(file, kind, line[kind]) for kind in ("image", "audio") if line.get(kind)]
    text = "\n\n".join(filter(None, [line.get("context"), line["question"]]))
    if line.get("choices"):
        return _choice(task, text, [str(choice) for choice in line["choices"]], answer, media)
    match: Match = "words" if line.get("match") == "words" else "normal"
    accepted = tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)
    return Question(task, task, _asked(media, text), accepted[0], accepted=accepted, match=match)


def _choice(task: str, text: str, choices: list[str], answer: object, media: list[Part]) -> Question:
    """Answered by the letter that is likeliest."""
    letters = LETTERS[: len(choices)]
    if len(letters) < len(choices) or not letters:
        raise ValueError(f"there must be 1 to {len(LETTERS)} choices")
    if isinstance(answer, int) and 0 <= answer < len(choices):
        right = letters[answer]
    elif str(answer) in choices:
        right = letters[choices.index(str(answer))]
    elif str(answer) in letters and len(str(answer)) == 1:
        right = str(answer)
    else:
        raise ValueError(f"the answer {answer!r} is none of the choices")
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    asked = _asked(media, f"{text}\n{listed}\nAnswer with the letter of the right choice.")
    return Question(task, task, asked, right, accepted=tuple(letters), match="choice")


def _asked(media: list[Part], text: str) -> tuple[Message, ...]:
    return (Message("user", (*media, Text(text))),)


def _medium(file: Path, kind: Any, name: str) -> Part:
    path = (file.parent / name).resolve()
    if not path.is_relative_to(file.parent.resolve()):
        raise ValueError(f"{name} lies outside of the folder")
    return read_media(kind, path)


def _of_mmlu(file: Path) -> Iterator[Question]:
    with file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if len(row) != 6 or row[5].strip() not in tuple(LETTERS[:4]):
                raise ConfigError(f"{file}, line {number}: question, four choices and a letter are expected")
            yield _choice(file.stem, row[0], row[1:5], row[5].strip(), [])


def _of_vqa(file: Path, files: list[Path]) -> Iterator[Question]:
    asked = _json(file).get("questions", [])
    if not asked:
        return
    answers = {a["question_id"]: a for f in files if f.suffix == ".json" for a in _json(f).get("annotations", [])}
    pictures = {_number(f.stem): f for f in files if f.suffix.lower() in _PICTURES}
    for row in asked:
        try:
            known = answers[row["question_id"]]
            given = [a["answer"] for a in known.get("answers", [])]
            accepted = tuple(dict.fromkeys([known.get("multiple_choice_answer") or given[0], *_usual(given)]))
            picture = pictures[int(row["image_id"])]
            text = f"{row['question']} {_SHORT}"
        except (KeyError, IndexError, TypeError, ValueError) as error:
            name = row.get("question_id") if isinstance(row, dict) else row
            raise ConfigError(f"{file}: the picture or answer of question {name} is missing: {error!r}") from None
        yield Question(
            file.stem, file.stem, _asked([read_media("image", picture)], text), accepted[0],
            accepted=accepted, match="normal",
        )  # fmt: skip


def _usual(given: list[str]) -> list[str]:
    """Answers that three of ten people gave, which VQA counts as right in full."""
    return [answer for answer in given if given.count(answer) >= 3]


def _number(stem: str) -> int:
    """The number at the end of a name, as in COCO_val2014_000000262148; -1 where there is none."""
    digits = stem[len(stem.rstrip(string.digits)) :]
    return int(digits) if digits else -1


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} is no JSON", "questions") from None
    return found if isinstance(found, dict) else {}


def _of_transcripts(file: Path) -> Iterator[Question]:
    sounds = {path.stem: path for path in sorted(file.parent.iterdir()) if path.suffix.lower() in _SOUNDS}
    for line in filter(str.strip, file.read_text(encoding="utf-8").splitlines()):
        name, _, words = line.partition(" ")
        if name not in sounds:
            raise ConfigError(f"{file}: there is no sound file {name}", "questions")
        asked = _asked([read_media("audio", sounds[name])], _TRANSCRIBE)
        yield Question("speech", file.name.split(".")[0], asked, words, accepted=(words,), match="words")
