"""N-gram proposals, and how many draft tokens are worth verifying."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.model_runner import MaxDrafts, image
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.inference.generator import Generator
from galago.runtime.speculative.drafting import MAX_DRAFT_TOKENS, DraftLengthPolicy, DraftProposal, NgramProposer
from galago.runtime.types.events import Delta, Event, Finished
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request


def test_the_tokens_after_the_last_match_are_proposed() -> None:
    assert NgramProposer([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).propose(3) == [4, 5, 6]


def test_longer_and_later_matches_are_preferred() -> None:
    assert NgramProposer([1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3]).propose(1) == [4]
    assert NgramProposer([1, 2, 3, 4, 1, 2, 3, 5, 8, 1, 2, 3]).propose(1) == [5]


def test_nothing_is_proposed_without_a_match() -> None:
    for items in ([1], [1, 1], [1, 2, 3, 4], [5, 1, 6, 1]):
        assert NgramProposer(items).propose(8) == []


def test_a_repetition_is_continued() -> None:
    assert NgramProposer([7, 1, 2, 3, 1, 2, 3]).propose(8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_media_ends_a_proposal_and_a_match() -> None:
    assert NgramProposer([1, 2, 3, 4, image(3), 5, 1, 2]).propose(8) == [3, 4]
    assert NgramProposer([image(3), 2, 3, image(3), 2]).propose(8) == []


def test_the_acceptance_follows_the_tokens() -> None:
    ngram = NgramProposer([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3])
    first = ngram.acceptance
    for token in (4, 5, 6):
        ngram.add(token)
    right = ngram.acceptance
    ngram.add(1)
    assert first < right and ngram.acceptance < right


def test_a_proposal_continues_the_last_match() -> None:
    ngram = NgramProposer([1, 2, 3, 4, 5, 2, 3, 9, 1, 2, 3])
    ngram.add(4)
    assert ngram.propose(2) == [5, 2]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(0, 8))
def test_proposals_keep_to_the_limit_and_to_known_tokens(items: list[int], added: list[int], limit: int) -> None:
    ngram = NgramProposer(items)
    for token in added:
        ngram.add(token)
    proposal = ngram.propose(limit)
    assert len(proposal) <= limit and set(proposal) <= {*items, *added}
    assert 0 < ngram.acceptance < 1


def measured(*seconds: float, first: int = 1) -> DraftLengthPolicy:
    policy = DraftLengthPolicy()
    for rows, each in enumerate(seconds, first):
        policy.record(rows, each)
    return policy


FLAT, STEEP = [1.0] * 9, [float(n) for n in range(1, 10)]


def test_if_rows_cost_nothing_all_probable_drafts_are_verified() -> None:
    assert measured(*FLAT).lengths(1, [DraftProposal(8, 0.9)], MAX_DRAFT_TOKENS) == [8]


def test_if_every_row_costs_a_step_none_is_verified() -> None:
    assert measured(*STEEP).lengths(1, [DraftProposal(8, 0.99)], MAX_DRAFT_TOKENS) == [0]


def test_improbable_drafts_are_not_verified() -> None:
    seconds = [1 + 0.2 * n for n in range(9)]
    assert measured(*seconds).lengths(1, [DraftProposal(8, 0.1)], MAX_DRAFT_TOKENS) == [0]
    assert measured(*seconds).lengths(1, [DraftProposal(8, 0.95)], MAX_DRAFT_TOKENS) == [8]


def test_free_rows_are_used_and_no_more() -> None:
    """Kernels that compute four rows at a time cause such durations."""
    policy = measured(1, 1.05, 1.05, 1.1, 2, 2, 2, 2.1, 3)
    assert policy.lengths(1, [DraftProposal(8, 0.8)], MAX_DRAFT_TOKENS) == [3]


def test_more_probable_drafts_come_first() -> None:
    policy = measured(2, 2, 2, 2.1, 4, 4, 4, first=2)
    assert policy.lengths(2, [DraftProposal(8, 0.3), DraftProposal(8, 0.95)], MAX_DRAFT_TOKENS) == [0, 3]


def test_drafts_keep_to_the_limit() -> None:
    assert sum(measured(*FLAT, *FLAT).lengths(2, [DraftProposal(8, 0.9), DraftProposal(8, 0.9)], 5)) == 5


def test_nothing_is_drafted_before_a_step_was_measured() -> None:
    assert DraftLengthPolicy().lengths(1, [DraftProposal(8, 0.9)], MAX_DRAFT_TOKENS) == [0]


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_step_sizes_are_tried_at_little_cost_and_again_later(chance: float) -> None:
    policy = measured(1.0)
    tokens = seconds = 0.0
    lengths = []
    for _ in range(2000):
        (length,) = policy.lengths(1, [DraftProposal(8, chance)], MAX_DRAFT_TOKENS)
        policy.record(1 + length, 1.0 + length)
        tokens += sum(chance**i for i in range(length + 1))
        seconds += 1.0 + length
        lengths.append(length)
    assert tokens / seconds > 0.97
    assert lengths.count(1) == (4 if chance > 0.1 else 0)


def test_a_step_size_that_was_slow_once_is_tried_again() -> None:
    policy = measured(*FLAT)
    for rows in range(2, 10):
        policy.record(rows, 100)
    for _ in range(600):
        (length,) = policy.lengths(1, [DraftProposal(8, 0.9)], MAX_DRAFT_TOKENS)
        policy.record(1 + length, 1.0)
    assert length == 8


def test_fewer_drafts_are_verified_as_more_answers_run() -> None:
    computed = []
    for running in (1, 2, 4, 8, 16):
        policy, total = DraftLengthPolicy(), 0
        for _ in range(200):
            lengths = policy.lengths(running, [DraftProposal(8, 0.7)] * running, MAX_DRAFT_TOKENS)
            rows = running + sum(lengths)
            policy.record(rows, max(4.0, rows))
            total += sum(lengths)
        computed.append(total / 200)
    assert computed[0] > 2 > 0.2 > computed[-1]
    assert computed[0] > computed[1] > computed[2]


def test_an_answer_without_repetition_wastes_few_rows() -> None:
    """Random tokens: some pairs repeat, but what followed them is hardly ever right."""
    tokens, policy = random.Random(1), DraftLengthPolicy()
    ngram, wasted = NgramProposer([]), 0
    for _ in range(2000):
        (length,) = policy.lengths(
            1, [DraftProposal(len(ngram.propose(MAX_DRAFT_TOKENS)), ngram.acceptance)], MAX_DRAFT_TOKENS
        )
        policy.record(1 + length, 1.0 + 0.1 * length)
        wasted += length
        ngram.add(tokens.randrange(30))
    assert wasted * 0.1 / 2000 < 0.03


@pytest.fixture(scope="module")
def drafting_model() -> Iterator[Generator]:
    """The built-in model with every draft verified; a request without reuse gets none."""
    model = Generator(resolve("builtin"), ModelConfig(slots=2, threads=1))
    model._engine._drafter.policy = MaxDrafts()
    yield model
    model.close()


class RecordedSamples:
    """Wraps a runner's `sample`: records each token, and by how much its logit leads."""

    def __init__(self, runner: Any) -> None:
        self._sample, self._logits = runner.sample, runner._context.logits
        self.tokens: list[tuple[int, float]] = []

    def __call__(self, row: int, sampler: Any) -> Any:
        chosen = self._sample(row, sampler)
        second, first = np.partition(self._logits(row), -2)[-2:]
        self.tokens.append((chosen.token, float(first - second)))
        return chosen


def answers(model: Generator, text: str, **options: Any) -> list[tuple[str, Finished]]:
    """The model's answers with drafts and without."""
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
def test_the_model_answers_the_same_with_drafts(
    drafting_model: Generator, text: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, except if two tokens are equally probable: then the last digits decide."""
    samples = RecordedSamples(drafting_model._engine._runner)
    monkeypatch.setattr(drafting_model._engine._runner, "sample", samples)
    (drafted, used), (plain, alone) = answers(drafting_model, text, **options)
    count = used.usage.completion_tokens
    with_drafts, without = samples.tokens[:count], samples.tokens[count:]
    assert len(without) == alone.usage.completion_tokens
    tie = next((i for i, (a, b) in enumerate(zip(with_drafts, without, strict=False)) if a[0] != b[0]), None)
    if tie is None:
        assert (drafted, used.reason, count) == (plain, alone.reason, len(without))
    else:
        assert with_drafts[tie][1] < 0.1 and without[tie][1] < 0.1
    assert alone.usage.accepted_draft_tokens == alone.usage.rejected_draft_tokens == 0
    if "json_schema" in options:
        assert used.usage.accepted_draft_tokens > 60


def test_drafts_are_counted_in_the_usage(drafting_model: Generator) -> None:
    (_, used), _ = answers(drafting_model, "Count to ten. ", ignore_eos=True, max_tokens=200)
    assert used.usage.accepted_draft_tokens > 10 and used.usage.rejected_draft_tokens > 10
