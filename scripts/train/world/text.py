"""Text questions with their right answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import TypeVarTuple

from .lexicon import (
    ANIMALS,
    BEYOND,
    COLORS,
    DAYS,
    MONTHS,
    NAMES,
    NUMBERS,
    OPPOSITES,
    PLACES,
    SHORT_WORDS,
    THINGS,
    UNKNOWN,
)
from .split import Split

Question = tuple[str, str]
Values = TypeVarTuple("Values")
"""A question and its right answer."""


def _pick(rng: Random, split: Split, make: Callable[[], tuple[*Values]]) -> tuple[*Values]:
    """Generates combinations until one belongs to the split."""
    while True:
        key = make()
        if split.holds(*key):
            return key


def add(rng: Random, split: Split) -> Question:
    _, a, b = _pick(rng, split, lambda: ("add", rng.randint(0, 20), rng.randint(0, 20)))
    total = a + b
    forms = (f"What is {a} + {b}?", f"{a} + {b} = ?", f"Add {a} and {b}.", f"What is {a} plus {b}?")
    return rng.choice(forms), str(total)


def subtract(rng: Random, split: Split) -> Question:
    _, a, b = _pick(rng, split, lambda: ("subtract", a := rng.randint(0, 20), rng.randint(0, a)))
    rest = a - b
    return rng.choice((f"What is {a} - {b}?", f"{a} - {b} = ?", f"What is {a} minus {b}?")), str(rest)


def sum_as_json(rng: Random, split: Split) -> Question:
    question, answer = rng.choice((add, subtract))(rng, split)
    form = rng.choice(("Answer in JSON: {}", "{} Answer in JSON.", "Reply with JSON. {}"))
    asked = form.format(question if form.index("{}") == 0 else question[0].lower() + question[1:])
    return asked, json.dumps({"answer": int(answer)})


def compare(rng: Random, split: Split) -> Question:
    _, a, b = _pick(rng, split, lambda: ("compare", rng.randint(0, 99), rng.randint(0, 99)))
    if a == b:
        return f"Are {a} and {b} equal?", "Yes."
    larger = rng.random() < 0.5
    right = max(a, b) if larger else min(a, b)
    word = rng.choice(("larger", "bigger", "greater") if larger else ("smaller", "less"))
    return f"Which is {word}: {a} or {b}?", str(right)


def series(rng: Random, split: Split) -> Question:
    def make() -> tuple[str, int, int]:
        return "series", rng.randint(0, 20), rng.choice((1, 1, 2, 3, 5, 10))

    _, start, step = _pick(rng, split, make)
    values = [start + i * step for i in range(4)]
    shown = ", ".join(map(str, values[:3]))
    return rng.choice((f"Continue: {shown}", f"What comes next: {shown}?")), str(values[3])


def after_before(rng: Random, split: Split) -> Question:
    names = rng.choice((DAYS, MONTHS))
    i, step = rng.randrange(len(names)), rng.choice((1, -1))
    kind = "day" if names is DAYS else "month"
    word = "after" if step == 1 else "before"
    asked = rng.choice((f"What {kind} comes {word} {names[i]}?", f"Which {kind} is {word} {names[i]}?"))
    return asked, names[(i + step) % len(names)] + "."


def opposite(rng: Random, split: Split) -> Question:
    word, other = rng.choice(list(OPPOSITES.items()))
    if rng.random() < 0.5:
        word, other = other, word
    forms = (f"Opposite of {word}?", f"Give the opposite of {word}.", f"What is the opposite of {word}?")
    return rng.choice(forms), other.capitalize() + "."


def animal(rng: Random, split: Split) -> Question:
    name, sound = rng.choice(list(ANIMALS.items()))
    return rng.choice((f"Which animal {sound}?", f"What animal {sound}?")), f"A {name}."


def _word(rng: Random, split: Split) -> str:
    if rng.random() < 0.5:
        return str(_pick(rng, split, lambda: (rng.choice(SHORT_WORDS),))[0])
    letters = "abcdefghijklmnopqrstuvwxyz"
    return str(_pick(rng, split, lambda: ("".join(rng.choices(letters, k=rng.randint(2, 5))),))[0])


def spell(rng: Random, split: Split) -> Question:
    word = _word(rng, split)
    return rng.choice((f"Spell {word}.", f"How do you spell {word}?")), "-".join(word)


def repeat(rng: Random, split: Split) -> Question:
    words = " ".join(_word(rng, split) for _ in range(rng.randint(1, 4)))
    return rng.choice((f"Repeat: {words}", f"Say: {words}", f"Repeat after me: {words}")), words


def story(rng: Random, split: Split) -> Question:
    name, thing, color, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(list(COLORS)), rng.choice(PLACES)
    while not split.holds("story", name, thing, color, place):
        name, thing, color, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(list(COLORS)), rng.choice(PLACES)
    told = f"{name} has a {color} {thing} in the {place}."
    questions = (
        (f"Who has the {thing}?", f"{name}."),
        (f"What does {name} have?", f"A {color} {thing}."),
        (f"What color is the {thing}?", f"{color.capitalize()}."),
        (f"Where is the {thing}?", f"In the {place}."),
        ("Answer in JSON.", json.dumps({"name": name, "thing": thing, "color": color})),
    )
    asked, answer = rng.choice(questions)
    return f"{told} {asked}", answer


def item_as_json(rng: Random, split: Split) -> Question:
    color, thing, count = rng.choice(list(COLORS)), rng.choice(THINGS), rng.randint(2, 12)
    while not split.holds("item", color, thing, count):
        color, thing, count = rng.choice(list(COLORS)), rng.choice(THINGS), rng.randint(2, 12)
    asked = rng.choice(("As JSON: {}", "Write as JSON: {}", "Convert to JSON: {}"))
    return asked.format(f"{NUMBERS[count]} {color} {thing}s"), json.dumps(
        {"thing": thing, "color": color, "count": count}
    )


def beyond(rng: Random, split: Split) -> Question:
    return str(_pick(rng, split, lambda: (rng.choice(BEYOND),))[0]), UNKNOWN


def greeting(rng: Random, split: Split) -> Question:
    return rng.choice(("Hello", "Hi", "Hello!", "Hi there", "Good morning")), "Hello."


TASKS: dict[str, tuple[float, Callable[[Random, Split], Question]]] = {
    "add": (3.0, add),
    "subtract": (3.0, subtract),
    "sum_as_json": (1.5, sum_as_json),
    "compare": (1.5, compare),
    "series": (1.5, series),
    "after_before": (1.0, after_before),
    "opposite": (0.8, opposite),
    "animal": (0.3, animal),
    "spell": (1.0, spell),
    "repeat": (1.5, repeat),
    "story": (1.5, story),
    "item_as_json": (1.0, item_as_json),
    "beyond": (0.8, beyond),
    "greeting": (0.2, greeting),
}
"""Pairs of task and its share of the questions."""
