"""Creates the held-out questions of the built-in world: `scripts/train/make_heldout.py models/builtin/heldout.zip`.

They contain nothing from training: the split keeps their combinations, words, fonts and voices out, and one speech
synthesizer is used only here. Use them for the model card; use the development set to choose between models. The
archive contains `questions.jsonl`, in the format of galago.quantize.evaluate.questions, and the media files.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import soundfile
from PIL import Image

from world import Clip, Maker, Picture, Sample, Split, speech

SEED = 20_000_003
LARGEST_PNG = 30_000


def main() -> None:
    known = [v for v in speech.voices() if v.known]
    unseen = [v for v in speech.voices() if not v.known and v.engine != "festival"]
    festival = [v for v in speech.voices() if v.engine == "festival"]
    groups: tuple[tuple[str, int, list[speech.Voice], dict[str, float]], ...] = (
        ("text", 400, [], {"text": 1}),
        ("tools", 40, [], {"tool": 1}),
        ("image", 400, [], {"image": 4, "mixed": 1}),
        ("speech, known voices", 200, known, {"audio": 1}),
        ("speech, unseen voices", 120, unseen, {"audio": 1}),
        ("speech, unseen voices", 80, festival, {"audio": 1}),
        ("image and speech", 120, known, {"both": 1}),
    )
    with zipfile.ZipFile(sys.argv[1], "w") as archive:
        lines = []
        for place, (group, count, voices, shares) in enumerate(groups):
            maker = Maker(Random(SEED + place), Split.TEST, spoken_by(voices), shares)
            lines += [json.dumps({"group": group} | line(maker.sample(), archive)) for _ in range(count)]
        archive.writestr("questions.jsonl", "\n".join(lines) + "\n", zipfile.ZIP_DEFLATED)


def spoken_by(voices: list[speech.Voice]) -> Callable[[Random], tuple[str, speech.Samples]]:
    def clip(rng: Random) -> tuple[str, speech.Samples]:
        words = speech.utterance(rng, Split.TEST)
        return words, speech.speak(rng, rng.choice(voices), words)

    return clip


def line(sample: Sample, archive: zipfile.ZipFile) -> dict[str, Any]:
    messages = [
        {"role": turn.role, "content": [part_of(part, archive) for part in turn.parts]} for turn in sample.turns
    ]
    question = {"task": sample.task.split("/")[1], "messages": messages}
    if not sample.tools:
        return question | {"answer": sample.answer}
    call = json.loads(sample.answer.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    return question | {"answer": "", "tools": sample.tools, "calls": [call]}


def part_of(part: str | Picture | Clip, archive: zipfile.ZipFile) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind, data, suffix = ("image", *encoded(part)) if isinstance(part, Picture) else ("audio", recorded(part), "mp3")
    name = f"{kind}-{len(archive.namelist()):04}.{suffix}"
    archive.writestr(name, data)
    return {"type": kind, "file": name}


def encoded(picture: Picture) -> tuple[bytes, str]:
    """Encodes as PNG, or as JPEG if noise makes the PNG large."""
    image, out = Image.fromarray(picture.pixels), io.BytesIO()
    image.save(out, "PNG", optimize=True)
    if out.tell() <= LARGEST_PNG:
        return out.getvalue(), "png"
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue(), "jpg"


def recorded(clip: Clip) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, clip.samples, speech.RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.9)
    return out.getvalue()


if __name__ == "__main__":
    main()
