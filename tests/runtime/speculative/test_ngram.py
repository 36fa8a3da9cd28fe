"""Guesses from what was said before, and when they are worth computing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.model_runner import Eager, picture
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.inference.generator import Generator
from galago.runtime.speculative.acceptance import MAX_DRAFT_TOKENS, DraftLengthPolicy, DraftProposal
from galago.runtime.speculative.ngram import NgramProposer
from galago.runtime.types.events import Delta, Event, Finished
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request


def test_what_followed_the_last_tokens_is_guessed() -> None:
    assert NgramProposer([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).guess(3) == [4, 5, 6]


def test_three_tokens_count_for_more_than_two_and_later_for_more_than_earlier() -> None:
    assert NgramProposer([1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3]).guess(1) == [4]
    assert NgramProposer([1, 2, 3, 4, 1, 2, 3, 5, 8, 1, 2, 3]).guess(1) == [5]


def test_nothing_new_is_guessed() -> None:
    for items in ([1], [1, 1], [1, 2, 3, 4], [5, 1, 6, 1]):
        assert NgramProposer(items).guess(8) == []


def test_a_repetition_is_guessed_to_go_on_repeating() -> None:
    assert NgramProposer([7, 1, 2, 3, 1, 2, 3]).guess(8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_media_is_neither_guessed_nor_looked_beyond() -> None:
    assert NgramProposer([1, 2, 3, 4, picture(3), 5, 1, 2]).guess(8) == [3, 4]
    assert NgramProposer([picture(3), 2, 3, picture(3), 2]).guess(8) == []


def test_the_chance_follows_whether_guesses_are_right() -> None:
    echo = NgramProposer([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3])
    first = echo.chance
    for token in (4, 5, 6):
        echo.add(token)
    right = echo.chance
    echo.add(1)
    assert first < right and echo.chance < right


def test_a_guess_goes_on_where_the_last_one_was_right() -> None:
    echo = NgramProposer([1, 2, 3, 4, 5, 2, 3, 9, 1, 2, 3])
    echo.add(4)
    assert echo.guess(2) == [5, 2]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(0, 8))
def test_a_guess_is_never_longer_than_asked_and_of_tokens_that_came_before(
    items: list[int], added: list[int], most: int
) -> None:
    echo = NgramProposer(items)
    for token in added:
        echo.add(token)
    guess = echo.guess(most)
    assert len(guess) <= most and set(guess) <= {*items, *added}
    assert 0 < echo.chance < 1


def measured(*seconds: float, first: int = 1) -> DraftLengthPolicy:
    odds = DraftLengthPolicy()
    for rows, each in enumerate(seconds, first):
        odds.measured(rows, each)
    return odds


FLAT, STEEP = [1.0] * 9, [float(n) for n in range(1, 10)]


def test_where_rows_cost_nothing_all_likely_guesses_are_computed() -> None:
    assert measured(*FLAT).lengths(1, [DraftProposal(8, 0.9)], MAX_DRAFT_TOKENS) == [8]


def test_where_every_row_costs_a_step_none_is() -> None:
    assert measured(*STEEP).lengths(1, [DraftProposal(8, 0.99)], MAX_DRAFT_TOKENS) == [0]


def test_unlikely_guesses_are_not_computed() -> None:
    seconds = [1 + 0.2 * n for n in range(9)]
    assert measured(*seconds).lengths(1, [DraftProposal(8, 0.1)], MAX_DRAFT_TOKENS) == [0]
    assert measured(*seconds).lengths(1, [DraftProposal(8, 0.95)], MAX_DRAFT_TOKENS) == [8]


def test_rows_that_come_for_free_are_used_and_no_more() -> None:
    """Kernels that compute four rows at a time make steps of that shape."""
    odds = measured(1, 1.05, 1.05, 1.1, 2, 2, 2, 2.1, 3)
    assert odds.lengths(1, [DraftProposal(8, 0.8)], MAX_DRAFT_TOKENS) == [3]


def test_likelier_guesses_come_first() -> None:
    odds = measured(2, 2, 2, 2.1, 4, 4, 4, first=2)
    assert odds.lengths(2, [DraftProposal(8, 0.3), DraftProposal(8, 0.95)], MAX_DRAFT_TOKENS) == [0, 3]


def test_guesses_keep_to_the_room_there_is() -> None:
    assert sum(measured(*FLAT, *FLAT).lengths(2, [DraftProposal(8, 0.9), DraftProposal(8, 0.9)], 5)) == 5


def test_with_nothing_measured_nothing_is_guessed() -> None:
    assert DraftLengthPolicy().lengths(1, [DraftProposal(8, 0.9)], MAX_DRAFT_TOKENS) == [0]


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_numbers_of_rows_are_tried_at_little_cost_and_again_after_a_while(chance: float) -> None:
    odds = measured(1.0)
    tokens = seconds = 0.0
    lengths = []
    for _ in range(2000):
        (length,) = odds.lengths(1, [DraftProposal(8, chance)], MAX_DRAFT_TOKENS)
        odds.measured(1 + length, 1.0 + length)
        tokens += sum(chance**i for i in range(length + 1))
        seconds += 1.0 + length
        lengths.append(length)
    assert tokens / seconds > 0.97
    assert lengths.count(1) == (4 if chance > 0.1 else 0)


def test_a_step_that_took_long_by_accident_is_tried_again() -> None:
    odds = measured(*FLAT)
    for rows in range(2, 10):
        odds.measured(rows, 100)
    for _ in range(600):
        (length,) = odds.lengths(1, [DraftProposal(8, 0.9)], MAX_DRAFT_TOKENS)
        odds.measured(1 + length, 1.0)
    assert length == 8


def test_guesses_fade_out_as_more_answers_run() -> None:
    computed = []
    for running in (1, 2, 4, 8, 16):
        odds, total = DraftLengthPolicy(), 0
        for _ in range(200):
            lengths = odds.lengths(running, [DraftProposal(8, 0.7)] * running, MAX_DRAFT_TOKENS)
            rows = running + sum(lengths)
            odds.measured(rows, max(4.0, rows))
            total += sum(lengths)
        computed.append(total / 200)
    assert computed[0] > 2 > 0.2 > computed[-1]
    assert computed[0] > computed[1] > computed[2]


def test_an_answer_that_does_not_repeat_itself_is_left_alone() -> None:
    """Tokens in an order of chance: some pairs come again, and what followed them is hardly ever right."""
    tokens, odds = random.Random(1), DraftLengthPolicy()
    echo, wasted = NgramProposer([]), 0
    for _ in range(2000):
        (length,) = odds.lengths(1, [DraftProposal(len(echo.guess(MAX_DRAFT_TOKENS)), echo.chance)], MAX_DRAFT_TOKENS)
        odds.measured(1 + length, 1.0 + 0.1 * length)
        wasted += length
        echo.add(tokens.randrange(30))
    assert wasted * 0.1 / 2000 < 0.03


@pytest.fixture(scope="module")
def eager() -> Iterator[Generator]:
    """The built-in model, which has every guess computed; a request that takes nothing from others has none."""
    model = Generator(resolve("builtin"), ModelConfig(slots=2, threads=1))
    model._engine._scheduler.odds = Eager()
    yield model
    model.close()


class Choices:
    """Stands before a backend: notes each token that is chosen, and by how much its logit leads."""

    def __init__(self, backend: Any) -> None:
        self._choose, self._logits = backend.choose, backend._context.logits
        self.made: list[tuple[int, float]] = []

    def __call__(self, row: int, sampler: Any) -> Any:
        chosen = self._choose(row, sampler)
        second, first = np.partition(self._logits(row), -2)[-2:]
        self.made.append((chosen.token, float(first - second)))
        return chosen


def answers(model: Generator, text: str, **options: Any) -> list[tuple[str, Finished]]:
    """What the model answers with guesses, and without."""
    found = []
    for cache in (True, False):
        request = Request((Message("user", (Text(text),)),), cache=cache, **options)
        events: list[Event] = list(model.generate(request))
        last = events[-1]
        assert isinstance(last, Finished), last
        found.append(("".join(e.text for e in events if isinstance(e, Delta)), last))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_eos": True, "max_tokens": 200},
        {"ignore_eos": True, "max_tokens": 200, "stop": ("44",)},
        {"json_schema": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 30, "maxItems": 30}},
        {},
    ],
    ids=["long", "stop", "schema", "short"],
)
@pytest.mark.parametrize("text", ["Count to ten. Count to ten. ", "red blue red blue red blue", "Opposite of big?"])
def test_the_model_says_the_same_with_guesses(
    eager: Generator, text: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, but where two tokens are as likely as each other: there, last digits decide."""
    choices = Choices(eager._engine._backend)
    monkeypatch.setattr(eager._engine._backend, "choose", choices)
    (guessed, used), (plain, alone) = answers(eager, text, **options)
    count = used.usage.completion_tokens
    with_guesses, without = choices.made[:count], choices.made[count:]
    assert len(without) == alone.usage.completion_tokens
    tie = next((i for i, (a, b) in enumerate(zip(with_guesses, without, strict=False)) if a[0] != b[0]), None)
    if tie is None:
        assert (guessed, used.reason, count) == (plain, alone.reason, len(without))
    else:
        assert with_guesses[tie][1] < 0.1 and without[tie][1] < 0.1
    assert alone.usage.accepted_draft_tokens == alone.usage.rejected_draft_tokens == 0
    if "json_schema" in options:
        assert used.usage.accepted_draft_tokens > 60


def test_guesses_are_counted_in_the_usage(eager: Generator) -> None:
    (_, used), _ = answers(eager, "Count to ten. ", ignore_eos=True, max_tokens=200)
    assert used.usage.accepted_draft_tokens > 10 and used.usage.rejected_draft_tokens > 10
