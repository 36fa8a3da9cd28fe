"""Speech clips from the synthesizers on this machine, and questions about them.

espeak-ng and flite are used for training and development, festival only for the held-out set.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .lexicon import COLORS, COMMANDS, NUMBERS, SHAPES, number
from .split import Split

Samples = NDArray[np.float32]
RATE = 16_000
LONGEST = 7.99
"""Seconds; 8.0 would start another window of the encoder."""
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 croak klatt klatt2 klatt3 Andy Annie Gene Jacky Lee Linda Mario Max"
).split()
FLITE = ("kal", "kal16", "awb", "rms", "slt")


@dataclass(frozen=True)
class Voice:
    """A synthesizer's voice; `known` voices are used in training."""

    engine: str
    name: str

    @property
    def known(self) -> bool:
        return self.engine != "festival" and Split.TRAIN.holds("voice", self.engine, self.name)


def voices() -> tuple[Voice, ...]:
    """All voices of the installed synthesizers."""
    found: list[Voice] = []
    if shutil.which("espeak-ng"):
        found += [Voice("espeak-ng", f"{accent}+{variant}") for accent in ACCENTS for variant in VARIANTS]
    if shutil.which("flite"):
        found += [Voice("flite", name) for name in FLITE]
    if shutil.which("text2wave"):
        found.append(Voice("festival", "kal"))
    if not found:
        raise FileNotFoundError("no speech synthesizer was found; apt-get install espeak-ng flite festival")
    return tuple(found)


def speak(rng: Random, voice: Voice, words: str) -> Samples:
    """Synthesizes the words as mono samples at 16 kHz, with random speed and pitch."""
    match voice.engine:
        case "espeak-ng":
            command = ["espeak-ng", "-v", voice.name, "-s", str(rng.randint(115, 215)), "-p", str(rng.randint(15, 85))]
            data = subprocess.run([*command, "--stdout", words], capture_output=True, check=True).stdout
        case "flite":
            stretch = f"duration_stretch={rng.uniform(0.75, 1.35):.2f}"
            data = _through_file(["flite", "-voice", voice.name, "--setf", stretch, "-t", words, "-o"])
        case _:
            data = _through_file(["text2wave", "-o"], words)
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return np.asarray(soxr.resample(_trimmed(samples), rate, RATE), np.float32)


def _through_file(command: list[str], words: str | None = None) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".wav") as out:
        subprocess.run([*command, out.name], input=words and words.encode(), check=True, capture_output=True)
        return Path(out.name).read_bytes()


def _trimmed(samples: Samples) -> Samples:
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples


def disturb(rng: Random, samples: Samples) -> Samples:
    """Makes a clip sound recorded: adds silence and noise, and changes the loudness."""
    noise = np.random.default_rng(rng.getrandbits(32))
    longest = LONGEST - len(samples) / RATE
    silence = min(max(longest, 0), rng.choice((0.05, 0.2, 0.5, 1.0, 3.0)) * rng.random() * 2)
    before = rng.random()
    clip = np.pad(samples, (int(before * silence * RATE), int((1 - before) * silence * RATE)))
    clip = clip / max(1e-3, float(np.abs(clip).max())) * rng.uniform(0.2, 0.95)
    if rng.random() < 0.6:
        hiss = noise.standard_normal(len(clip)).astype(np.float32)
        if rng.random() < 0.5:  # low-frequency noise of rooms and engines
            hiss = np.cumsum(hiss) * 0.02
            hiss -= hiss.mean()
        clip = clip + hiss / max(1e-6, float(hiss.std())) * 10 ** rng.uniform(-3.3, -1.7)
    return np.clip(clip, -1, 1).astype(np.float32)[: int(LONGEST * RATE)]


def utterance(rng: Random, split: Split) -> str:
    """Random words to speak: digits, a color, a color and a shape, commands, or a number."""
    while True:
        match rng.randrange(5):
            case 0:
                words = " ".join(rng.choices(NUMBERS[:10], k=rng.choice((1, 1, 2, 3, 4, 5))))
            case 1:
                words = f"{rng.choice(list(COLORS))} {rng.choice(SHAPES)}"
            case 2:
                words = rng.choice(list(COLORS))
            case 3:
                words = " ".join(rng.choices(COMMANDS, k=rng.choice((1, 1, 2, 3))))
            case _:
                words = rng.choice(NUMBERS[10:])
        if " " not in words or split.holds("said", words):
            return words


def ask(rng: Random, words: str) -> tuple[str, str, str]:
    """A task's name, a question about a clip in which `words` were said, and its answer."""
    said = words.split()
    match rng.randrange(10):
        case 0:
            asked = rng.choice(("How many words were said?", "Count the words."))
            return "count_words", asked, number(len(said)) + "."
        case 1:
            return (
                "transcribe_as_json",
                rng.choice(("Transcribe as JSON.", "What was said? Answer in JSON.")),
                json.dumps({"text": words}),
            )
        case 2 if len(said) > 1:
            first = rng.random() < 0.5
            asked = f"What was the {'first' if first else 'last'} word?"
            return "one_word", asked, said[0 if first else -1].capitalize() + "."
        case 3:
            color = next((w for w in said if w in COLORS), None)
            if color is not None:
                return "color_said", "Which color was said?", color.capitalize() + "."
    asked = rng.choice(("What was said?", "What do you hear?", "Transcribe.", "Write down what was said."))
    return "transcribe", asked, words.capitalize() + "."


def silence(rng: Random) -> Samples:
    """A clip without speech."""
    return disturb(rng, np.zeros(int(rng.uniform(0.3, 2.0) * RATE), np.float32))
