"""Several models in one memory budget: loaded when a request names them, unloaded when idle or in the way."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.waiting import wait_until
from galago.models.capacity.memory import SERVER_BYTES
from galago.models.errors import Cancelled, ConfigError, EngineCrashed, ModelError, NotFound, NotReady, Unloaded
from galago.models.files import ModelFiles
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.pool.pool import ModelPool
from galago.runtime.pool.residency import MAX_LOAD_ATTEMPTS, Residency
from galago.runtime.pool.resident import ResidentModel
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.model_info import ModelInfo, Stats
from galago.runtime.types.placement import LoadPlan
from galago.runtime.types.request import Request
from galago.runtime.types.warnings import Warnings

GB = 10**9
REQUEST = Request((Message("user", (Text("Hi"),)),))


class Machine:
    """Counts what is in memory, and the most there ever was."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loaded: dict[str, int] = {}
        self.peak = 0
        self.loads: list[str] = []

    def add(self, name: str, size: int) -> None:
        with self.lock:
            assert name not in self.loaded, f"{name} was loaded twice"
            self.loaded[name] = size
            self.loads.append(name)
            self.peak = max(self.peak, sum(self.loaded.values()))

    def remove(self, name: str) -> None:
        with self.lock:
            del self.loaded[name]


class FakeWorker:
    """Answers with its name while `release` is set; counts its open calls as a worker does."""

    ready = True

    def __init__(self, name: str, machine: Machine, on_idle: Callable[[], object] | None) -> None:
        self.info = ModelInfo(name, "", 64, 0, 0, False, False, 0)
        self.open = 0
        self.release = threading.Event()
        self.release.set()
        self._lock = threading.Lock()
        self._closed = False
        self._machine = machine
        self._on_idle = on_idle

    @property
    def is_idle(self) -> bool:
        return self.open == 0

    def stats(self) -> Stats:
        return Stats(running=self.open)

    def generate(self, request: Request, cancelled: Any) -> Any:
        with self._lock:
            if self._closed:
                raise Unloaded("the model is closed")
            self.open += 1
        self.release.wait(10)
        with self._lock:
            self.open -= 1
            idle = not self.open
        if idle and self._on_idle is not None:
            self._on_idle()
        return self.info.id

    def close_if_idle(self) -> bool:
        with self._lock:
            if self.open:
                return False
        self.close()
        return True

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._machine.remove(self.info.id)


class FakeResident(ResidentModel):
    """A model of a given size, in bytes."""

    def __init__(self, machine: Machine, weights: Path, name: str, size: int, keep_alive: float) -> None:
        super().__init__(
            ModelFiles(name, weights, resolve("builtin").header, None), ModelConfig(), isolated=True,
            keep_alive=keep_alive,
        )  # fmt: skip
        self.machine = machine
        self.size = size
        self.errors: list[Exception] = []
        self.may_load = threading.Event()
        self.may_load.set()

    def share_memory(self, budget: int) -> None:
        if self.size > budget:
            raise ConfigError(f"{self.id} needs {self.size}, but may take only {budget}", "memory")
        self.plan = LoadPlan(self._config, private_bytes=self.size)

    def _open(self) -> Any:
        self.may_load.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        self.machine.add(self.id, self.size)
        return FakeWorker(self.id, self.machine, self.on_idle)


class World:
    """A pool over fake models of given sizes."""

    def __init__(self, folder: Path, memory: int, sizes: dict[str, int], keep_alive: float = 300) -> None:
        self.machine = Machine()
        self.residency = Residency(memory + SERVER_BYTES)
        self.models: dict[str, FakeResident] = {}
        self._folder, self._sizes, self._keep_alive = folder, sizes, keep_alive
        self.pool = ModelPool(residency=self.residency, open_model=self.open)

    def open(self, name: str) -> ResidentModel:
        if name not in self._sizes:
            raise NotFound(f"{name} is not installed", "model")
        path = self._folder / f"{name}.gguf"
        path.touch()
        made = FakeResident(self.machine, path, name, self._sizes[name], self._keep_alive)
        return self.models.setdefault(name, made)

    def ask(self, name: str) -> str:
        answer: Any = self.pool.generate(name, REQUEST)
        return str(answer)

    def worker(self, name: str) -> Any:
        return self.models[name].loaded


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(memory: int, keep_alive: float = 300, **sizes: int) -> World:
        made.append(World(tmp_path, memory, sizes, keep_alive))
        return made[-1]

    yield make
    for world in made:
        world.pool.close()


def busy(world: World, name: str, threads: ThreadPoolExecutor) -> Any:
    """Starts an answer that goes on until the worker's `release` is set."""
    world.ask(name)
    worker = world.worker(name)
    worker.release.clear()
    running = threads.submit(world.ask, name)
    wait_until(lambda: worker.open == 1)
    return worker, running


def test_a_model_is_loaded_when_a_request_names_it_and_only_once(worlds: Callable[..., World]) -> None:
    world = worlds(3 * GB, a=GB)
    assert world.pool.ready and world.pool.models() == []
    world.open("a")
    world.models["a"].may_load.clear()
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(world.ask, "a") for _ in range(8)]
        wait_until(lambda: [one.state for one in world.pool.status()] == ["loading"])
        assert "being loaded" in (world.pool.progress("a") or "")
        world.models["a"].may_load.set()
        assert [answer.result(10) for answer in answers] == ["a"] * 8
    assert world.machine.loads == ["a"] and world.pool.progress("a") is None


def test_the_model_that_was_idle_longest_makes_room(worlds: Callable[..., World]) -> None:
    world = worlds(2 * GB, a=GB, b=GB, c=GB)
    for name in ("a", "b", "a", "c"):
        assert world.ask(name) == name
    assert set(world.machine.loaded) == {"a", "c"} and world.machine.peak == 2 * GB


def test_a_model_that_answers_ends_its_answers_before_it_makes_room(worlds: Callable[..., World]) -> None:
    world = worlds(GB, a=GB, b=GB)
    with ThreadPoolExecutor() as threads:
        worker, running = busy(world, "a", threads)
        other = threads.submit(world.ask, "b")
        wait_until(lambda: "until a has ended" in (world.pool.progress("b") or ""))
        again = threads.submit(world.ask, "a")  # comes after b, so that b does not wait for ever
        worker.release.set()
        assert running.result(10) == "a" and other.result(10) == "b" and again.result(10) == "a"
    assert world.machine.loads == ["a", "b", "a"] and world.machine.peak == GB


def test_a_model_stays_if_the_request_that_needed_its_room_has_left(worlds: Callable[..., World]) -> None:
    world = worlds(GB, a=GB, b=GB)
    left = threading.Event()
    with ThreadPoolExecutor() as threads:
        worker, running = busy(world, "a", threads)
        other = threads.submit(world.pool.generate, "b", REQUEST, left.is_set)
        wait_until(lambda: world.models["a"].state == "unloading")
        again = threads.submit(world.ask, "a")
        wait_until(lambda: len(world.residency._loads) == 2)
        left.set()
        with pytest.raises(Cancelled):
            other.result(10)
        worker.release.set()
        assert running.result(10) == "a" and again.result(10) == "a"
    assert world.machine.loads == ["a"]


def test_an_idle_model_is_unloaded_after_its_time_and_a_pinned_one_never(worlds: Callable[..., World]) -> None:
    world = worlds(3 * GB, a=GB, b=GB)
    world.ask("a")
    world.ask("b")
    world.pool.keep("a", math.inf)
    world.pool.keep("b", 0.0)
    wait_until(lambda: "b" not in world.machine.loaded)
    assert [one.id for one in world.pool.status()] == ["a"]
    assert world.pool.status()[0].idle_seconds_left is None
    world.pool.keep("a", 300)
    assert 0 < (world.pool.status()[0].idle_seconds_left or 0) <= 300


def test_a_busy_model_that_is_to_be_kept_for_no_time_is_unloaded_after_its_answer(
    worlds: Callable[..., World],
) -> None:
    world = worlds(3 * GB, a=GB)
    with ThreadPoolExecutor() as threads:
        worker, running = busy(world, "a", threads)
        world.pool.keep("a", 0.0)
        stopping = threads.submit(world.pool.unload_model, "a")
        wait_until(lambda: world.models["a"].state == "unloading")
        assert not stopping.done() and "a" in world.machine.loaded
        worker.release.set()
        assert running.result(10) == "a" and stopping.result(10).state == "unloaded"
    assert not world.machine.loaded


def test_a_model_that_can_never_fit_is_refused_with_the_numbers(worlds: Callable[..., World]) -> None:
    world = worlds(2 * GB, small=GB, large=3 * GB)
    world.ask("small")
    with pytest.raises(ConfigError, match="large needs 3000000000, but may take only 2000000000"):
        world.ask("large")
    assert set(world.machine.loaded) == {"small"}, "an idle model was unloaded for nothing"
    world.pool.keep("small", math.inf)
    with pytest.raises(ConfigError, match="does not fit into the 1 GB that small leave.*galago stop NAME"):
        world.ask("large")


def test_a_load_that_fails_is_reported_to_all_who_wait_and_the_next_request_tries_again(
    worlds: Callable[..., World],
) -> None:
    world = worlds(2 * GB, a=GB)
    world.open("a")
    world.models["a"].errors = [ModelError("the file is damaged")]
    with pytest.raises(ModelError, match="damaged"):
        world.ask("a")
    assert world.ask("a") == "a"


def test_a_model_whose_process_is_killed_while_it_loads_is_loaded_again(worlds: Callable[..., World]) -> None:
    world = worlds(2 * GB, a=GB)
    world.open("a")
    world.models["a"].errors = [EngineCrashed("killed") for _ in range(MAX_LOAD_ATTEMPTS - 1)]
    assert world.ask("a") == "a"
    world.pool.unload_model("a")
    world.models["a"].errors = [EngineCrashed("killed") for _ in range(MAX_LOAD_ATTEMPTS)]
    with pytest.raises(EngineCrashed):
        world.ask("a")


def test_a_request_does_not_wait_for_ever(worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_LOAD_SECONDS", "0")
    world = worlds(2 * GB, a=GB)
    world.open("a")
    world.models["a"].may_load.clear()
    with pytest.raises(NotReady, match="a .* for more than 0 s; try again later"):
        world.ask("a")
    world.models["a"].may_load.set()


def test_closing_ends_all_waiting(worlds: Callable[..., World]) -> None:
    world = worlds(GB, a=GB, b=GB)
    with ThreadPoolExecutor() as threads:
        worker, running = busy(world, "a", threads)
        other = threads.submit(world.ask, "b")
        wait_until(lambda: world.pool.progress("b") is not None and len(world.residency._loads) == 1)
        world.pool.close()
        with pytest.raises(NotReady, match="shutting down"):
            other.result(10)
        worker.release.set()
        running.result(10)
    with pytest.raises(NotReady, match="shutting down"):
        world.ask("a")


def test_unknown_names_are_answered_by_the_builtin_model_only_if_there_is_no_other(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds(GB, builtin=GB)
    warnings = Warnings()
    assert world.pool.model_for("gpt-4o-mini", warnings) == "builtin"
    assert warnings == ["there is no model 'gpt-4o-mini' on this machine; 'builtin' answers instead"]
    assert world.pool.model_for(None, warnings) == "builtin"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=40),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_any_mix_of_requests_is_answered_by_the_right_model_within_the_budget(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[str, int]], sizes: list[int]
) -> None:
    names = "abcd"
    world = World(tmp_path_factory.mktemp("mix"), 4 * GB, {n: (1 + s) * GB for n, s in zip(names, sizes, strict=True)})
    queues: list[list[str]] = [[name for name, client in requests if client == number] for number in range(4)]
    try:
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda names: [world.ask(name) for name in names], queues))
        assert answers == queues and world.machine.peak <= 4 * GB
    finally:
        world.pool.close()
    assert not world.machine.loaded
