"""The engine with a fake runner: scheduling, fairness, cancellation, failure."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.model_runner import END, TILE, FakeRunner, MaxDrafts, image, prompt
from galago.models.errors import DeadlineExceeded, EngineError, InvalidRequest, ModelError, QueueFull
from galago.runtime.cache.prefix_cache import PrefixCache
from galago.runtime.engine.engine import Engine
from galago.runtime.engine.scheduler import RECURRENT_REPLAY_TOKENS
from galago.runtime.inference.stream import Stream
from galago.runtime.speculative.drafting import MAX_DRAFT_TOKENS, DraftLengthPolicy
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started
from galago.runtime.types.prompt import AttentionTile, BatchToken, MediaPayload, MediaSpan, Prompt, SampledToken

Submit = Callable[..., Stream]


def submit_to(engine: Engine, what: Prompt, **options: Any) -> Stream:
    stream = Stream()
    settings: dict[str, Any] = {"max_tokens": 5, "end_tokens": frozenset({END}), "stop": ()} | options
    cancel = engine.submit(what, sampler=None, sink=stream.put, arrived_at=time.perf_counter(), **settings)
    stream.on_close(cancel)
    return stream


def text_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta))


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def engine(runner: FakeRunner) -> Iterator[Engine]:
    engine = Engine(runner, slots=2, cells=runner.cells, batch=runner.batch, queue_length=2)
    yield engine
    runner.gate.set()
    engine.close()


def prompt_logprobs(events: list[Event]) -> list[tuple[bytes, float]]:
    (started,) = (event for event in events if isinstance(event, Started))
    return [(asked.token.strip(), asked.logprob) for asked in started.prompt_logprobs]


@pytest.mark.parametrize("outputs", [2, 3, 8])
def test_prompt_logprobs_come_before_the_answer(runner: FakeRunner, outputs: int) -> None:
    engine = Engine(runner, slots=2, cells=runner.cells, batch=runner.batch, outputs=outputs)
    asked = prompt(1, 2, 5, 6, *range(30, 50))
    others = [
        submit_to(engine, prompt(*range(60, 70))),
        submit_to(engine, replace(asked, logprobs_from=1), reuse=False),
    ]
    events = list(submit_to(engine, replace(asked, logprobs_from=0), reuse=False, max_tokens=2))
    engine.close()
    assert math.isnan(prompt_logprobs(events)[0][1]) and prompt_logprobs(events)[0][0] == b"1"
    assert prompt_logprobs(events)[1:4] == [(b"2", 0), (b"5", -2), (b"6", 0)]
    assert [name for name, _ in prompt_logprobs(events)] == [str(token).encode() for token in asked.items]
    assert prompt_logprobs(list(others[1])) == prompt_logprobs(events)[1:]
    assert text_of(events) == "50 51 " and text_of(list(others[0])) == "70 71 72 73 74 "
    rows = [step for step in runner.steps if isinstance(step, list)]
    assert max(sum(row.wants_logits for row in step) for step in rows) <= outputs


def test_prompt_logprobs_can_be_requested_without_an_answer(engine: Engine) -> None:
    events = list(submit_to(engine, replace(prompt(1, 2), logprobs_from=0), reuse=False, max_tokens=0))
    assert [name for name, _ in prompt_logprobs(events)] == [b"1", b"2"] and not text_of(events)
    assert isinstance(events[-1], Finished) and events[-1].usage.completion_tokens == 0


def test_prompt_logprobs_of_a_preempted_request_are_complete(runner: FakeRunner) -> None:
    engine = Engine(runner, slots=1, cells=runner.cells, batch=runner.batch, outputs=1)
    runner.gate.clear()
    asked = replace(prompt(*range(1, 30)), logprobs_from=1)
    behind = submit_to(engine, asked, reuse=False, background=True)
    runner.gate.set()
    while len(runner.steps) < 5:
        time.sleep(0.001)
    assert text_of(list(submit_to(engine, prompt(50, 51)))) == "52 53 54 55 56 "
    assert [name for name, _ in prompt_logprobs(list(behind))] == [str(token).encode() for token in range(2, 30)]
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


def test_media_and_tokens_are_computed_in_order(engine: Engine, runner: FakeRunner) -> None:
    events = list(submit_to(engine, prompt(1, image(16), 2, image(9), 3)))
    assert text_of(events).startswith("4 5")
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.usage.prompt_tokens, finished.usage.image_tokens) == (28, 25)
    kinds = ["tokens" if isinstance(s, list) else "media" for s in runner.steps[:5]]
    assert kinds == ["tokens", "media", "tokens", "media", "tokens"]


def test_a_long_prompt_is_computed_in_batches(engine: Engine, runner: FakeRunner) -> None:
    list(submit_to(engine, prompt(*range(20)), max_tokens=1))
    assert [len(s) for s in runner.steps if isinstance(s, list)] == [8, 8, 4]


def test_two_requests_share_steps(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    streams = [submit_to(engine, prompt(1), max_tokens=9), submit_to(engine, prompt(50), max_tokens=9)]
    runner.gate.set()
    answers = [text_of(list(s)) for s in streams]
    assert answers == [" ".join(map(str, range(2, 11))) + " ", " ".join(map(str, range(51, 60))) + " "]
    assert any(len({row.sequence for row in s}) == 2 for s in runner.steps if isinstance(s, list))


def test_an_answer_continues_during_the_prefill_of_a_long_prompt(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    short = submit_to(engine, prompt(1), max_tokens=12)
    long = submit_to(engine, prompt(*[60] * 40), max_tokens=1)
    runner.gate.set()
    list(short), list(long)
    mixed = [s for s in runner.steps if isinstance(s, list) and {r.sequence for r in s} == {0, 1}]
    assert len(mixed) >= 5


def test_a_third_request_waits_for_a_slot(engine: Engine) -> None:
    streams = [submit_to(engine, prompt(n)) for n in (1, 20, 40)]
    assert [text_of(list(s)).split()[0] for s in streams] == ["2", "21", "41"]


def test_background_requests_are_preempted_by_others(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    slow = submit_to(engine, prompt(1), max_tokens=40, background=True)
    assert next(heard := iter(slow)) == Started(1)
    others = [submit_to(engine, prompt(50 + n), max_tokens=9) for n in range(3)]
    runner.gate.set()
    assert [text_of(list(other)).split()[0] for other in others] == ["51", "52", "53"]
    assert text_of(list(heard)) == " ".join(map(str, range(2, 42))) + " "
    steps = [{row.token >= 50 for row in step} for step in runner.steps if isinstance(step, list)]
    assert steps[0] == {False} and {True, False} not in steps
    asked = [i for i, kinds in enumerate(steps) if kinds == {True}]
    assert asked == list(range(asked[0], asked[-1] + 1)) and asked[-1] < len(steps) - 30


def test_background_requests_wait_behind_later_ones(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    streams = [submit_to(engine, prompt(n), background=n < 10) for n in (50, 1, 60, 70)]
    runner.gate.set()
    assert [text_of(list(stream)).split()[0] for stream in streams] == ["51", "2", "61", "71"]
    tokens = [row.token for step in runner.steps if isinstance(step, list) for row in step]
    assert tokens.index(1) > max(map(tokens.index, (50, 60, 70)))


def test_a_full_queue_refuses_requests_immediately(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    streams = [submit_to(engine, prompt(n)) for n in range(4)]
    with pytest.raises(QueueFull, match="--queue"):
        submit_to(engine, prompt(5))
    runner.gate.set()
    for stream in streams:
        assert isinstance(list(stream)[-1], Finished)
    assert isinstance(list(submit_to(engine, prompt(5)))[-1], Finished)


def test_closing_a_stream_cancels_its_request_within_a_step(engine: Engine, runner: FakeRunner) -> None:
    stream = submit_to(engine, prompt(1), max_tokens=80, end_tokens=frozenset())
    for event in stream:
        if isinstance(event, Delta):
            runner.gate.clear()
            break
    stream.close()
    runner.gate.set()
    before = len(runner.steps)
    list(submit_to(engine, prompt(3), max_tokens=1))
    assert len(runner.steps) <= before + 3


class SlowRunner(FakeRunner):
    """Takes 10 ms for a step, and encodes nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_encode = threading.Event()

    def decode(self, rows: list[BatchToken]) -> None:
        time.sleep(0.01)
        super().decode(rows)

    def encode_media(self, media: list[MediaPayload]) -> None:
        assert self.may_encode.wait(30)
        super().encode_media(media)


@pytest.mark.parametrize("what", [prompt(1), prompt(1, image(3), 2)], ids=["text", "while an image is encoded"])
def test_an_answer_fails_at_its_deadline_and_frees_its_slot(what: Prompt) -> None:
    runner = SlowRunner()
    engine = Engine(runner, slots=1, cells=200, batch=8, queue_length=0)
    last = list(submit_to(engine, what, max_tokens=150, end_tokens=frozenset(), timeout=0.08))[-1]
    assert isinstance(last, Failed) and isinstance(last.error, DeadlineExceeded) and "0.08 s" in last.error.message
    assert runner.computed < 150  # it waited neither for the rest of the answer nor for the encoder
    runner.may_encode.set()
    assert isinstance(list(submit_to(engine, prompt(1), timeout=60))[-1], Finished)
    engine.close()


def test_a_failing_step_ends_its_requests_and_later_ones_succeed(engine: Engine, runner: FakeRunner) -> None:
    runner.fail_at_step = 2
    events = list(submit_to(engine, prompt(1), max_tokens=20))
    assert isinstance(events[-1], Failed) and "fake" in events[-1].error.message
    runner.fail_at_step = None
    assert isinstance(list(submit_to(engine, prompt(1)))[-1], Finished)


@pytest.mark.parametrize(("error", "is_kept"), [(ModelError("NaN"), False), (InvalidRequest("no grammar"), True)])
def test_what_a_model_computed_is_not_kept_if_it_is_no_numbers(error: Exception, is_kept: bool) -> None:
    class Failing(FakeRunner):
        def sample(self, row: int, sampler: Any) -> SampledToken:
            raise error

    runner = Failing()
    engine = Engine(runner, slots=1, cells=200, batch=8)
    assert isinstance(list(submit_to(engine, prompt(*range(20))))[-1], Failed)
    engine.close()
    assert bool(runner.held[0]) is is_kept


def test_a_full_kv_cache_preempts_the_youngest_without_loss() -> None:
    runner = FakeRunner(cells=40)
    engine = Engine(runner, slots=3, cells=40, batch=8)
    try:
        streams = [submit_to(engine, prompt(n), max_tokens=20, end_tokens=frozenset()) for n in (100, 200, 300)]
        answers = [text_of(list(s)).split() for s in streams]
    finally:
        engine.close()
    assert answers == [[str(n + i) for i in range(1, 21)] for n in (100, 200, 300)]


def test_closing_the_engine_ends_requests_with_an_error_and_closes_the_runner(runner: FakeRunner) -> None:
    engine = Engine(runner, slots=1, cells=runner.cells, batch=8)
    runner.gate.clear()
    stream = submit_to(engine, prompt(1), max_tokens=80, end_tokens=frozenset())
    threading.Timer(0.05, runner.gate.set).start()
    engine.close()
    assert isinstance(list(stream)[-1], Failed)
    assert runner.closed
    with pytest.raises(EngineError):
        submit_to(engine, prompt(1))


def finished(stream: Stream) -> Finished:
    last = list(stream)[-1]
    assert isinstance(last, Finished), last
    return last


def test_a_continued_request_computes_only_new_tokens(engine: Engine, runner: FakeRunner) -> None:
    finished(submit_to(engine, prompt(*range(40)), max_tokens=3))
    assert runner.computed == 42
    again = finished(submit_to(engine, prompt(*range(42), 7, 8), max_tokens=1))
    assert (again.usage.prompt_tokens, again.usage.cached_tokens) == (44, 42)
    assert runner.computed == 44


def test_a_repeated_prompt_computes_only_its_last_token(engine: Engine, runner: FakeRunner) -> None:
    for cached in (0, 39):
        assert finished(submit_to(engine, prompt(*range(40)), max_tokens=1)).usage.cached_tokens == cached
    assert runner.computed == 41


def test_a_prefix_is_shared_with_a_running_answer(engine: Engine, runner: FakeRunner) -> None:
    running = iter(submit_to(engine, prompt(*range(40)), max_tokens=40, end_tokens=frozenset()))
    next(e for e in running if isinstance(e, Delta))
    assert finished(submit_to(engine, prompt(*range(30), 5), max_tokens=1)).usage.cached_tokens == 30
    assert text_of(list(running)).split()[-1] == "79"


def test_a_replaced_conversation_is_restored_from_the_prefix_cache() -> None:
    runner = FakeRunner(cells=200)
    engine = Engine(runner, slots=1, cells=200, batch=8, prefix_cache=PrefixCache(10_000))
    try:
        for first, cached in ((0, 0), (100, 0), (0, 39), (100, 39)):
            what = prompt(*range(first, first + 40))
            assert finished(submit_to(engine, what, max_tokens=1)).usage.cached_tokens == cached
    finally:
        engine.close()


def test_prefixes_beyond_the_limit_are_dropped_least_recently_used_first() -> None:
    runner = FakeRunner(cells=200)
    engine = Engine(runner, slots=1, cells=200, batch=8, prefix_cache=PrefixCache(500))  # two or three of them
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


def test_images_are_compared_by_content(engine: Engine, runner: FakeRunner) -> None:
    text = list(range(40))
    finished(submit_to(engine, prompt(*text, image(9, b"a"), 3), max_tokens=1))
    same = finished(submit_to(engine, prompt(*text, image(9, b"a"), 4), max_tokens=1))
    other = finished(submit_to(engine, prompt(*text, image(9, b"b"), 3), max_tokens=1))
    assert (same.usage.cached_tokens, other.usage.cached_tokens) == (49, 40)


def test_a_request_without_reuse_neither_uses_nor_leaves_cached_content(engine: Engine, runner: FakeRunner) -> None:
    finished(submit_to(engine, prompt(*range(40)), max_tokens=1))
    assert finished(submit_to(engine, prompt(*range(40)), max_tokens=1, reuse=False)).usage.cached_tokens == 0
    finished(submit_to(engine, prompt(*range(100, 140)), max_tokens=1, reuse=False))
    assert finished(submit_to(engine, prompt(*range(100, 140)), max_tokens=1)).usage.cached_tokens == 0


def test_recurrent_sequences_are_continued_only_as_a_whole(runner: FakeRunner) -> None:
    runner.supports_partial_removal = False
    engine = Engine(runner, slots=2, cells=200, batch=8)
    try:
        finished(submit_to(engine, prompt(*range(40)), max_tokens=3))
        assert finished(submit_to(engine, prompt(*range(40), 9), max_tokens=1)).usage.cached_tokens == 0
        assert finished(submit_to(engine, prompt(*range(42), 9), max_tokens=1)).usage.cached_tokens == 42
    finally:
        engine.close()


def recurrent_engine(runner: FakeRunner) -> Engine:
    runner.supports_partial_removal = False
    return Engine(runner, slots=2, cells=400, batch=8, prefix_cache=PrefixCache(100_000, whole_only=True))


def test_recurrent_sequences_are_continued_shortly_before_the_last_answer(runner: FakeRunner) -> None:
    engine = recurrent_engine(runner)
    first = list(range(60))
    assert finished(submit_to(engine, prompt(*first), max_tokens=5)).usage.cached_tokens == 0
    without_its_thoughts = prompt(*first[:-2], 70, 71, 72)
    assert finished(submit_to(engine, without_its_thoughts)).usage.cached_tokens == 60 - RECURRENT_REPLAY_TOKENS
    engine.close()


def test_recurrent_sequences_are_continued_where_earlier_prompts_differ(runner: FakeRunner) -> None:
    engine = recurrent_engine(runner)
    system = range(40)
    talks = [prompt(*system, *range(begin, begin + 30)) for begin in (100, 200, 300)]
    cached = [finished(submit_to(engine, talk)).usage.cached_tokens for talk in talks]
    assert cached == [0, 0, 40]
    engine.close()


def test_a_request_without_reuse_leaves_no_checkpoint(runner: FakeRunner) -> None:
    engine = recurrent_engine(runner)
    finished(submit_to(engine, prompt(*range(60)), reuse=False))
    assert finished(submit_to(engine, prompt(*range(59), 70))).usage.cached_tokens == 0
    engine.close()


def block_encoder(engine: Engine, runner: FakeRunner) -> tuple[threading.Event, threading.Event]:
    """Returns an event that is set when an encoder call begins, and one that the calls wait for."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(media: list[Any]) -> None:
        begun.set()
        assert go_on.wait(10)
        runner.encode_media(media[:1])

    engine._encoder._encode = slow
    return begun, go_on


def test_other_answers_continue_while_an_image_is_encoded(engine: Engine, runner: FakeRunner) -> None:
    begun, go_on = block_encoder(engine, runner)
    seen = submit_to(engine, prompt(1, image(9), 2), max_tokens=1)
    assert begun.wait(10)
    assert text_of(list(submit_to(engine, prompt(50), max_tokens=3))) == "51 52 53 "
    go_on.set()
    assert text_of(list(seen)) == "3 "


def test_images_of_cancelled_requests_are_not_encoded(engine: Engine, runner: FakeRunner) -> None:
    begun, go_on = block_encoder(engine, runner)
    first = submit_to(engine, prompt(1, image(9), 2), max_tokens=1)
    second = submit_to(engine, prompt(1, image(9), image(9), 2), max_tokens=1)
    assert begun.wait(10)
    second.close()
    finished(submit_to(engine, prompt(5), max_tokens=1))
    go_on.set()
    finished(first)
    finished(submit_to(engine, prompt(6, image(3), 2), max_tokens=1))
    assert len(runner.encoded) == 2


def test_an_encoder_error_ends_only_its_request(engine: Engine, runner: FakeRunner) -> None:
    def broken(media: list[Any]) -> None:
        raise EngineError("the fake encoder failed")

    engine._encoder._encode = broken
    last = list(submit_to(engine, prompt(1, image(9), 2)))[-1]
    assert isinstance(last, Failed) and "encoder failed" in last.error.message
    engine._encoder._encode = runner.encode_media
    finished(submit_to(engine, prompt(1, image(9), 2)))


class ContextRunner(FakeRunner):
    """Answers depend on all tokens before, so that a wrongly shared cell changes them."""

    def sample(self, row: int, sampler: None) -> SampledToken:
        return SampledToken(next_token(self.context(row)))


def next_token(context: list[int]) -> int:
    return sum((i % 13 + 1) * token for i, token in enumerate(context)) % 5


def answer_alone(items: Iterable[int | MediaSpan], tokens: int) -> str:
    context: list[int] = []
    for item in items:
        context += [item] if isinstance(item, int) else [-1 - sum(item.digest)] * item.cells
    for _ in range(tokens):
        context.append(next_token(context))
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
    st.sampled_from([DraftLengthPolicy, MaxDrafts]),
    st.sampled_from([0.0, 1.0]),
)
def test_any_mix_of_requests_is_answered_as_if_alone(
    requests: list[Any],
    slots: int,
    cells: int,
    partial_removal: bool,
    cache_bytes: int,
    policy: type[DraftLengthPolicy],
    attention_cost: float,
) -> None:
    runner = ContextRunner(cells=cells)
    runner.supports_partial_removal = partial_removal
    runner.attention_tile = AttentionTile(rows=4, speedup=8.0, cost=attention_cost)
    cache = PrefixCache(cache_bytes, whole_only=not partial_removal)
    engine = Engine(runner, slots=slots, cells=cells, batch=8, prefix_cache=cache)
    engine._drafter.policy = policy()
    try:
        streams = []
        for beginning, rest, max_tokens, wait, background in requests:
            items = [*beginning, *(image(2, bytes([-i])) if i < 0 else i for i in rest), 4]
            options = {"max_tokens": max_tokens, "end_tokens": frozenset(), "background": background}
            stream = submit_to(engine, prompt(*items), **options)
            streams.append((stream, items, max_tokens))
            if wait:
                time.sleep(0.001)
        for stream, items, max_tokens in streams:
            events = list(stream)
            assert text_of(events) == answer_alone(items, max_tokens)
            assert sum(isinstance(e, Finished | Failed) for e in events) == 1
    finally:
        engine.close()


def rows_by_adapters(runner: FakeRunner) -> list[tuple[tuple[float, ...], set[int]]]:
    """The adapters and the sequences of each step."""
    steps = [s for s in runner.steps if isinstance(s, list)]
    return [(a, {row.sequence for row in s}) for a, s in zip(runner.adapters, steps, strict=True)]


def test_requests_with_different_adapters_take_turns() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    engine = Engine(runner, slots=3, cells=runner.cells, batch=runner.batch)
    streams = [submit_to(engine, prompt(1, 2), max_tokens=9, adapters=scales) for scales in ((1.0,), (0.5,), (1.0,))]
    runner.gate.set()
    assert [text_of(list(s)) for s in streams] == ["3 4 5 6 7 8 9 10 11 "] * 3
    engine.close()
    found = rows_by_adapters(runner)
    assert all(len(sequences) == 1 or adapters == (1.0,) for adapters, sequences in found)
    assert ((1.0,), {0, 2}) in found
    both = [adapters for adapters, _ in found][2:16]
    assert both == [both[0], both[1]] * 7 and both[0] != both[1]


def test_content_computed_under_other_adapters_is_not_reused() -> None:
    runner = FakeRunner()
    engine = Engine(runner, slots=1, cells=runner.cells, batch=runner.batch, prefix_cache=PrefixCache(10_000))
    try:
        for scales, cached in (((1.0,), 0), ((0.5,), 0), ((), 0), ((0.5,), 39), ((1.0,), 39)):
            what = prompt(*range(40))
            assert finished(submit_to(engine, what, max_tokens=1, adapters=scales)).usage.cached_tokens == cached
    finally:
        engine.close()


def test_media_under_one_adapter_does_not_block_answers_under_another() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    engine = Engine(runner, slots=2, cells=runner.cells, batch=runner.batch)
    pictures = [image(4, bytes([i])) for i in range(6)]
    runner.encode_media([p.payload for p in pictures])
    streams = [
        submit_to(engine, prompt(1), max_tokens=12, adapters=(0.0,)),
        submit_to(engine, prompt(*pictures, 1), max_tokens=2, adapters=(1.0,)),
    ]
    runner.gate.set()
    assert [len(text_of(list(s)).split()) for s in streams] == [12, 2]
    engine.close()
    kinds = [isinstance(step, list) for step in runner.steps]
    assert not any(one is two is False for one, two in zip(kinds, kinds[1:], strict=False))


def drafting_engine(runner: FakeRunner, slots: int = 1) -> Engine:
    engine = Engine(runner, slots=slots, cells=runner.cells, batch=runner.batch)
    engine._drafter.policy = MaxDrafts()
    return engine


def test_an_answer_that_repeats_its_prompt_takes_fewer_steps() -> None:
    runner = FakeRunner(batch=32)
    engine = drafting_engine(runner)
    again = finished(submit_to(engine, prompt(*range(1, 30), 1, 2), max_tokens=20, end_tokens=frozenset()))
    engine.close()
    assert (again.usage.completion_tokens, again.usage.accepted_draft_tokens, again.usage.rejected_draft_tokens) == (
        20,
        16,
        0,
    )
    assert [len(step) for step in runner.steps] == [31, 9, 9, 1]
    assert [cell.token for cell in runner.held[0]] == [*range(1, 30), *range(1, 22)]


def test_wrong_drafts_are_removed() -> None:
    runner = FakeRunner(batch=32)
    engine = drafting_engine(runner)
    answer = submit_to(engine, prompt(1, 2, 3, 9, 9, 9, 9, 9, 1, 2), max_tokens=6, end_tokens=frozenset())
    assert text_of(list(answer)) == "3 4 5 6 7 8 "
    engine.close()
    assert any(len(step) > 1 for step in runner.steps[1:])
    assert [cell.token for cell in runner.held[0]] == [1, 2, 3, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([(), ("3 1",), ("0 0 ", "2")]),
    st.sampled_from([frozenset(), frozenset({0}), frozenset({3, 4})]),
)
def test_drafts_change_neither_events_nor_cells(
    items: list[int], max_tokens: int, stop: tuple[str, ...], end_tokens: frozenset[int]
) -> None:
    found = []
    options: dict[str, Any] = {"max_tokens": max_tokens, "stop": stop, "end_tokens": end_tokens}
    for guessed in (True, False):
        runner = ContextRunner()
        engine = drafting_engine(runner)
        events = list(submit_to(engine, prompt(*items), reuse=guessed, **options))
        engine.close()
        last = events[-1]
        assert isinstance(last, Finished)
        found.append(([e for e in events if isinstance(e, Delta)], last.reason, last.usage.completion_tokens))
        if guessed:
            held = [cell.token for cell in runner.held[0]]
            answer = [int(piece) for piece in answer_alone(items, last.usage.completion_tokens).split()]
            assert held == [*items, *answer[:-1]]
    assert found[0] == found[1]


def test_each_token_is_sampled_once_and_in_order() -> None:
    """Samplers draw from a seeded series and grammars record tokens: neither may see a row that is discarded."""

    class Drawing(FakeRunner):
        def sample(self, row: int, sampler: Any) -> SampledToken:
            drawn.append(len(self.context(row)))
            return SampledToken(super().sample(row, sampler).token % 5)

    for policy in (DraftLengthPolicy, MaxDrafts):
        drawn: list[int] = []
        runner = Drawing()
        engine = drafting_engine(runner)
        engine._drafter.policy = policy()
        finished(submit_to(engine, prompt(1, 2, 3, 1), max_tokens=30, end_tokens=frozenset()))
        engine.close()
        assert drawn == list(range(4, 34))
    assert any(len(step) > 1 for step in runner.steps[1:])


def test_recurrent_models_get_no_drafts() -> None:
    runner = FakeRunner()
    runner.supports_partial_removal = False
    engine = drafting_engine(runner)
    finished(submit_to(engine, prompt(1, 2, 3, 4, 5, 1), max_tokens=5))
    engine.close()
    assert [len(step) for step in runner.steps[1:]] == [1] * 4


def test_requests_without_reuse_get_no_drafts() -> None:
    runner = FakeRunner()
    engine = drafting_engine(runner)
    finished(submit_to(engine, prompt(1, 2, 3, 4, 5, 1), max_tokens=5, reuse=False))
    engine.close()
    assert [len(step) for step in runner.steps[1:]] == [1] * 4


def test_drafts_use_only_free_cells() -> None:
    runner = FakeRunner(cells=64, batch=32)
    engine = drafting_engine(runner, slots=2)
    try:
        kept = prompt(*range(100, 130))
        finished(submit_to(engine, kept, max_tokens=1))
        finished(submit_to(engine, prompt(*range(1, 13), *range(1, 13), 1, 2), max_tokens=8, end_tokens=frozenset()))
        assert finished(submit_to(engine, kept, max_tokens=1)).usage.cached_tokens == 29
    finally:
        engine.close()


def test_the_number_of_draft_tokens_in_a_step_is_limited() -> None:
    runner = FakeRunner(batch=32)
    runner.gate.clear()
    engine = drafting_engine(runner, slots=4)
    what = [prompt(*range(n, n + 20), n, n + 1) for n in (100, 200, 300, 400)]
    streams = [submit_to(engine, one, max_tokens=16, end_tokens=frozenset()) for one in what]
    runner.gate.set()
    assert [len(text_of(list(stream)).split()) for stream in streams] == [16] * 4
    engine.close()
    wanted = [sum(row.wants_logits for row in step) for step in runner.steps if isinstance(step, list)]
    assert 4 < max(wanted) <= 4 + MAX_DRAFT_TOKENS


def test_idle_conversations_leave_the_kv_cache_and_are_restored() -> None:
    runner = FakeRunner()
    engine = Engine(runner, slots=2, cells=200, batch=8, prefix_cache=PrefixCache(10_000))
    try:
        finished(submit_to(engine, prompt(*range(40)), max_tokens=1))
        assert runner.cells_in_use() == 40
        finished(submit_to(engine, prompt(*range(100, 140)), max_tokens=1))
        assert runner.cells_in_use() == 40
        assert finished(submit_to(engine, prompt(*range(40)), max_tokens=1)).usage.cached_tokens == 39
    finally:
        engine.close()


class DeepRunner(FakeRunner):
    """Attention to a token takes as long as a row's matrix products: few rows behind many tokens are slow."""

    def __init__(self) -> None:
        super().__init__(cells=4000, batch=512)
        self.attention_tile = TILE._replace(cost=1.0)


def test_the_last_step_of_a_long_prompt_fills_a_tile() -> None:
    runner = DeepRunner()
    engine = Engine(runner, slots=1, cells=4000, batch=512)
    finished(submit_to(engine, prompt(*[1] * 1030), max_tokens=1))
    assert [len(step) for step in runner.steps] == [512, 454, 64]
    engine.close()


def test_a_few_new_tokens_behind_many_are_computed_in_a_whole_tile() -> None:
    runner = DeepRunner()
    engine = Engine(runner, slots=2, cells=4000, batch=512, prefix_cache=PrefixCache(1 << 20))
    begin = [1] * 1000
    finished(submit_to(engine, prompt(*begin, 2), max_tokens=1))
    states, few = len(engine._loop.kv._prefixes._in_memory), prompt(*begin, *[3] * 30)
    assert engine.forecast(few, ())[0] == 1030 - 64
    assert finished(submit_to(engine, few, max_tokens=1)).usage.cached_tokens == 1030 - 64
    assert len(engine._loop.kv._prefixes._in_memory) == states + 1, "what parts from it is kept"
    more = prompt(*begin, *[3] * 30, *[4] * 20)
    assert finished(submit_to(engine, more, max_tokens=1)).usage.cached_tokens == 1050 - 64
    assert len(engine._loop.kv._prefixes._in_memory) == states + 1, "what is only computed again is not"
    tiny = prompt(*begin, *[3] * 30, *[4] * 20, 5, 5)
    assert finished(submit_to(engine, tiny, max_tokens=1)).usage.cached_tokens == 1050, "2 rows alone are faster"
    engine.close()
