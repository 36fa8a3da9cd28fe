"""The built-in model's training data: answers are correct, and held-out combinations are never in it."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from world import Clip, Maker, Picture, Sample, Split, pictures, speech, text
from world.lexicon import NUMBERS, SPOKEN


def spoken(rng: Random) -> tuple[str, speech.Samples]:
    words = speech.utterance(rng, Split.TRAIN)
    return words, np.sin(np.arange(8000, dtype=np.float32) / 20) * np.float32(0.3)


def samples(seed: int, count: int, split: Split = Split.TRAIN, **shares: float) -> list[Sample]:
    maker = Maker(Random(seed), split, spoken, shares or {"text": 1, "audio": 1})
    return [maker.sample() for _ in range(count)]


def test_a_seed_reproduces_the_samples() -> None:
    first, again, other = ([s.answer for s in samples(seed, 50)] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", text.TASKS)
def test_every_text_task_has_questions_with_answers(name: str) -> None:
    rng = Random(name)
    for _ in range(50):
        asked, answer = text.TASKS[name][1](rng, Split.TRAIN)
        assert asked and answer and asked != answer


def test_sums_are_correct() -> None:
    rng = Random(3)
    for _ in range(100):
        asked, answer = text.add(rng, Split.TRAIN)
        numbers = [int(w) for w in asked.replace("?", " ").replace(".", " ").split() if w.isdecimal()]
        assert sum(numbers) == int(answer)


def test_json_answers_are_valid_json() -> None:
    answers = [s.answer for s in samples(4, 600) if "json" in s.task]
    assert len(answers) > 20 and all(isinstance(json.loads(a), dict) for a in answers)


def test_tool_calls_name_an_offered_tool() -> None:
    maker = Maker(Random(5), Split.TRAIN, spoken)
    for _ in range(30):
        sample = maker.tool()
        call = json.loads(sample.answer.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        given: Any = {tool["function"]["name"]: tool["function"] for tool in sample.tools}  # type: ignore[index]
        assert set(call["arguments"]) == set(given[call["name"]]["parameters"]["required"])


def test_counts_match_the_drawn_shapes() -> None:
    rng = Random(6)
    for _ in range(60):
        scene = pictures.shapes_scene(rng, Split.TRAIN)
        question = pictures.count(rng, scene)
        assert question and question[1] == NUMBERS[len(scene.shapes)].capitalize() + "."
        assert f"{len(scene.shapes)} shapes" in pictures.facts(scene)
        assert set(pictures.facts(scene)) <= set(pictures.FACTS)


def test_a_single_shape_stands_out_from_its_background() -> None:
    rng = Random(7)
    for _ in range(60):
        scene = pictures.shapes_scene(rng, Split.TRAIN, most=1)
        shape = scene.shapes[0]
        centre = scene.pixels[int(shape.y), int(shape.x)].astype(int)
        corner = scene.pixels[0, 0].astype(int)
        assert shape.name == "ring" or np.abs(centre - corner).sum() > 30


def test_training_contains_no_held_out_combination() -> None:
    def scenes(split: Split) -> set[Any]:
        rng = Random(8)
        drawn = (pictures.shapes_scene(rng, split) for _ in range(150))
        return {(s.background, *sorted((x.name, x.color) for x in s.shapes)) for s in drawn if len(s.shapes) > 2}

    assert not scenes(Split.TRAIN) & scenes(Split.TEST)
    places = Counter(next(s for s in Split if s.holds("sample", i)) for i in range(2000))
    assert 0.75 < places[Split.TRAIN] / 2000 < 0.85


def test_disturbed_clips_stay_valid() -> None:
    rng = Random(9)
    for _ in range(40):
        clip = speech.disturb(rng, spoken(rng)[1])
        assert clip.dtype == np.float32 and np.isfinite(clip).all() and np.abs(clip).max() <= 1
        assert 8000 <= len(clip) <= speech.LONGEST * speech.RATE


def test_clips_contain_known_words_only() -> None:
    for sample in samples(10, 100, audio=1):
        for turn in sample.turns:
            for part in turn.parts:
                assert not isinstance(part, Clip) or set(part.words) <= set(SPOKEN)


def test_images_of_text_have_the_facts_of_the_text() -> None:
    try:
        pictures.fonts(Split.TRAIN)
    except FileNotFoundError:
        pytest.skip("no fonts on this machine")
    rng = Random(11)
    for _ in range(30):
        scene = pictures.text_scene(rng, Split.TRAIN)
        assert {f"{i} {c}" for i, c in enumerate(scene.text.lower())} <= set(pictures.facts(scene))
        assert scene.pixels.std() > 5


def test_images_and_audio_are_mixed_in_one_chat() -> None:
    parts = [p for s in samples(12, 60, both=1) for t in s.turns for p in t.parts]
    assert any(isinstance(p, Picture) for p in parts) and any(isinstance(p, Clip) for p in parts)
