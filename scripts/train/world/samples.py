"""Composes questions into chats with one or more modalities and turns, system prompts and tools."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from . import pictures, speech, text
from .lexicon import COLORS, NAMES, NUMBERS, PLACES, SHAPES, UNKNOWN
from .split import Split

CUT = frozenset({"read_word", "read_word_as_json", "where"})
"""Tasks that the model does not learn in its training time. It learns to say so, and the held-out set omits them."""


@dataclass(frozen=True)
class Picture:
    """Pixels with labels, which help the encoder to learn in addition to the questions."""

    pixels: pictures.Pixels
    facts: tuple[str, ...]
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Clip:
    """Audio samples at 16 kHz, and the spoken words."""

    samples: speech.Samples
    words: tuple[str, ...]


@dataclass(frozen=True)
class Turn:
    role: str
    parts: tuple[str | Picture | Clip, ...]


@dataclass(frozen=True)
class Sample:
    """A chat whose next message is `answer`. `task` has the form modality/task."""

    task: str
    turns: tuple[Turn, ...]
    answer: str
    tools: tuple[dict[str, object], ...] = ()


@dataclass
class Maker:
    """Generates samples of one split. `clip` returns an utterance and its audio samples."""

    rng: Random
    split: Split
    clip: Callable[[Random], tuple[str, speech.Samples]]
    shares: dict[str, float] = field(default_factory=lambda: {"image": 4, "text": 4, "audio": 2, "both": 1, "mixed": 1})
    asked: int = 1
    """Maximum number of questions about one image or clip, each in its own turn."""
    cut: frozenset[str] = CUT

    def sample(self) -> Sample:
        while True:
            made = self._sample()
            if self.split is not Split.TEST or made.task.split("/")[1] not in self.cut:
                return made

    def _sample(self) -> Sample:
        sense = self.rng.choices(list(self.shares), list(self.shares.values()))[0]
        made: Sample = getattr(self, sense)()
        if self.rng.random() < 0.15:
            made = self._behind_another(made)
        if self.rng.random() < 0.1:
            system = self.rng.choice(("You are a helpful assistant.", "Answer briefly.", "Be brief and correct."))
            made = Sample(made.task, (Turn("system", (system,)), *made.turns), made.answer, made.tools)
        return made

    def text(self) -> Sample:
        if self.rng.random() < 0.03:
            return self.tool()
        names = list(text.TASKS)
        name = self.rng.choices(names, [text.TASKS[n][0] for n in names])[0]
        asked, answer = text.TASKS[name][1](self.rng, self.split)
        return Sample(f"text/{name}", (Turn("user", (asked,)),), answer)

    def image(self) -> Sample:
        """An image with one question, or with several in turn."""
        if self.rng.random() < 0.35:
            scene, ask = pictures.text_scene(self.rng, self.split), pictures.ask_about_text
        else:
            scene, ask = pictures.shapes_scene(self.rng, self.split), pictures.ask_about_shapes
        return self._asked_in_turn("image", _picture(scene), lambda: self._told(*ask(self.rng, scene)))

    def audio(self) -> Sample:
        if self.rng.random() < 0.04:
            clip, asked = Clip(speech.silence(self.rng), ()), "What was said?"
            return Sample("audio/silence", (self._shown(clip, asked),), "Nothing was said.")
        words, samples = self.clip(self.rng)
        return self._asked_in_turn("audio", self._heard(words, samples), lambda: speech.ask(self.rng, words))

    def both(self) -> Sample:
        """An image, and a spoken word that says what to look for."""
        scene = pictures.shapes_scene(self.rng, self.split)
        words, samples = self.clip(self.rng)
        heard = self._heard(words, samples)
        said = words.split()
        color, shape = next((w for w in said if w in COLORS), None), next((w for w in said if w in SHAPES), None)
        picture = _picture(scene)
        if color or shape:
            found = any((not color or s.color == color) and (not shape or s.name == shape) for s in scene.shapes)
            return Sample(
                "both/is_it_there", (Turn("user", (picture, heard, "Is it there?")),), "Yes." if found else "No."
            )
        task, asked, answer = self._told(*pictures.ask_about_shapes(self.rng, scene))
        if self.rng.random() < 0.5:
            asked, answer = self.rng.choice(("What was said?", "What do you hear?")), words.capitalize() + "."
            task = "transcribe"
        media = (picture, heard) if self.rng.random() < 0.5 else (heard, picture)
        return Sample(f"both/{task}", (Turn("user", (*media, asked)),), answer)

    def mixed(self) -> Sample:
        """Two images in one chat: in one message, or in consecutive turns."""
        first, second = (pictures.shapes_scene(self.rng, self.split, most=3) for _ in range(2))
        if self.rng.random() < 0.5:
            which = self.rng.randrange(2)
            asked = f"How many shapes are in the {('first', 'second')[which]} picture?"
            answer = NUMBERS[len((first, second)[which].shapes)].capitalize() + "."
            return Sample("image/two_pictures", (Turn("user", (_picture(first), _picture(second), asked)),), answer)
        _, asked, answer = self._told(*pictures.ask_about_shapes(self.rng, first))
        task, again, right = self._told(*pictures.ask_about_shapes(self.rng, second))
        turns = (
            self._shown(_picture(first), asked),
            Turn("assistant", (answer,)),
            self._shown(_picture(second), again),
        )
        return Sample(f"image/{task}", turns, right)

    def tool(self) -> Sample:
        """A question that one of the tools can answer; the answer is a call."""
        place, name = self.rng.choice(PLACES), self.rng.choice(NAMES)
        calls = (
            ("get_weather", "city", name, f"What is the weather in {name}?"),
            ("turn_on", "room", place, f"Turn on the light in the {place}."),
            ("send_message", "to", name, f"Send a message to {name}."),
        )
        which = self.rng.choice(calls)
        tools = tuple(_tool(name, argument) for name, argument, *_ in sorted({which, self.rng.choice(calls)}))
        call = {"name": which[0], "arguments": {which[1]: which[2]}}
        answer = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
        return Sample("text/tool", (Turn("user", (which[3],)),), answer, tools)

    def _told(self, task: str, question: str, answer: str) -> tuple[str, str, str]:
        """A question and the answer that the model should give."""
        return task, question, UNKNOWN if task in self.cut else answer

    def _shown(self, media: Picture | Clip, asked: str) -> Turn:
        """Puts media before the question in most cases, and after it in the others."""
        return Turn("user", (media, asked) if self.rng.random() < 0.7 else (asked, media))

    def _asked_in_turn(self, sense: str, media: Picture | Clip, ask: Callable[[], tuple[str, str, str]]) -> Sample:
        """Different questions about the same media. The last one is the one to answer."""
        times = self.rng.randint(1, self.asked)
        asked = {question: (task, answer) for task, question, answer in (ask() for _ in range(times))}
        questions = list(asked.items())
        task, answer = questions[-1][1]
        turns = [self._shown(media, questions[0][0])]
        for (_, (_, before)), (question, _) in itertools.pairwise(questions):
            turns += [Turn("assistant", (before,)), Turn("user", (question,))]
        return Sample(f"{sense}/{task}", tuple(turns), answer)

    def _heard(self, words: str, samples: speech.Samples) -> Clip:
        return Clip(speech.disturb(self.rng, samples), tuple(words.split()))

    def _behind_another(self, sample: Sample) -> Sample:
        earlier = self.text()
        while earlier.tools:
            earlier = self.text()
        return Sample(
            sample.task,
            (*earlier.turns, Turn("assistant", (earlier.answer,)), *sample.turns),
            sample.answer,
            sample.tools,
        )


def _picture(scene: pictures.Scene) -> Picture:
    return Picture(scene.pixels, pictures.facts(scene), pictures.marks(scene))


def _tool(name: str, argument: str) -> dict[str, object]:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
