"""Decides which models are in memory: loads those that requests wait for, and unloads idle ones, in one memory budget.

One thread loads and unloads. A model that needs room takes it from the model that has been idle longest; a model that
still answers takes no new requests, ends its answers, and is then unloaded. Models are loaded in the order in which
they were asked for, so none waits for ever.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError
from functools import partial
from typing import TYPE_CHECKING, Any

from ...models import units
from ...models.capacity.memory import SERVER_BYTES
from ...models.errors import Cancelled, ConfigError, EngineCrashed, NotReady
from ..log import log
from ..types.limits import limit
from ..types.model_info import ModelState, ModelStatus

if TYPE_CHECKING:
    from ...models.device import Machine
    from ..worker.supervisor import WorkerSupervisor
    from .resident import ResidentModel

MAX_LOAD_ATTEMPTS = 5
"""How often a model is loaded if its process is killed while it loads."""

_POLL_SECONDS = 0.05  # to notice that a waiting client has gone


MAX_RESERVE_BYTES = 1 << 30


def free_memory(machine: Machine) -> int:
    """Returns the bytes that models may take on a machine: what is free, less an eighth of it all or a GiB."""
    reserve = min(machine.total_memory_bytes // 8, MAX_RESERVE_BYTES)
    return max(machine.available_memory_bytes - reserve, 0)


class PendingLoad:
    """A model that requests wait for. `waiting` counts them, until the model has taken their work."""

    def __init__(self, model: ResidentModel) -> None:
        self.model = model
        self.waiting = 0
        self.is_running = False
        self.obstacle = ""
        """What it waits for, as the rest of a sentence."""
        self._future: Future[WorkerSupervisor] = Future()

    def result(self, cancelled: Callable[[], bool]) -> WorkerSupervisor:
        """Waits until the model is loaded. Raises the error that prevented it, `Cancelled`, or `NotReady`."""
        allowed = limit("load_seconds")
        deadline = time.monotonic() + allowed
        while True:
            try:
                return self._future.result(_POLL_SECONDS)
            except TimeoutError:
                if self._future.done():
                    raise
            if cancelled():
                raise Cancelled("the caller has left")
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{self.describe()} for more than {allowed} s; try again later, or raise the limit load_seconds"
                )

    def succeed(self) -> None:
        worker: Any = self.model.loaded
        self._future.set_result(worker)

    def fail(self, error: BaseException) -> None:
        self._future.set_exception(error)

    @property
    def state(self) -> ModelState:
        return "loading" if self.is_running else "waiting"

    def describe(self) -> str:
        """Says what the model is doing, for a person who waits for it."""
        if self.is_running:
            return f"{self.model.id} is being loaded ({self.model.fraction:.0%})"
        return f"{self.model.id} waits to be loaded" + (f" until {self.obstacle}" if self.obstacle else "")


class Residency:
    """Keeps models loaded within `memory` bytes, which include the process of the server."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.models: tuple[ResidentModel, ...] = ()
        """The models that are in memory or on the way, the one that was asked for first at the front."""
        self._loads: dict[str, PendingLoad] = {}
        """In the order in which the models were asked for."""
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[ResidentModel | None] = queue.SimpleQueue()
        """Models whose last request has ended, or that have to be loaded or unloaded."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="galago-residency", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def loaded(self, model: ResidentModel, cancelled: Callable[[], bool]) -> Iterator[WorkerSupervisor]:
        """Waits until a model is loaded, and keeps it so until the block has given it its work.

        Raises the error that prevents the loading, or `NotReady` if it takes too long.
        """
        with self._lock:
            if self._closed:
                raise NotReady("the server is shutting down")
            model = self._add(model)
            load = self._loads.setdefault(model.id, PendingLoad(model))
            load.waiting += 1
        self._inbox.put(model)
        try:
            yield load.result(cancelled)
        finally:
            with self._lock:
                load.waiting -= 1
            self._inbox.put(model)

    def unload(self, model: ResidentModel, cancelled: Callable[[], bool]) -> None:
        """Unloads a model once its running requests have ended, and waits for that."""
        model.withdraw()
        self._inbox.put(model)
        while model.state == "unloading":
            if cancelled():
                raise Cancelled("the caller has left")
            time.sleep(_POLL_SECONDS)

    def wake(self, model: ResidentModel) -> None:
        """Makes a changed `keep_alive` of a model take effect."""
        self._inbox.put(model)

    def pending(self, model: ResidentModel) -> PendingLoad | None:
        return self._loads.get(model.id)

    def status(self, model: ResidentModel) -> ModelStatus:
        load = self._loads.get(model.id)
        busy = model.is_busy
        idle = model.state == "ready" and not busy and math.isfinite(model.keep_alive)
        return ModelStatus(
            model.id,
            model.state if load is None else load.state,
            model.plan.mapped_bytes + model.plan.private_bytes,
            busy,
            model.keep_alive,
            max(model.idle_since + model.keep_alive - time.monotonic(), 0.0) if idle else None,
        )

    def close(self) -> None:
        """Ends running requests with an error, and unloads all models."""
        with self._lock:
            self._closed = True
            loads, self._loads = list(self._loads.values()), {}
        for load in loads:
            load.fail(NotReady("the server is shutting down"))
        for model in self.models:
            model.close()
        self._inbox.put(None)

    def _run(self) -> None:
        while not self._closed:
            try:
                model = self._inbox.get(timeout=self._seconds_to_next_unload())
            except queue.Empty:
                model = None
            try:
                if model is not None and not model.is_busy:
                    model.idle_since = time.monotonic()
                self._unload_expired()
                self._advance()
            except Exception as error:  # the thread must go on, or no model would be loaded any more
                log(f"an unexpected error while models were loaded or unloaded: {error!r}")

    def _seconds_to_next_unload(self) -> float | None:
        """The time until a model has been idle too long, `None` if none will be."""
        now = time.monotonic()
        expiring = [model for model in self.models if model.state == "ready" and not model.is_busy]
        left = min((model.idle_since + model.keep_alive - now for model in expiring), default=math.inf)
        return max(left, 0.0) if math.isfinite(left) else None

    def _unload_expired(self) -> None:
        now = time.monotonic()
        for model in self.models:
            if model.state == "ready" and not model.is_busy and now >= model.idle_since + model.keep_alive:
                model.withdraw()
            if model.state == "unloading" and model.id not in self._loads:
                self._unload(model)

    def _unload(self, model: ResidentModel) -> bool:
        """Unloads a withdrawn model if it is idle. Returns whether it is unloaded."""
        if not model.unload():
            return False
        log(f"{model.id} was unloaded")
        with self._lock:
            if model.id not in self._loads:
                self._remove(model)
        return True

    def _advance(self) -> None:
        """Loads the models that requests wait for, until one has to wait for another to end its answers."""
        while (load := self._first_load()) is not None:
            try:
                if load.model.state != "ready" and not load.model.restore():
                    if not self._make_room(load):
                        return
                    load.is_running = True
                    self._load(load.model)
            except BaseException as error:
                self._end(load, error)
            else:
                self._end(load)

    def _first_load(self) -> PendingLoad | None:
        """The first load that a request still waits for."""
        with self._lock:
            for key, load in list(self._loads.items()):
                if load.waiting:
                    return load
                del self._loads[key]
                if load.model.state not in ("ready", "unloading"):
                    self._remove(load.model)
            return None

    def _end(self, load: PendingLoad, error: BaseException | None = None) -> None:
        """Tells the waiting requests how a load has ended."""
        load.model.idle_since = time.monotonic()
        with self._lock:
            if self._loads.pop(load.model.id, None) is None:
                return  # closed
            if error is not None:
                self._remove(load.model)
        if error is None:
            load.model.is_awaited = lambda: load.waiting > 0
            load.succeed()
        else:
            load.fail(error)

    def _add(self, model: ResidentModel) -> ResidentModel:
        """Adds a model. Returns the one that has its name already, if there is one. The lock is held."""
        known = next((other for other in self.models if other.id == model.id), None)
        if known is None:
            self.models = (*self.models, model)
        return known or model

    def _remove(self, model: ResidentModel) -> None:
        """Forgets a model that is not in memory. The lock is held."""
        self.models = tuple(other for other in self.models if other is not model)

    def _make_room(self, load: PendingLoad) -> bool:
        """Unloads models until there is room. Returns `False` if it has to wait for one that still answers.

        Raises `ConfigError` if there is no room even without all models that may be unloaded.
        """
        model = load.model
        others = [other for other in self.models if other is not model and other.state in ("ready", "unloading")]
        pinned = [other for other in others if other.state == "ready" and math.isinf(other.keep_alive)]
        room = self.memory - SERVER_BYTES - _needed(pinned)
        if pinned and room <= 0:
            raise _no_room(model, pinned, room)
        try:
            model.share_memory(room)
        except ConfigError as error:
            raise _no_room(model, pinned, room, error) from error
        staying = sorted((other for other in others if other not in pinned), key=_last_use)
        leaving: list[ResidentModel] = []
        while staying and self._lacks_room([model, *pinned, *staying]):
            leaving.append(staying.pop(0))
            leaving[-1].withdraw()
        busy = [other for other in leaving if not self._unload(other)]
        load.obstacle = f"{' and '.join(other.id for other in busy)} has ended its answers" if busy else ""
        return not self._lacks_room([model, *pinned, *staying, *busy])

    def _lacks_room(self, models: list[ResidentModel]) -> bool:
        return SERVER_BYTES + _needed(models) > self.memory

    def _load(self, model: ResidentModel) -> None:
        began = time.monotonic()
        model.on_idle = partial(self._inbox.put, model)
        for attempt in range(1, MAX_LOAD_ATTEMPTS + 1):
            try:
                model.load()
                break
            except EngineCrashed as error:
                if attempt == MAX_LOAD_ATTEMPTS or self._closed:
                    raise
                log(f"{error}; loading it again")
        log(f"{model.id} was loaded in {time.monotonic() - began:.1f} s")


def _needed(models: list[ResidentModel]) -> int:
    """The bytes that models need together. Weights that several of them map from one file are counted once."""
    mapped: dict[Any, int] = {}
    for model in models:
        mapped[model.files.weights] = max(mapped.get(model.files.weights, 0), model.plan.mapped_bytes)
    return sum(mapped.values()) + sum(model.plan.private_bytes for model in models)


def _last_use(model: ResidentModel) -> tuple[bool, bool, float]:
    """Orders models for unloading: those on their way out, then idle ones, the one that has been idle longest first."""
    return model.state != "unloading", model.is_busy, model.idle_since


def _no_room(
    model: ResidentModel, pinned: list[ResidentModel], room: int, error: ConfigError | None = None
) -> ConfigError:
    """The error for a model that does not fit beside those that stay loaded."""
    if not pinned:
        assert error is not None
        return error
    names = ", ".join(other.id for other in pinned)
    reason = f" ({error.message})" if error else ""
    return ConfigError(
        f"{model.id} does not fit into the {units.format_bytes(max(room, 0))} that {names} leave{reason}; unload one "
        "with galago stop NAME, or serve with a larger --memory",
        "memory",
    )
