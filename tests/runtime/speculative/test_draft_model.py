"""A draft model's guesses: what it reads along, what it guesses, and that answers stay the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.model_runner import Eager, FakeBackend, picture, prompt
from galago.models.errors import ModelError
from galago.models.registry.resolve import builtin_folder
from galago.runtime import load
from galago.runtime.engine.engine import Engine
from galago.runtime.inference.stream import Stream
from galago.runtime.speculative.acceptance import DraftLengthPolicy, DraftProposal
from galago.runtime.speculative.draft_model import AHEAD, MAX_DRAFTED, DraftModel, DraftRequest
from galago.runtime.types.events import Delta, Event, Finished


class FakeDraft(FakeBackend):
    """Says t + 1 after t, as the model itself does, but for every so many tokens."""

    def __init__(self, cells: int = 400, wrong: int = 0) -> None:
        super().__init__(cells, batch=AHEAD)
        self.wrong = wrong

    def likeliest(self, row: int) -> int:
        token = self._rows[row].token + 1
        return token + 50 if self.wrong and token % self.wrong == 0 else token


def drafter(backend: FakeDraft, slots: int = 2) -> DraftModel:
    return DraftModel(backend, slots, backend.cells)


def test_guesses_follow_what_was_read() -> None:
    guesses = drafter(FakeDraft()).guess([DraftRequest(0, [1, 2, 3], 3), DraftRequest(1, [7], 1)])
    assert guesses == {0: [4, 5, 6], 1: [8]}


def test_only_what_is_new_is_read() -> None:
    backend = FakeDraft()
    draft = drafter(backend)
    draft.guess([DraftRequest(0, [*range(30)], 3)])
    draft.guess([DraftRequest(0, [*range(32)], 1)])  # two of the guesses were right
    draft.guess([DraftRequest(0, [*range(31), 70], 1)])
    assert [len(step) for step in backend.steps] == [30, 1, 1, 1, 1]


def test_a_long_prompt_is_read_over_several_steps_and_guessed_then() -> None:
    draft = drafter(FakeDraft())
    items = list(range(3 * AHEAD))
    assert [bool(draft.guess([DraftRequest(0, items, 2)])) for _ in range(3)] == [False, False, True]


def test_what_holds_a_picture_is_not_guessed() -> None:
    assert drafter(FakeDraft()).guess([DraftRequest(0, [1, picture(4), 2], 2)]) == {}


def test_slots_that_nobody_asks_about_make_room() -> None:
    backend = FakeDraft(cells=50)
    draft = drafter(backend)
    draft.guess([DraftRequest(0, [*range(30)], 1)])
    assert draft.guess([DraftRequest(1, [*range(30)], 2)]) == {1: [30, 31]}
    assert not backend.held[0]
    assert draft.guess([DraftRequest(1, [*range(60)], 2)]) == {}


def answer(
    slots: int, wrong: int | None, items: list[int], count: int, odds: DraftLengthPolicy
) -> tuple[list[Event], FakeBackend]:
    backend = FakeBackend(cells=400, batch=64)
    draft = None if wrong is None else drafter(FakeDraft(wrong=wrong), slots)
    engine = Engine(backend, slots=slots, cells=backend.cells, batch=backend.batch, drafter=draft)
    engine._scheduler.odds = odds
    stream = Stream()
    options: dict[str, Any] = {"max_tokens": count, "ends_at": frozenset(), "stop": ()}
    engine.submit(prompt(*items), sampler=None, sink=stream.put, arrived=time.perf_counter(), **options)
    events = list(stream)
    engine.close()
    return events, backend


def test_right_drafts_save_steps() -> None:
    events, backend = answer(1, 0, [1], 20, Eager())
    assert isinstance(events[-1], Finished) and events[-1].usage.accepted_draft_tokens > 10
    assert len(backend.steps) <= 2 + 20 / (MAX_DRAFTED + 1)


class Never(DraftLengthPolicy):
    def lengths(self, rows: int, offers: list[DraftProposal], most: int) -> list[int]:
        return [0] * len(offers)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=100), st.integers(1, 40), st.sampled_from([0, 2, 3, 7]))
def test_drafts_change_no_answer(items: list[int], count: int, wrong: int) -> None:
    with_drafts, _ = answer(1, wrong, items, count, Eager())
    without, _ = answer(1, None, items, count, Never())
    assert [e for e in with_drafts if isinstance(e, Delta)] == [e for e in without if isinstance(e, Delta)]


def test_what_takes_longer_than_it_saves_is_not_drafted() -> None:
    odds = DraftLengthPolicy()
    for rows in (1, 2, 3):
        odds.measured(rows, 0.010)
    assert odds.lengths(1, [DraftProposal(2, 0.9, cost=0.001)], 8) == [2]
    assert odds.lengths(1, [DraftProposal(2, 0.9, cost=0.010)], 8) == [0]


@pytest.mark.parametrize(("wrong", "used"), [(0, True), (1, False)])
def test_trust_decides(wrong: int, used: bool) -> None:
    odds = DraftLengthPolicy()
    for rows in range(1, 10):
        odds.measured(rows, 1.0)  # seconds: further rows cost nothing, a draft next to nothing
    events, _ = answer(1, wrong, [1], 120, Frozen(odds))
    assert isinstance(events[-1], Finished)
    usage = events[-1].usage
    assert usage.accepted_draft_tokens > 80 if used else usage.rejected_draft_tokens < 60


def test_a_model_drafts_for_itself_and_says_the_same() -> None:
    """The built-in model in two roles, so that every guess it makes is right."""
    with load("builtin", slots=1) as alone, load("builtin", draft="builtin", slots=1) as drafted:
        cast(Any, drafted._service).default.loaded._engine._scheduler.odds = Eager()
        accepted = 0
        for question in ("How much is 7 plus 5?", "Spell cat.", "Repeat this: red lamp and blue box"):
            reply = drafted.chat(question, max_tokens=24)
            assert reply == alone.chat(question, max_tokens=24, cache=False)
            accepted += reply.usage.accepted_draft_tokens
        assert accepted >= 8


def test_a_draft_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    write_llama(other, renamed="zz")
    with pytest.raises(ModelError, match="other.gguf cannot draft for .*vocabularies differ"):
        load("builtin", draft=other)


def write_llama(path: Path, renamed: str) -> None:
    """The built-in model with other texts for its tokens."""
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Frozen(DraftLengthPolicy):
    """Odds that no measurement changes any more."""

    def __init__(self, odds: DraftLengthPolicy) -> None:
        self._odds = odds

    def measured(self, rows: int, seconds: float) -> None:
        pass

    def lengths(self, rows: int, offers: list[DraftProposal], most: int) -> list[int]:
        return self._odds.lengths(rows, offers, most)
