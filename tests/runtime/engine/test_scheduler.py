"""The scheduler's decisions: which sequence gets which slot, and which rows go into a step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.model_runner import TILE, prompt
from galago.models.capacity import throughput
from galago.runtime.cache.prefix_cache import PrefixCache
from galago.runtime.engine.scheduler import Scheduler, TokenStep, prefill_rows
from galago.runtime.engine.sequence import Detokenizer, Sequence, Slot, cells_in_use
from galago.runtime.engine.tuning import PrefillLimits
from galago.runtime.llamacpp.context import ATTENTION_TILE_ROWS
from galago.runtime.types.prompt import Prompt


def new_scheduler(slots: int, cells: int = 4000) -> Scheduler:
    return Scheduler([Slot(number) for number in range(slots)], cells, 512, PrefixCache(0), TILE)


def sequence(what: Prompt, adapters: tuple[float, ...] = (), reuse: bool = True, client: str = "") -> Sequence:
    return Sequence(
        prompt=what,
        sampler=None,
        max_tokens=5,
        end_tokens=frozenset(),
        detokenizer=Detokenizer(()),
        sink=lambda event: None,
        prepared_at=0,
        arrived_at=0,
        adapters=adapters,
        reuse=reuse,
        client=client,
    )


def admit_all(scheduler: Scheduler) -> None:
    while (assignment := scheduler.admit()) is not None:
        scheduler.assign(assignment, assignment.reused)


def next_step(scheduler: Scheduler, short_prompt_rows: int = 512, long_prompt_rows: int = 512) -> TokenStep:
    """Schedules a step, and adds a token to each sequence that gets one."""
    admit_all(scheduler)
    step = scheduler.schedule(scheduler.next_group(), {}, PrefillLimits(short_prompt_rows, long_prompt_rows))
    assert isinstance(step, TokenStep)
    for sample in step.samples:
        sample.sequence.append(7)
    return step


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        ("aaaab", "a1 b1 a2 a3 a4"),
        ("aaabcb", "a1 b1 c1 a2 b2 a3"),
        ("abab", "a1 b1 a2 b2"),
        ("aaaa", "a1 a2 a3 a4"),
    ],
)
def test_waiting_clients_take_turns(arrivals: str, order: str) -> None:
    scheduler, waiting = new_scheduler(slots=1), {}
    for i, client in enumerate(arrivals):
        name = f"{client}{arrivals[: i + 1].count(client)}"
        waiting[name] = sequence(prompt(1), client=client)
        scheduler.add(waiting[name])
    assert list(scheduler.waiting) == [waiting[name] for name in order.split()]


def test_a_client_with_several_slots_yields_the_youngest_to_a_client_without_any() -> None:
    scheduler = new_scheduler(3)
    first, second, third, fourth = (sequence(prompt(1, 2), client="a") for _ in range(4))
    for one in (first, second, third, fourth):
        scheduler.add(one)
    admit_all(scheduler)
    assert scheduler.slot_to_yield() is None
    others = [sequence(prompt(1, 3), client=client) for client in ("b", "b", "c", "d")]
    for one in others:
        scheduler.add(one)
    yielded = []
    while (slot := scheduler.slot_to_yield()) is not None:
        yielded.append(slot.owner)
        scheduler.preempt(slot)
        admit_all(scheduler)
    assert yielded == [third, second]
    assert scheduler.running == [first, others[0], others[2]]
    assert list(scheduler.waiting) == [others[3], others[1], second, third, fourth]


def test_a_client_with_a_slot_waits_for_its_next() -> None:
    scheduler = new_scheduler(3)
    for client in "aab":
        scheduler.add(sequence(prompt(1, 2), client=client))
    admit_all(scheduler)
    scheduler.add(sequence(prompt(1, 3), client="b"))
    assert scheduler.slot_to_yield() is None


def test_the_requests_of_a_client_keep_their_order_when_earlier_ones_are_cancelled() -> None:
    scheduler = new_scheduler(slots=1)
    first, second, third = (sequence(prompt(1), client="a") for _ in range(3))
    for one in (first, second, *(sequence(prompt(1), client="b") for _ in range(4))):
        scheduler.add(one)
    scheduler.remove(first)
    scheduler.add(third)
    order = list(scheduler.waiting)
    assert order.index(second) < order.index(third) < len(order) - 1


@pytest.mark.parametrize(("reuse", "reused"), [(True, 39), (False, 0)])
def test_only_running_sequences_with_reuse_share_their_cells(reuse: bool, reused: int) -> None:
    scheduler = new_scheduler(slots=2, cells=400)
    scheduler.add(sequence(prompt(*range(40)), reuse=reuse))
    next_step(scheduler)
    scheduler.add(sequence(prompt(*range(40))))
    assignment = scheduler.admit()
    assert assignment is not None and assignment.reused == reused


def test_prefill_is_limited_while_answers_under_other_adapters_wait() -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.add(sequence(prompt(1), (0.0,)))
    scheduler.add(sequence(prompt(*range(2000)), (1.0,)))
    steps = [next_step(scheduler, long_prompt_rows=100) for _ in range(4)]
    assert [(step.adapters, len(step.rows)) for step in steps] == [((0.0,), 1), ((1.0,), 100)] * 2


def test_removed_draft_tokens_free_their_cells() -> None:
    slot = Slot(0)
    slot.extend([1, 2, 3, 4, 5])
    slot.truncate(2)
    assert (slot.items, slot.cells, slot.position, cells_in_use(slot.ranges)) == ([1, 2], 2, 2, 2)


def test_there_is_no_room_for_drafts_beside_a_prompt() -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.add(sequence(prompt(*range(30), 0, 1)))
    next_step(scheduler)
    assert scheduler.draft_room(scheduler.next_group()) > 0
    scheduler.add(sequence(prompt(*range(200, 400))))
    admit_all(scheduler)
    assert scheduler.draft_room(scheduler.next_group()) == 0
    step = next_step(scheduler, short_prompt_rows=100)
    assert (len(step.rows), step.prompt_rows, step.draft_rows) == (101, 100, 0)


def test_waiting_prompts_are_prefilled_one_after_another() -> None:
    scheduler = new_scheduler(slots=4)
    for first in (0, 1000, 2000):
        scheduler.add(sequence(prompt(*range(first, first + 200))))
    step = next_step(scheduler)
    assert (len(step.rows), len(step.samples)) == (200, 1)


@pytest.mark.parametrize(("length", "rows"), [(300, 301), (600, 41)])
def test_long_and_short_prompts_have_their_own_limits(length: int, rows: int) -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.add(sequence(prompt(5)))
    scheduler.add(sequence(prompt(*range(1000, 1000 + length))))
    assert len(next_step(scheduler, short_prompt_rows=400, long_prompt_rows=40).rows) == rows


def test_every_ninth_step_has_no_prompt_rows_so_that_answers_alone_are_measured() -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.add(sequence(prompt(5)))
    scheduler.add(sequence(prompt(*range(1000, 2000))))
    prompt_rows = [next_step(scheduler, long_prompt_rows=4).prompt_rows for _ in range(30)]
    assert set(prompt_rows) == {0, 4} and prompt_rows.count(0) == 3


@given(st.integers(1, 700), st.integers(1, 512), st.integers(0, 512))
def test_forecasts_of_speed_assume_the_same_prefill_steps(left: int, limit: int, extra: int) -> None:
    assert throughput.TILE == ATTENTION_TILE_ROWS
    room = limit + extra
    assert prefill_rows(left, limit, room, ATTENTION_TILE_ROWS) == throughput.chunk(left, limit, room)
