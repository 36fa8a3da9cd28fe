"""The engine over a fake backend: scheduling, fairness, cancellation, failure."""

from __future__ import annotations

import math
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.model_runner import END, Eager, FakeBackend, picture, prompt
from galago.models.errors import DeadlineExceeded, EngineError, NotReady
from galago.runtime.cache.prefix_cache import PrefixCache
from galago.runtime.engine.detokenizer import Detokenizer
from galago.runtime.engine.engine import Engine
from galago.runtime.engine.scheduler import RETREAD, Scheduler, TokenStep
from galago.runtime.engine.sequence import Sequence
from galago.runtime.engine.slots import Slot, cells_taken
from galago.runtime.inference.stream import Stream
from galago.runtime.speculative.acceptance import MAX_DRAFT_TOKENS, DraftLengthPolicy
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started
from galago.runtime.types.prompt import BatchToken, MediaPayload, MediaSpan, Prompt, SampledToken

Submit = Callable[..., Stream]


def submit_to(engine: Engine, what: Prompt, **options: Any) -> Stream:
    stream = Stream()
    settings: dict[str, Any] = {"max_tokens": 5, "ends_at": frozenset({END}), "stop": ()} | options
    cancel = engine.submit(what, sampler=None, sink=stream.put, arrived=time.perf_counter(), **settings)
    stream.on_close(cancel)
    return stream


def text_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta))


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def engine(backend: FakeBackend) -> Iterator[Engine]:
    engine = Engine(backend, slots=2, cells=backend.cells, batch=backend.batch, queue_length=2)
    yield engine
    backend.gate.set()
    engine.close()


def recital(events: list[Event]) -> list[tuple[bytes, float]]:
    (started,) = (event for event in events if isinstance(event, Started))
    return [(told.token.strip(), told.logprob) for told in started.prompt_logprobs]


@pytest.mark.parametrize("outputs", [2, 3, 8])
def test_a_recited_prompt_is_told_before_the_answer(backend: FakeBackend, outputs: int) -> None:
    engine = Engine(backend, slots=2, cells=backend.cells, batch=backend.batch, outputs=outputs)
    told = prompt(1, 2, 5, 6, *range(30, 50))
    others = [submit_to(engine, prompt(*range(60, 70))), submit_to(engine, replace(told, logprobs_from=1), reuse=False)]
    events = list(submit_to(engine, replace(told, logprobs_from=0), reuse=False, max_tokens=2))
    engine.close()
    assert math.isnan(recital(events)[0][1]) and recital(events)[0][0] == b"1"
    assert recital(events)[1:4] == [(b"2", 0), (b"5", -2), (b"6", 0)]
    assert [name for name, _ in recital(events)] == [str(token).encode() for token in told.items]
    assert recital(list(others[1])) == recital(events)[1:]
    assert text_of(events) == "50 51 " and text_of(list(others[0])) == "70 71 72 73 74 "
    rows = [step for step in backend.steps if isinstance(step, list)]
    assert max(sum(row.wants_logits for row in step) for step in rows) <= outputs


def test_a_prompt_may_be_recited_without_an_answer(engine: Engine) -> None:
    events = list(submit_to(engine, replace(prompt(1, 2), logprobs_from=0), reuse=False, max_tokens=0))
    assert [name for name, _ in recital(events)] == [b"1", b"2"] and not text_of(events)
    assert isinstance(events[-1], Finished) and events[-1].usage.completion_tokens == 0


def test_a_recited_prompt_that_is_set_aside_is_told_once(backend: FakeBackend) -> None:
    engine = Engine(backend, slots=1, cells=backend.cells, batch=backend.batch, outputs=1)
    backend.gate.clear()
    told = replace(prompt(*range(1, 30)), logprobs_from=1)
    behind = submit_to(engine, told, reuse=False, background=True)
    backend.gate.set()
    while len(backend.steps) < 5:
        time.sleep(0.001)
    assert text_of(list(submit_to(engine, prompt(50, 51)))) == "52 53 54 55 56 "
    assert [name for name, _ in recital(list(behind))] == [str(token).encode() for token in range(2, 30)]
    engine.close()


def test_an_answer_begins_with_started_and_ends_with_finished(engine: Engine) -> None:
    events = list(submit_to(engine, prompt(1, 2, 3)))
    assert events[0] == Started(3)
    assert text_of(events) == "4 5 6 7 8 "
    assert isinstance(events[-1], Finished) and events[-1].reason == "length"
    assert (events[-1].usage.prompt_tokens, events[-1].usage.completion_tokens) == (3, 5)


def test_an_end_token_stops_the_answer_and_is_not_shown(engine: Engine) -> None:
    events = list(submit_to(engine, prompt(END - 2), max_tokens=50))
    assert text_of(events) == f"{END - 1} "
    assert isinstance(events[-1], Finished) and events[-1].reason == "stop"


def test_a_stop_string_ends_the_answer(engine: Engine) -> None:
    events = list(submit_to(engine, prompt(1), max_tokens=50, stop=("4",)))
    assert text_of(events) == "2 3 "
    assert isinstance(events[-1], Finished) and events[-1].reason == "stop"


def test_media_and_tokens_are_computed_in_order(engine: Engine, backend: FakeBackend) -> None:
    events = list(submit_to(engine, prompt(1, picture(16), 2, picture(9), 3)))
    assert text_of(events).startswith("4 5")
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.usage.prompt_tokens, finished.usage.image_tokens) == (28, 25)
    kinds = ["tokens" if isinstance(s, list) else "media" for s in backend.steps[:5]]
    assert kinds == ["tokens", "media", "tokens", "media", "tokens"]


def test_a_long_prompt_is_computed_in_batches(engine: Engine, backend: FakeBackend) -> None:
    list(submit_to(engine, prompt(*range(20)), max_tokens=1))
    assert [len(s) for s in backend.steps if isinstance(s, list)] == [8, 8, 4]


def test_two_requests_share_steps(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    streams = [submit_to(engine, prompt(1), max_tokens=9), submit_to(engine, prompt(50), max_tokens=9)]
    backend.gate.set()
    answers = [text_of(list(s)) for s in streams]
    assert answers == [" ".join(map(str, range(2, 11))) + " ", " ".join(map(str, range(51, 60))) + " "]
    assert any(len({row.sequence for row in s}) == 2 for s in backend.steps if isinstance(s, list))


def test_a_running_answer_goes_on_while_a_long_prompt_is_read(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    short = submit_to(engine, prompt(1), max_tokens=12)
    long = submit_to(engine, prompt(*[60] * 40), max_tokens=1)
    backend.gate.set()
    list(short), list(long)
    mixed = [s for s in backend.steps if isinstance(s, list) and {r.sequence for r in s} == {0, 1}]
    assert len(mixed) >= 5


def test_a_third_request_waits_for_a_slot(engine: Engine) -> None:
    streams = [submit_to(engine, prompt(n)) for n in (1, 20, 40)]
    assert [text_of(list(s)).split()[0] for s in streams] == ["2", "21", "41"]


def test_work_in_the_background_rests_halfway_while_others_are_answered(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    slow = submit_to(engine, prompt(1), max_tokens=40, background=True)
    assert next(heard := iter(slow)) == Started(1)
    others = [submit_to(engine, prompt(50 + n), max_tokens=9) for n in range(3)]
    backend.gate.set()
    assert [text_of(list(other)).split()[0] for other in others] == ["51", "52", "53"]
    assert text_of(list(heard)) == " ".join(map(str, range(2, 42))) + " "
    steps = [{row.token >= 50 for row in step} for step in backend.steps if isinstance(step, list)]
    assert steps[0] == {False} and {True, False} not in steps
    asked = [i for i, kinds in enumerate(steps) if kinds == {True}]
    assert asked == list(range(asked[0], asked[-1] + 1)) and asked[-1] < len(steps) - 30


def test_work_in_the_background_waits_behind_what_comes_later(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    streams = [submit_to(engine, prompt(n), background=n < 10) for n in (50, 1, 60, 70)]
    backend.gate.set()
    assert [text_of(list(stream)).split()[0] for stream in streams] == ["51", "2", "61", "71"]
    tokens = [row.token for step in backend.steps if isinstance(step, list) for row in step]
    assert tokens.index(1) > max(map(tokens.index, (50, 60, 70)))


def test_a_full_queue_is_refused_at_once(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    streams = [submit_to(engine, prompt(n)) for n in range(4)]
    with pytest.raises(NotReady):
        submit_to(engine, prompt(5))
    backend.gate.set()
    for stream in streams:
        assert isinstance(list(stream)[-1], Finished)
    assert isinstance(list(submit_to(engine, prompt(5)))[-1], Finished)


def test_closing_a_stream_stops_its_work_within_a_step(engine: Engine, backend: FakeBackend) -> None:
    stream = submit_to(engine, prompt(1), max_tokens=80, ends_at=frozenset())
    for event in stream:
        if isinstance(event, Delta):
            backend.gate.clear()
            break
    stream.close()
    backend.gate.set()
    before = len(backend.steps)
    list(submit_to(engine, prompt(3), max_tokens=1))
    assert len(backend.steps) <= before + 3


class Slow(FakeBackend):
    """Takes 10 ms for a step, and encodes nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_encode = threading.Event()

    def decode(self, rows: list[BatchToken]) -> None:
        time.sleep(0.01)
        super().decode(rows)

    def encode(self, media: list[MediaPayload]) -> None:
        assert self.may_encode.wait(30)
        super().encode(media)


@pytest.mark.parametrize("what", [prompt(1), prompt(1, picture(3), 2)], ids=["text", "while a picture is encoded"])
def test_an_answer_fails_at_its_deadline_and_its_place_is_free_again(what: Prompt) -> None:
    backend = Slow()
    engine = Engine(backend, slots=1, cells=200, batch=8, queue_length=0)
    last = list(submit_to(engine, what, max_tokens=150, ends_at=frozenset(), timeout=0.08))[-1]
    assert isinstance(last, Failed) and isinstance(last.error, DeadlineExceeded) and "0.08 s" in last.error.message
    assert backend.computed < 150  # neither the rest of the answer nor the encoder was waited for
    backend.may_encode.set()
    assert isinstance(list(submit_to(engine, prompt(1), timeout=60))[-1], Finished)
    engine.close()


def test_a_failing_step_fails_its_requests_and_the_next_one_works(engine: Engine, backend: FakeBackend) -> None:
    backend.fail_at_step = 2
    events = list(submit_to(engine, prompt(1), max_tokens=20))
    assert isinstance(events[-1], Failed) and "fake" in events[-1].error.message
    backend.fail_at_step = None
    assert isinstance(list(submit_to(engine, prompt(1)))[-1], Finished)


def test_a_full_cache_sets_the_youngest_aside_and_loses_nothing() -> None:
    backend = FakeBackend(cells=40)
    engine = Engine(backend, slots=3, cells=40, batch=8)
    try:
        streams = [submit_to(engine, prompt(n), max_tokens=20, ends_at=frozenset()) for n in (100, 200, 300)]
        answers = [text_of(list(s)).split() for s in streams]
    finally:
        engine.close()
    assert answers == [[str(n + i) for i in range(1, 21)] for n in (100, 200, 300)]


def test_closing_the_engine_fails_what_is_running_and_closes_the_backend(backend: FakeBackend) -> None:
    engine = Engine(backend, slots=1, cells=backend.cells, batch=8)
    backend.gate.clear()
    stream = submit_to(engine, prompt(1), max_tokens=80, ends_at=frozenset())
    threading.Timer(0.05, backend.gate.set).start()
    engine.close()
    assert isinstance(list(stream)[-1], Failed)
    assert backend.closed
    with pytest.raises(EngineError):
        submit_to(engine, prompt(1))


def finished(stream: Stream) -> Finished:
    last = list(stream)[-1]
    assert isinstance(last, Finished), last
    return last


def test_what_continues_an_earlier_request_computes_only_what_is_new(engine: Engine, backend: FakeBackend) -> None:
    finished(submit_to(engine, prompt(*range(40)), max_tokens=3))
    assert backend.computed == 42
    again = finished(submit_to(engine, prompt(*range(42), 7, 8), max_tokens=1))
    assert (again.usage.prompt_tokens, again.usage.cached_tokens) == (44, 42)
    assert backend.computed == 44


def test_the_same_prompt_again_computes_its_last_token_only(engine: Engine, backend: FakeBackend) -> None:
    for cached in (0, 39):
        assert finished(submit_to(engine, prompt(*range(40)), max_tokens=1)).usage.cached_tokens == cached
    assert backend.computed == 41


def test_a_beginning_is_shared_with_an_answer_that_is_still_running(engine: Engine, backend: FakeBackend) -> None:
    running = iter(submit_to(engine, prompt(*range(40)), max_tokens=40, ends_at=frozenset()))
    next(e for e in running if isinstance(e, Delta))
    assert finished(submit_to(engine, prompt(*range(30), 5), max_tokens=1)).usage.cached_tokens == 30
    assert text_of(list(running)).split()[-1] == "79"


def test_another_talk_leaves_the_first_one_to_be_continued() -> None:
    backend = FakeBackend(cells=200)
    engine = Engine(backend, slots=1, cells=200, batch=8, states=PrefixCache(10_000))
    try:
        for first, cached in ((0, 0), (100, 0), (0, 39), (100, 39)):
            what = prompt(*range(first, first + 40))
            assert finished(submit_to(engine, what, max_tokens=1)).usage.cached_tokens == cached
    finally:
        engine.close()


def test_states_beyond_the_memory_for_them_are_dropped_oldest_first() -> None:
    backend = FakeBackend(cells=200)
    engine = Engine(backend, slots=1, cells=200, batch=8, states=PrefixCache(500))  # two or three of them
    try:
        for first in (0, 100, 200, 300, 400):
            finished(submit_to(engine, prompt(*range(first, first + 40)), max_tokens=1))
        cached = [
            finished(submit_to(engine, prompt(*range(first, first + 40)), max_tokens=1)).usage.cached_tokens
            for first in (300, 0)
        ]
    finally:
        engine.close()
    assert cached == [39, 0]


def test_pictures_are_compared_by_what_they_show(engine: Engine, backend: FakeBackend) -> None:
    text = list(range(40))
    finished(submit_to(engine, prompt(*text, picture(9, b"a"), 3), max_tokens=1))
    same = finished(submit_to(engine, prompt(*text, picture(9, b"a"), 4), max_tokens=1))
    other = finished(submit_to(engine, prompt(*text, picture(9, b"b"), 3), max_tokens=1))
    assert (same.usage.cached_tokens, other.usage.cached_tokens) == (49, 40)


def test_a_request_may_leave_and_take_nothing(engine: Engine, backend: FakeBackend) -> None:
    finished(submit_to(engine, prompt(*range(40)), max_tokens=1))
    assert finished(submit_to(engine, prompt(*range(40)), max_tokens=1, reuse=False)).usage.cached_tokens == 0
    finished(submit_to(engine, prompt(*range(100, 140)), max_tokens=1, reuse=False))
    assert finished(submit_to(engine, prompt(*range(100, 140)), max_tokens=1)).usage.cached_tokens == 0


@pytest.mark.parametrize(("reuse", "kept"), [(True, 39), (False, 0)])
def test_nothing_is_taken_from_a_request_that_leaves_nothing_while_it_runs(reuse: bool, kept: int) -> None:
    scheduler = Scheduler(slots=2, cells=400, batch=512, states=PrefixCache(0))
    running = sequence(prompt(*range(40)), ())
    running.reuse = reuse
    scheduler.add(running)
    seat = scheduler.admit()
    assert seat is not None
    scheduler.seated(seat, seat.kept)
    scheduler.plan()
    scheduler.add(sequence(prompt(*range(40)), ()))
    seat = scheduler.admit()
    assert seat is not None and seat.kept == kept


def test_what_cannot_be_cut_back_is_continued_only_as_a_whole(backend: FakeBackend) -> None:
    backend.divisible = False
    engine = Engine(backend, slots=2, cells=200, batch=8)
    try:
        finished(submit_to(engine, prompt(*range(40)), max_tokens=3))
        assert finished(submit_to(engine, prompt(*range(40), 9), max_tokens=1)).usage.cached_tokens == 0
        assert finished(submit_to(engine, prompt(*range(42), 9), max_tokens=1)).usage.cached_tokens == 42
    finally:
        engine.close()


def whole_engine(backend: FakeBackend) -> Engine:
    backend.divisible = False
    return Engine(backend, slots=2, cells=400, batch=8, states=PrefixCache(100_000, whole=True))


def test_what_cannot_be_cut_back_is_taken_up_shortly_before_the_last_answer(backend: FakeBackend) -> None:
    engine = whole_engine(backend)
    first = list(range(60))
    assert finished(submit_to(engine, prompt(*first), max_tokens=5)).usage.cached_tokens == 0
    without_its_thoughts = prompt(*first[:-2], 70, 71, 72)
    assert finished(submit_to(engine, without_its_thoughts)).usage.cached_tokens == 60 - RETREAD
    engine.close()


def test_what_cannot_be_cut_back_is_taken_up_where_earlier_prompts_parted(backend: FakeBackend) -> None:
    engine = whole_engine(backend)
    system = range(40)
    talks = [prompt(*system, *range(begin, begin + 30)) for begin in (100, 200, 300)]
    cached = [finished(submit_to(engine, talk)).usage.cached_tokens for talk in talks]
    assert cached == [0, 0, 40]
    engine.close()


def test_a_request_that_leaves_nothing_leaves_no_checkpoint_either(backend: FakeBackend) -> None:
    engine = whole_engine(backend)
    finished(submit_to(engine, prompt(*range(60)), reuse=False))
    assert finished(submit_to(engine, prompt(*range(59), 70))).usage.cached_tokens == 0
    engine.close()


def slow_encoding(engine: Engine, backend: FakeBackend) -> tuple[threading.Event, threading.Event]:
    """Set when an encode begins, and what each of them waits for."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(media: list[Any]) -> None:
        begun.set()
        assert go_on.wait(10)
        backend.encode(media[:1])

    engine._encoder._encode = slow
    return begun, go_on


def test_a_picture_that_is_being_encoded_stops_nobody(engine: Engine, backend: FakeBackend) -> None:
    begun, go_on = slow_encoding(engine, backend)
    seen = submit_to(engine, prompt(1, picture(9), 2), max_tokens=1)
    assert begun.wait(10)
    assert text_of(list(submit_to(engine, prompt(50), max_tokens=3))) == "51 52 53 "
    go_on.set()
    assert text_of(list(seen)) == "3 "


def test_a_picture_nobody_waits_for_is_not_encoded(engine: Engine, backend: FakeBackend) -> None:
    begun, go_on = slow_encoding(engine, backend)
    first = submit_to(engine, prompt(1, picture(9), 2), max_tokens=1)
    second = submit_to(engine, prompt(1, picture(9), picture(9), 2), max_tokens=1)
    assert begun.wait(10)
    second.close()
    finished(submit_to(engine, prompt(5), max_tokens=1))
    go_on.set()
    finished(first)
    finished(submit_to(engine, prompt(6, picture(3), 2), max_tokens=1))
    assert len(backend.encoded) == 2


def test_a_picture_that_cannot_be_encoded_fails_its_request_alone(engine: Engine, backend: FakeBackend) -> None:
    def broken(media: list[Any]) -> None:
        raise EngineError("the fake is blind")

    engine._encoder._encode = broken
    last = list(submit_to(engine, prompt(1, picture(9), 2)))[-1]
    assert isinstance(last, Failed) and "blind" in last.error.message
    engine._encoder._encode = backend.encode
    finished(submit_to(engine, prompt(1, picture(9), 2)))


class Remembering(FakeBackend):
    """Answers depend on everything before, so that a wrongly shared cell changes them."""

    def choose(self, row: int, sampler: None) -> SampledToken:
        return SampledToken(follower(self.context(row)))


def follower(context: list[int]) -> int:
    return sum((i % 13 + 1) * token for i, token in enumerate(context)) % 5


def alone(items: Iterable[int | MediaSpan], tokens: int) -> str:
    context: list[int] = []
    for item in items:
        context += [item] if isinstance(item, int) else [-1 - sum(item.digest)] * item.cells
    for _ in range(tokens):
        context.append(follower(context))
    return "".join(f"{token} " for token in context[-tokens:])


BEGINNINGS = st.sampled_from([[], [1] * 9, [1] * 20, [1, 2] * 12, [3] * 40])
REQUESTS = st.lists(
    st.tuples(
        BEGINNINGS,
        st.lists(st.one_of(st.sampled_from([-1, -2]), st.integers(0, 4)), max_size=8),
        st.integers(1, 12),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=150, deadline=None)
@given(
    REQUESTS,
    st.integers(1, 4),
    st.sampled_from([72, 100, 200]),
    st.booleans(),
    st.sampled_from([0, 400, 10_000]),
    st.sampled_from([DraftLengthPolicy, Eager]),
    st.sampled_from([0.0, 1.0]),
)
def test_any_mix_of_requests_is_answered_as_if_alone(
    requests: list[Any],
    slots: int,
    cells: int,
    divisible: bool,
    state_bytes: int,
    odds: type[DraftLengthPolicy],
    attention: float,
) -> None:
    where = [
        f"galago.{name}.TILE"
        for name in ("models.capacity.throughput", "runtime.engine.attention_tiles", "runtime.engine.scheduler")
    ]
    with unittest.mock.patch(where[0], 4), unittest.mock.patch(where[1], 4), unittest.mock.patch(where[2], 4):
        answer_all(requests, slots, cells, divisible, state_bytes, odds, attention)


def answer_all(
    requests: list[Any],
    slots: int,
    cells: int,
    divisible: bool,
    state_bytes: int,
    odds: type[DraftLengthPolicy],
    attention: float,
) -> None:
    backend = Remembering(cells=cells)
    backend.divisible, backend.attention = divisible, attention
    engine = Engine(backend, slots=slots, cells=cells, batch=8, states=PrefixCache(state_bytes, whole=not divisible))
    engine._scheduler.odds = odds()
    try:
        streams = []
        for beginning, rest, max_tokens, wait, background in requests:
            items = [*beginning, *(picture(2, bytes([-i])) if i < 0 else i for i in rest), 4]
            options = {"max_tokens": max_tokens, "ends_at": frozenset(), "background": background}
            stream = submit_to(engine, prompt(*items), **options)
            streams.append((stream, items, max_tokens))
            if wait:
                time.sleep(0.001)
        for stream, items, max_tokens in streams:
            events = list(stream)
            assert text_of(events) == alone(items, max_tokens)
            assert sum(isinstance(e, Finished | Failed) for e in events) == 1
    finally:
        engine.close()


def rows_by_adapters(backend: FakeBackend) -> list[tuple[tuple[float, ...], set[int]]]:
    """For each step the adapters it was computed under, and its sequences."""
    steps = [s for s in backend.steps if isinstance(s, list)]
    return [(a, {row.sequence for row in s}) for a, s in zip(backend.adapters, steps, strict=True)]


def test_requests_under_different_adapters_take_turns_and_never_share_a_step() -> None:
    backend = FakeBackend()
    backend.gate.clear()
    engine = Engine(backend, slots=3, cells=backend.cells, batch=backend.batch)
    streams = [submit_to(engine, prompt(1, 2), max_tokens=9, adapters=scales) for scales in ((1.0,), (0.5,), (1.0,))]
    backend.gate.set()
    assert [text_of(list(s)) for s in streams] == ["3 4 5 6 7 8 9 10 11 "] * 3
    engine.close()
    found = rows_by_adapters(backend)
    assert all(len(sequences) == 1 or adapters == (1.0,) for adapters, sequences in found)
    assert ((1.0,), {0, 2}) in found
    both = [adapters for adapters, _ in found][2:16]
    assert both == [both[0], both[1]] * 7 and both[0] != both[1]


def test_what_was_computed_under_other_adapters_is_not_reused() -> None:
    backend = FakeBackend()
    engine = Engine(backend, slots=1, cells=backend.cells, batch=backend.batch, states=PrefixCache(10_000))
    try:
        for scales, cached in (((1.0,), 0), ((0.5,), 0), ((), 0), ((0.5,), 39), ((1.0,), 39)):
            what = prompt(*range(40))
            assert finished(submit_to(engine, what, max_tokens=1, adapters=scales)).usage.cached_tokens == cached
    finally:
        engine.close()


def test_media_under_one_adapter_does_not_keep_another_s_answer_waiting() -> None:
    backend = FakeBackend()
    backend.gate.clear()
    engine = Engine(backend, slots=2, cells=backend.cells, batch=backend.batch)
    pictures = [picture(4, bytes([i])) for i in range(6)]
    backend.encode([p.payload for p in pictures])
    streams = [
        submit_to(engine, prompt(1), max_tokens=12, adapters=(0.0,)),
        submit_to(engine, prompt(*pictures, 1), max_tokens=2, adapters=(1.0,)),
    ]
    backend.gate.set()
    assert [len(text_of(list(s)).split()) for s in streams] == [12, 2]
    engine.close()
    kinds = [isinstance(step, list) for step in backend.steps]
    assert not any(one is two is False for one, two in zip(kinds, kinds[1:], strict=False))


def test_a_long_prompt_under_one_adapter_is_cut_for_answers_under_another() -> None:
    scheduler = Scheduler(slots=2, cells=4000, batch=512, states=PrefixCache(0))
    scheduler.long_prefill = 100
    answering, reading = sequence(prompt(1), (0.0,)), sequence(prompt(*range(2000)), (1.0,))
    scheduler.add(answering)
    scheduler.add(reading)
    while (seat := scheduler.admit()) is not None:
        scheduler.seated(seat, seat.kept)
    sizes = []
    for _ in range(4):
        step = scheduler.plan()
        assert isinstance(step, TokenStep)
        sizes.append((step.adapters, len(step.rows)))
        for answer in step.answers:
            answer.sequence.answer(0)
    assert sizes == [((0.0,), 1), ((1.0,), 100)] * 2


def sequence(what: Prompt, scales: tuple[float, ...]) -> Sequence:
    return Sequence(
        prompt=what,
        sampler=None,
        max_tokens=5,
        ends_at=frozenset(),
        text=Detokenizer(()),
        sink=lambda event: None,
        prepared=0,
        arrived=0,
        adapters=scales,
    )


def guessing(backend: FakeBackend, slots: int = 1) -> Engine:
    engine = Engine(backend, slots=slots, cells=backend.cells, batch=backend.batch)
    engine._scheduler.odds = Eager()
    return engine


def test_an_answer_that_repeats_its_prompt_takes_fewer_steps() -> None:
    backend = FakeBackend(batch=32)
    engine = guessing(backend)
    again = finished(submit_to(engine, prompt(*range(1, 30), 1, 2), max_tokens=20, ends_at=frozenset()))
    engine.close()
    assert (again.usage.completion_tokens, again.usage.accepted_draft_tokens, again.usage.rejected_draft_tokens) == (
        20,
        16,
        0,
    )
    assert [len(step) for step in backend.steps] == [31, 9, 9, 1]
    assert [cell.token for cell in backend.held[0]] == [*range(1, 30), *range(1, 22)]


def test_wrong_guesses_leave_no_trace() -> None:
    backend = FakeBackend(batch=32)
    engine = guessing(backend)
    answer = submit_to(engine, prompt(1, 2, 3, 9, 9, 9, 9, 9, 1, 2), max_tokens=6, ends_at=frozenset())
    assert text_of(list(answer)) == "3 4 5 6 7 8 "
    engine.close()
    assert any(len(step) > 1 for step in backend.steps[1:])
    assert [cell.token for cell in backend.held[0]] == [1, 2, 3, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([(), ("3 1",), ("0 0 ", "2")]),
    st.sampled_from([frozenset(), frozenset({0}), frozenset({3, 4})]),
)
def test_guesses_change_no_event_and_nothing_that_stays(
    items: list[int], max_tokens: int, stop: tuple[str, ...], ends_at: frozenset[int]
) -> None:
    found = []
    options: dict[str, Any] = {"max_tokens": max_tokens, "stop": stop, "ends_at": ends_at}
    for guessed in (True, False):
        backend = Remembering()
        engine = guessing(backend)
        events = list(submit_to(engine, prompt(*items), reuse=guessed, **options))
        engine.close()
        last = events[-1]
        assert isinstance(last, Finished)
        found.append(([e for e in events if isinstance(e, Delta)], last.reason, last.usage.completion_tokens))
        if guessed:
            held = [cell.token for cell in backend.held[0]]
            answer = [int(piece) for piece in alone(items, last.usage.completion_tokens).split()]
            assert held == [*items, *answer[:-1]]
    assert found[0] == found[1]


def test_cells_of_wrong_guesses_are_free_again() -> None:
    slot = Slot(0)
    slot.extend([1, 2, 3, 4, 5])
    slot.cut(2)
    assert (slot.items, slot.cells, slot.position, cells_taken(slot.runs)) == ([1, 2], 2, 2, 2)


def test_each_choice_is_made_once_and_in_order() -> None:
    """Samplers draw from a seeded series, and grammars take note: neither may see a row that comes to nothing."""

    class Drawing(FakeBackend):
        def choose(self, row: int, sampler: Any) -> SampledToken:
            drawn.append(len(self.context(row)))
            return SampledToken(super().choose(row, sampler).token % 5)

    for odds in (DraftLengthPolicy, Eager):
        drawn: list[int] = []
        backend = Drawing()
        engine = guessing(backend)
        engine._scheduler.odds = odds()
        finished(submit_to(engine, prompt(1, 2, 3, 1), max_tokens=30, ends_at=frozenset()))
        engine.close()
        assert drawn == list(range(4, 34))
    assert any(len(step) > 1 for step in backend.steps[1:])


def test_what_cannot_be_cut_back_is_not_guessed() -> None:
    backend = FakeBackend()
    backend.divisible = False
    engine = guessing(backend)
    finished(submit_to(engine, prompt(1, 2, 3, 4, 5, 1), max_tokens=5))
    engine.close()
    assert [len(step) for step in backend.steps[1:]] == [1] * 4


def test_a_request_whose_numbers_must_repeat_is_not_guessed() -> None:
    backend = FakeBackend()
    engine = guessing(backend)
    finished(submit_to(engine, prompt(1, 2, 3, 4, 5, 1), max_tokens=5, reuse=False))
    engine.close()
    assert [len(step) for step in backend.steps[1:]] == [1] * 4


def test_guesses_take_only_cells_that_nobody_needs() -> None:
    backend = FakeBackend(cells=64, batch=32)
    engine = guessing(backend, slots=2)
    try:
        kept = prompt(*range(100, 130))
        finished(submit_to(engine, kept, max_tokens=1))
        finished(submit_to(engine, prompt(*range(1, 13), *range(1, 13), 1, 2), max_tokens=8, ends_at=frozenset()))
        assert finished(submit_to(engine, kept, max_tokens=1)).usage.cached_tokens == 29
    finally:
        engine.close()


def test_guesses_of_all_answers_together_keep_to_their_number() -> None:
    backend = FakeBackend(batch=32)
    backend.gate.clear()
    engine = guessing(backend, slots=4)
    what = [prompt(*range(n, n + 20), n, n + 1) for n in (100, 200, 300, 400)]
    streams = [submit_to(engine, one, max_tokens=16, ends_at=frozenset()) for one in what]
    backend.gate.set()
    assert [len(text_of(list(stream)).split()) for stream in streams] == [16] * 4
    engine.close()
    wanted = [sum(row.wants_logits for row in step) for step in backend.steps if isinstance(step, list)]
    assert 4 < max(wanted) <= 4 + MAX_DRAFT_TOKENS


def test_guesses_do_not_mix_with_a_prompt_that_is_read() -> None:
    scheduler = Scheduler(slots=2, cells=4000, batch=512, states=PrefixCache(0))
    scheduler.odds, scheduler.short_prefill = Eager(), 100
    for one in (sequence(prompt(*range(30), 0, 1), ()), sequence(prompt(*range(150)), ())):
        scheduler.add(one)
        while (seat := scheduler.admit()) is not None:
            scheduler.seated(seat, seat.kept)
        step = scheduler.plan()
        assert isinstance(step, TokenStep)
        for answer in step.answers:
            answer.sequence.answer(2)
    assert isinstance(step, TokenStep)
    assert [len(answer.guess) for answer in step.answers] == [0]
    assert (len(step.rows), step.prompt_rows) == (101, 100)


def test_prompts_that_wait_together_are_read_one_after_another() -> None:
    scheduler = Scheduler(slots=4, cells=4000, batch=512, states=PrefixCache(0))
    for first in (0, 1000, 2000):
        scheduler.add(sequence(prompt(*range(first, first + 200)), ()))
    while (seat := scheduler.admit()) is not None:
        scheduler.seated(seat, seat.kept)
    step = scheduler.plan()
    assert isinstance(step, TokenStep)
    assert (len(step.rows), len(step.answers)) == (200, 1)


def test_only_a_long_prompt_is_kept_short_for_running_answers() -> None:
    for length, rows in ((300, 301), (600, 41)):
        scheduler = Scheduler(slots=2, cells=4000, batch=512, states=PrefixCache(0))
        scheduler.short_prefill, scheduler.long_prefill = 400, 40
        scheduler.add(sequence(prompt(5), ()))
        scheduler.add(sequence(prompt(*range(1000, 1000 + length)), ()))
        while (seat := scheduler.admit()) is not None:
            scheduler.seated(seat, seat.kept)
        step = scheduler.plan()
        assert isinstance(step, TokenStep) and len(step.rows) == rows


def test_now_and_then_a_step_is_of_answers_alone_to_know_what_that_takes() -> None:
    scheduler = Scheduler(slots=2, cells=4000, batch=512, states=PrefixCache(0))
    scheduler.long_prefill = 4
    scheduler.add(sequence(prompt(5), ()))
    scheduler.add(sequence(prompt(*range(1000, 2000)), ()))
    while (seat := scheduler.admit()) is not None:
        scheduler.seated(seat, seat.kept)
    read = []
    for _ in range(30):
        step = scheduler.plan()
        assert isinstance(step, TokenStep)
        read.append(step.prompt_rows)
        for answer in step.answers:
            answer.sequence.answer(7)
    assert set(read) == {0, 4} and read.count(0) == 3


def test_a_conversation_that_rests_leaves_the_cells_and_is_found_again() -> None:
    backend = FakeBackend()
    engine = Engine(backend, slots=2, cells=200, batch=8, states=PrefixCache(10_000))
    try:
        finished(submit_to(engine, prompt(*range(40)), max_tokens=1))
        assert backend.taken() == 40
        finished(submit_to(engine, prompt(*range(100, 140)), max_tokens=1))
        assert backend.taken() == 40
        assert finished(submit_to(engine, prompt(*range(40)), max_tokens=1)).usage.cached_tokens == 39
    finally:
        engine.close()


class Deep(FakeBackend):
    """Attention to a token takes as long as a row's matrices: few rows behind many tokens are slow."""

    def __init__(self) -> None:
        super().__init__(cells=4000, batch=512)
        self.attention = 1.0


def test_the_last_step_of_a_long_prompt_has_rows_enough_for_a_tile() -> None:
    backend = Deep()
    engine = Engine(backend, slots=1, cells=4000, batch=512)
    finished(submit_to(engine, prompt(*[1] * 1030), max_tokens=1))
    assert [len(step) for step in backend.steps] == [512, 454, 64]
    engine.close()


def test_a_few_new_tokens_behind_many_are_computed_in_a_tile_with_old_ones() -> None:
    backend = Deep()
    engine = Engine(backend, slots=2, cells=4000, batch=512, states=PrefixCache(1 << 20))
    begin = [1] * 1000
    finished(submit_to(engine, prompt(*begin, 2), max_tokens=1))
    states, few = len(engine._states._kept), prompt(*begin, *[3] * 30)
    assert engine.outlook(few, ())[0] == 1030 - 64
    assert finished(submit_to(engine, few, max_tokens=1)).usage.cached_tokens == 1030 - 64
    assert len(engine._states._kept) == states + 1, "what parts from it is kept"
    more = prompt(*begin, *[3] * 30, *[4] * 20)
    assert finished(submit_to(engine, more, max_tokens=1)).usage.cached_tokens == 1050 - 64
    assert len(engine._states._kept) == states + 1, "what is only computed again is not"
    tiny = prompt(*begin, *[3] * 30, *[4] * 20, 5, 5)
    assert finished(submit_to(engine, tiny, max_tokens=1)).usage.cached_tokens == 1050, "2 rows alone are faster"
    engine.close()
