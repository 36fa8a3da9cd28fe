"""Requests are isolated from each other: any call of the runner, a sink, the caches, a sampler or the encoder may fail.

The suite runs a few hundred examples; `pytest tests/runtime/engine/test_engine_faults.py --hypothesis-profile=thorough`
runs 10,000.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fakes.model_runner import FakeRunner, MaxDrafts, image
from galago.models.errors import DeadlineExceeded
from galago.runtime.cache.disk_cache import DiskCache
from galago.runtime.cache.prefix_cache import CachedPrefix, PrefixCache
from galago.runtime.engine.engine import Engine
from galago.runtime.engine.tuning import ThreadTuner
from galago.runtime.speculative.draft_model import DraftModel
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started
from galago.runtime.types.prompt import BatchToken, Item, MediaPayload, MediaSpan, Prompt, SampledToken, SavedState

IS_THOROUGH = settings.get_current_profile_name() == "thorough"

SLOTS, QUEUE, BATCH = 2, 8, 8
TIMEOUT_SECONDS = 20
DISK_BYTES = 10**6


class InjectedError(Exception):
    pass


class InjectedPanic(BaseException):
    """Like a panic in a library written in Rust, which is not an `Exception`."""


OPTIMIZATIONS = {"save", "copy", "restore", "prefix cache", "disk cache", "draft model"}
"""Kinds of calls whose failure must end no request."""

STEPS = {"decode", "use_adapters", "use_threads"}
"""Kinds of calls whose failure may end all requests in a step."""

SINGLE = {"sink", "sample", "score", "piece", "token_bytes", "encode_media", "decode_media", "truncate"}
"""Kinds of calls whose failure may end one request."""


class Faults:
    """Makes the planned calls fail, by their kind and their number among the calls of that kind."""

    def __init__(self, plan: set[tuple[str, int]], panic: bool) -> None:
        self._plan = plan
        self._error = InjectedPanic if panic else InjectedError
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self.is_active = True
        self.raised: list[str] = []

    def check(self, kind: str) -> None:
        with self._lock:
            count = self._counts[kind] = self._counts.get(kind, -1) + 1
            if not self.is_active or (kind, count) not in self._plan:
                return
            name = f"{kind} {count}"
            self.raised.append(name)
        raise self._error(name)


@dataclass(eq=False)
class TestRequest:
    """A request and what its sink received. It is also its own sampler, so that the runner knows whose token it is."""

    __test__ = False

    items: list[Item]
    max_tokens: int
    reuse: bool = True
    background: bool = False
    client: str = ""
    adapters: tuple[float, ...] = ()
    logprobs: bool = False
    timeout: float | None = None
    cancel_after: int | None = None
    blocks: bool = False
    faults: Faults | None = None
    must_fail_by: str | None = None
    sink_failed: bool = False
    cancelled: bool = False
    has_ended: bool = False
    settled: threading.Event = field(default_factory=threading.Event)
    unblock: threading.Event = field(default_factory=threading.Event)
    events: list[Event] = field(default_factory=list)
    late_events: list[Event] = field(default_factory=list)
    cancel: Callable[[], None] | None = None

    def sink(self, event: Event) -> None:
        if self.has_ended:
            self.late_events.append(event)
            return
        if self.blocks:
            assert self.unblock.wait(TIMEOUT_SECONDS)
        try:
            if self.faults is not None:
                self.faults.check("sink")
        except BaseException:
            self.sink_failed = self.has_ended = True
            self.settled.set()
            raise
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self.has_ended = True
            self.settled.set()
        elif self.cancel_after is not None and len(self.events) > self.cancel_after:
            self.disconnect()

    def disconnect(self) -> None:
        if self.cancel is not None:
            self.cancelled = True
            self.cancel()
            self.settled.set()

    def submit(self, engine: Engine) -> None:
        prompt = Prompt(tuple(self.items), logprobs_from=0 if self.logprobs else None)
        self.cancel = engine.submit(
            prompt,
            sampler=self,
            max_tokens=self.max_tokens,
            end_tokens=frozenset(),
            stop=(),
            sink=self.sink,
            arrived_at=time.perf_counter(),
            reuse=self.reuse and not self.logprobs,
            background=self.background,
            client=self.client,
            adapters=self.adapters,
            timeout=self.timeout,
        )
        if self.cancel_after == 0:
            self.disconnect()

    def check(self, faults: Faults) -> str | None:
        """Checks the events; returns the name of the injected error that ended the request, if one did."""
        assert not self.late_events, self.late_events
        terminal = [e for e in self.events if isinstance(e, Finished | Failed)]
        assert len(terminal) == 1 or (not terminal and (self.cancelled or self.sink_failed)), self.events
        assert sum(isinstance(e, Started) for e in self.events) <= 1
        text = "".join(e.text for e in self.events if isinstance(e, Delta))
        expected = answer_alone(self.items, self.max_tokens)
        assert expected.startswith(text)
        last = terminal[0] if terminal else None
        if isinstance(last, Finished):
            assert text == expected and self.must_fail_by is None
            self._check_prompt_logprobs()
            return None
        if not isinstance(last, Failed):
            return None
        if isinstance(last.error, DeadlineExceeded):
            assert self.timeout is not None
            return None
        match = re.search(r"'([^']+ \d+)'", str(last.error))
        assert match and match[1] in faults.raised, last.error
        assert self.must_fail_by in (None, match[1])
        return match[1]

    def _check_prompt_logprobs(self) -> None:
        if self.logprobs:
            (started,) = (e for e in self.events if isinstance(e, Started))
            tokens = [item for item in self.items if isinstance(item, int)]
            expected = [(str(b), float(-abs(b - a - 1))) for a, b in zip(tokens, tokens[1:], strict=False)]
            assert [(t.token.decode().strip(), t.logprob) for t in started.prompt_logprobs[1:]] == expected


def next_token(context: list[int]) -> int:
    return sum((i % 13 + 1) * token for i, token in enumerate(context)) % 5


def cell_tokens(items: Sequence[Item]) -> list[int]:
    """What the cells of these items hold in the fake runner."""
    tokens: list[int] = []
    for item in items:
        tokens += [item] if isinstance(item, int) else [-1 - sum(item.digest)] * item.cells
    return tokens


def answer_alone(items: list[Item], count: int) -> str:
    context = cell_tokens(items)
    for _ in range(count):
        context.append(next_token(context))
    return "".join(f"{token} " for token in context[len(context) - count :])


class FaultyRunner(FakeRunner):
    """Answers depend on all tokens before, so that one wrong cell changes them. Every call may fail, before or after it
    has taken effect."""

    def __init__(self, cells: int, faults: Faults) -> None:
        super().__init__(cells, BATCH)
        self._faults = faults

    def use_threads(self, threads: int) -> None:
        self._faults.check("use_threads")

    def use_adapters(self, scales: tuple[float, ...]) -> None:
        self._faults.check("use_adapters")

    def decode(self, rows: list[BatchToken]) -> None:
        self._faults.check("decode")
        super().decode(rows)
        self._faults.check("decode")

    def decode_media(self, media: MediaSpan, position: int, sequence: int) -> None:
        self._faults.check("decode_media")
        super().decode_media(media, position, sequence)
        self._faults.check("decode_media")

    def encode_media(self, media: list[MediaPayload]) -> None:
        self._faults.check("encode_media")
        super().encode_media(media[:1])

    def sample(self, row: int, sampler: TestRequest) -> SampledToken:
        self._check_for(sampler, "sample")
        return SampledToken(next_token(self.context(row)), -1.0 if sampler.logprobs else None)

    def score(self, row: int, token: int, sampler: TestRequest) -> SampledToken:
        self._check_for(sampler, "score")
        return super().score(row, token, sampler)

    def _check_for(self, request: TestRequest, kind: str) -> None:
        try:
            self._faults.check(kind)
        except BaseException as error:
            request.must_fail_by = str(error)
            raise

    def piece(self, token: int) -> bytes:
        self._faults.check("piece")
        return super().piece(token)

    def token_bytes(self, token: int) -> bytes:
        self._faults.check("token_bytes")
        return super().token_bytes(token)

    def truncate(self, sequence: int, position: int) -> None:
        self._faults.check("truncate")
        super().truncate(sequence, position)
        self._faults.check("truncate")

    def copy(self, source: int, target: int, position: int) -> None:
        self._faults.check("copy")
        super().copy(source, target, position)
        self._faults.check("copy")

    def save(self, sequence: int) -> bytes:
        self._faults.check("save")
        return super().save(sequence)

    def restore(self, sequence: int, data: SavedState) -> bool:
        self._faults.check("restore")
        restored = super().restore(sequence, data)
        self._faults.check("restore")
        return restored


class FaultyDraftRunner(FakeRunner):
    """Drafts tokens, some of which are right."""

    def __init__(self, cells: int, faults: Faults) -> None:
        super().__init__(cells, batch=64)
        self._faults = faults

    def use_threads(self, threads: int) -> None:
        self._faults.check("draft model")

    def decode(self, rows: list[BatchToken]) -> None:
        super().decode(rows)
        self._faults.check("draft model")

    def truncate(self, sequence: int, position: int) -> None:
        self._faults.check("draft model")
        super().truncate(sequence, position)

    def top_token(self, row: int) -> int:
        self._faults.check("draft model")
        return self._rows[row].token % 5


class FaultyPrefixCache(PrefixCache):
    def __init__(self, limit: int, disk: DiskCache | None, whole: bool, faults: Faults) -> None:
        super().__init__(limit, disk, whole)
        self._faults = faults

    def add(self, prefix: CachedPrefix) -> None:
        self._faults.check("prefix cache")
        super().add(prefix)
        self._faults.check("prefix cache")

    def store(self, prefix: CachedPrefix) -> None:
        self._faults.check("prefix cache")
        super().store(prefix)
        self._faults.check("prefix cache")

    def holds(self, items: Sequence[Item], adapters: tuple[float, ...]) -> bool:
        self._faults.check("prefix cache")
        return super().holds(items, adapters)

    def find(self, items: Sequence[Item], adapters: tuple[float, ...]) -> tuple[CachedPrefix | None, int]:
        self._faults.check("prefix cache")
        return super().find(items, adapters)

    def longest_shared(self, items: Sequence[Item], adapters: tuple[float, ...]) -> int:
        self._faults.check("prefix cache")
        return super().longest_shared(items, adapters)

    def read(self, prefix: CachedPrefix) -> SavedState | None:
        self._faults.check("prefix cache")
        return super().read(prefix)


class FaultyDiskCache(DiskCache):
    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder, ["k"], DISK_BYTES, lambda _: None)
        self._faults = faults

    def put(self, kind: str, name: str, metadata: dict[str, Any], data: bytes | memoryview) -> None:
        self._faults.check("disk cache")
        super().put(kind, name, metadata, data)

    def read(self, path: Path) -> bytes | memoryview | None:
        self._faults.check("disk cache")
        return super().read(path)


BEGINNINGS = st.sampled_from([[], [1] * 9, [1] * 20, [1, 2] * 12, [3] * 40, [3] * 40 + [1] * 10, [3] * 50])
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "beginning": BEGINNINGS,
            "rest": st.lists(st.one_of(st.sampled_from([-1, -2]), st.integers(0, 4)), max_size=6),
            "max_tokens": st.integers(1, 12),
            "reuse": st.sampled_from([True, True, True, False]),
            "background": st.sampled_from([False, False, True]),
            "client": st.sampled_from(["a", "a", "b"]),
            "adapters": st.sampled_from([(), (), (), (), (1.0,)]),
            "logprobs": st.sampled_from([False, False, False, True]),
            "timeout": st.sampled_from([None, None, None, None, 0.0, 0.002]),
            "cancel_after": st.sampled_from([None, None, None, None, None, 0, 1, 3]),
            "blocks": st.sampled_from([False, False, False, True]),
        }
    ),
    min_size=1,
    max_size=7,
)
KINDS = sorted(OPTIMIZATIONS | STEPS | SINGLE)
RARE_KINDS = ["copy", "restore", "save", "disk cache", "decode_media", "encode_media", "score", "token_bytes"]
FAULTS = st.sets(
    st.one_of(
        st.tuples(st.sampled_from(KINDS), st.one_of(st.integers(0, 5), st.integers(0, 40))),
        st.tuples(st.sampled_from(RARE_KINDS), st.integers(0, 2)),
        st.tuples(st.sampled_from(["copy", "restore"]), st.integers(0, 1)),
    ),
    max_size=8,
)
CONFIG = st.fixed_dictionaries(
    {
        "cells": st.sampled_from([100, 200]),
        "partial_removal": st.booleans(),
        "cache_bytes": st.sampled_from([0, 400, 10_000]),
        "has_disk": st.booleans(),
        "has_draft_model": st.booleans(),
        "tunes_threads": st.booleans(),
        "panic": st.booleans(),
    }
)


@settings(
    max_examples=10_000 if IS_THOROUGH else 300,
    derandomize=not IS_THOROUGH,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(REQUESTS, FAULTS, CONFIG)
def test_a_fault_ends_only_the_request_concerned(
    requests: list[dict[str, Any]], plan: set[tuple[str, int]], config: dict[str, Any]
) -> None:
    faults = Faults(plan, config["panic"])
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0
    with tempfile.TemporaryDirectory() as folder:
        disk = FaultyDiskCache(Path(folder) / "cache", faults) if config["has_disk"] else None
        check_requests([new_request(values, faults) for values in requests], faults, config, disk)
        if disk is not None:
            disk.close()
    for name in {name.rsplit(" ", 1)[0] for name in faults.raised}:
        event(f"failed: {name}")
    assert threading.active_count() == threads
    assert not files or len(os.listdir("/proc/self/fd")) == files


def new_request(values: dict[str, Any], faults: Faults) -> TestRequest:
    rest = [image(2, bytes([-i])) if i < 0 and not values["logprobs"] else abs(i) for i in values["rest"]]
    options = {key: value for key, value in values.items() if key not in ("beginning", "rest")}
    return TestRequest(items=[*values["beginning"], *rest, 4], faults=faults, **options)


def check_requests(requests: list[TestRequest], faults: Faults, config: dict[str, Any], disk: DiskCache | None) -> None:
    cells, partial_removal = config["cells"], config["partial_removal"]
    runner = FaultyRunner(cells, faults)
    runner.supports_partial_removal = partial_removal
    draft_runner = FaultyDraftRunner(cells, faults)
    engine = Engine(
        runner,
        SLOTS,
        cells,
        BATCH,
        QUEUE,
        FaultyPrefixCache(config["cache_bytes"], disk, not partial_removal, faults),
        thread_tuner=ThreadTuner(2) if config["tunes_threads"] else None,
        draft_model=DraftModel(draft_runner, SLOTS, cells) if config["has_draft_model"] and partial_removal else None,
    )
    engine._drafter.policy = MaxDrafts()
    try:
        for request in requests:
            request.submit(engine)
        for request in requests:
            request.unblock.set()
        for request in requests:
            assert request.settled.wait(TIMEOUT_SECONDS), "a request got no last event"
        faults.is_active = False
        engine.forecast(Prompt((1,)), ())  # returns when all cancellations have been executed
        probes = [TestRequest([i % 5, 3, *[1] * i, 4], 4) for i in range(SLOTS + QUEUE)]
        for probe in probes:
            probe.submit(engine)  # raises `NotReady` if a permit was lost
        for probe in probes:
            assert probe.settled.wait(TIMEOUT_SECONDS), "the engine does not answer any more"
        assert engine._permits._value == SLOTS + QUEUE
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.finished + stats.failed + stats.cancelled == len(requests) + len(probes)
    finally:
        engine.close()
    assert runner.closed
    check_failures(requests, faults)
    for probe in probes:
        assert isinstance(probe.events[-1], Finished) and probe.check(faults) is None
    for slot in engine._loop.kv.slots:
        assert slot.owner is None and not slot.dirty
        assert [cell.token for cell in runner.held[slot.number]] == cell_tokens(slot.items)
        assert len(runner.held[slot.number]) == slot.cells


def check_failures(requests: list[TestRequest], faults: Faults) -> None:
    failed_by = [name for request in requests if (name := request.check(faults)) is not None]
    for name in failed_by:
        kind = name.rsplit(" ", 1)[0]
        assert kind in STEPS | SINGLE - {"sink"}
        assert kind in STEPS or failed_by.count(name) == 1, f"{name} ended more than one request"
        assert failed_by.count(name) <= SLOTS
