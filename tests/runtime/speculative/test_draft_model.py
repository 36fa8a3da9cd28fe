"""Draft models: what they compute, what they propose, and that answers stay the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.gguf_writing import write_and_close
from fakes.model_runner import FakeRunner, MaxDrafts, image, prompt
from galago.models.errors import ModelError
from galago.models.registry.resolve import builtin_folder
from galago.runtime import load
from galago.runtime.engine.engine import Engine
from galago.runtime.inference.stream import Stream
from galago.runtime.speculative.draft_model import MAX_PREFILL_ROWS, DraftModel
from galago.runtime.speculative.drafting import (
    MAX_MODEL_DRAFT_TOKENS,
    DraftLengthPolicy,
    DraftProposal,
    DraftRequest,
)
from galago.runtime.types.events import Delta, Event, Finished


class FakeDraft(FakeRunner):
    """Proposes t + 1 after t, as the model itself samples, except for every `wrong`-th token."""

    def __init__(self, cells: int = 400, wrong: int = 0) -> None:
        super().__init__(cells, batch=MAX_PREFILL_ROWS)
        self.wrong = wrong

    def top_token(self, row: int) -> int:
        token = self._rows[row].token + 1
        return token + 50 if self.wrong and token % self.wrong == 0 else token


def drafter(runner: FakeDraft, slots: int = 2) -> DraftModel:
    return DraftModel(runner, slots, runner.cells)


def test_drafts_continue_the_sequence() -> None:
    guesses = drafter(FakeDraft()).draft([DraftRequest(0, [1, 2, 3], 3), DraftRequest(1, [7], 1)])
    assert guesses == {0: [4, 5, 6], 1: [8]}


def test_only_new_tokens_are_computed() -> None:
    runner = FakeDraft()
    draft = drafter(runner)
    draft.draft([DraftRequest(0, [*range(30)], 3)])
    draft.draft([DraftRequest(0, [*range(32)], 1)])  # two of the draft tokens were right
    draft.draft([DraftRequest(0, [*range(31), 70], 1)])
    assert [len(step) for step in runner.steps] == [30, 1, 1, 1, 1]


def test_a_long_prompt_takes_several_steps_before_the_first_draft() -> None:
    draft = drafter(FakeDraft())
    items = list(range(3 * MAX_PREFILL_ROWS))
    assert [bool(draft.draft([DraftRequest(0, items, 2)])) for _ in range(3)] == [False, False, True]


def test_sequences_with_media_get_no_drafts() -> None:
    assert drafter(FakeDraft()).draft([DraftRequest(0, [1, image(4), 2], 2)]) == {}


def test_slots_without_a_request_make_room() -> None:
    runner = FakeDraft(cells=50)
    draft = drafter(runner)
    draft.draft([DraftRequest(0, [*range(30)], 1)])
    assert draft.draft([DraftRequest(1, [*range(30)], 2)]) == {1: [30, 31]}
    assert not runner.held[0]
    assert draft.draft([DraftRequest(1, [*range(60)], 2)]) == {}


def answer(
    slots: int, wrong: int | None, items: list[int], count: int, policy: DraftLengthPolicy
) -> tuple[list[Event], FakeRunner]:
    runner = FakeRunner(cells=400, batch=64)
    draft = None if wrong is None else drafter(FakeDraft(wrong=wrong), slots)
    engine = Engine(runner, slots=slots, cells=runner.cells, batch=runner.batch, draft_model=draft)
    engine._drafter.policy = policy
    stream = Stream()
    options: dict[str, Any] = {"max_tokens": count, "end_tokens": frozenset(), "stop": ()}
    engine.submit(prompt(*items), sampler=None, sink=stream.put, arrived_at=time.perf_counter(), **options)
    events = list(stream)
    engine.close()
    return events, runner


def test_right_drafts_save_steps() -> None:
    events, runner = answer(1, 0, [1], 20, MaxDrafts())
    assert isinstance(events[-1], Finished) and events[-1].usage.accepted_draft_tokens > 10
    assert len(runner.steps) <= 2 + 20 / (MAX_MODEL_DRAFT_TOKENS + 1)


class NoDrafts(DraftLengthPolicy):
    def lengths(self, rows: int, proposals: list[DraftProposal], limit: int) -> list[int]:
        return [0] * len(proposals)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=100), st.integers(1, 40), st.sampled_from([0, 2, 3, 7]))
def test_drafts_change_no_answer(items: list[int], count: int, wrong: int) -> None:
    with_drafts, _ = answer(1, wrong, items, count, MaxDrafts())
    without, _ = answer(1, None, items, count, NoDrafts())
    assert [e for e in with_drafts if isinstance(e, Delta)] == [e for e in without if isinstance(e, Delta)]


def test_drafts_that_cost_more_than_they_save_are_not_made() -> None:
    policy = DraftLengthPolicy()
    for rows in (1, 2, 3):
        policy.record(rows, 0.010)
    assert policy.lengths(1, [DraftProposal(2, 0.9, seconds=0.001)], 8) == [2]
    assert policy.lengths(1, [DraftProposal(2, 0.9, seconds=0.010)], 8) == [0]


@pytest.mark.parametrize(("wrong", "used"), [(0, True), (1, False)])
def test_acceptance_decides_whether_drafts_are_made(wrong: int, used: bool) -> None:
    policy = DraftLengthPolicy()
    for rows in range(1, 10):
        policy.record(rows, 1.0)  # seconds: further rows cost nothing, a draft token next to nothing
    events, _ = answer(1, wrong, [1], 120, FrozenPolicy(policy))
    assert isinstance(events[-1], Finished)
    usage = events[-1].usage
    assert usage.accepted_draft_tokens > 80 if used else usage.rejected_draft_tokens < 60


def test_a_model_that_drafts_for_itself_gives_the_same_answers() -> None:
    """The built-in model in both roles, so that every draft token is right."""
    with load("builtin", slots=1) as alone, load("builtin", draft="builtin", slots=1) as drafted:
        cast(Any, drafted._service)._given[0].loaded._engine._drafter.policy = MaxDrafts()
        accepted = 0
        for question in ("How much is 7 plus 5?", "Spell cat.", "Repeat this: red lamp and blue box"):
            reply = drafted.chat(question, max_tokens=24)
            assert reply == alone.chat(question, max_tokens=24, cache=False)
            accepted += reply.usage.accepted_draft_tokens
        assert accepted >= 8


def test_a_draft_model_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    write_llama(other, renamed="zz")
    with pytest.raises(ModelError, match="other.gguf cannot draft for .*vocabularies differ"):
        load("builtin", draft=other)


def write_llama(path: Path, renamed: str) -> None:
    """Writes the built-in model with other texts for its tokens."""
    reader = gguf.GGUFReader(builtin_folder() / "text-Q8_0.gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, field in reader.fields.items():
        value = field.contents()
        if name == "tokenizer.ggml.tokens":
            value = [f"{renamed}{n}" if 100 <= n < 250 else token for n, token in enumerate(value)]
        if field.types and not name.startswith("GGUF.") and name != "general.architecture":
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(name, value)
            else:
                writer.add_key_value(name, value, field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write_and_close(writer)


class FrozenPolicy(DraftLengthPolicy):
    """A policy that no measurement changes."""

    def __init__(self, policy: DraftLengthPolicy) -> None:
        self._odds = policy

    def record(self, rows: int, seconds: float) -> None:
        pass

    def lengths(self, rows: int, proposals: list[DraftProposal], limit: int) -> list[int]:
        return self._odds.lengths(rows, proposals, limit)
