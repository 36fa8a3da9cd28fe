"""One model of the pool: its files, its settings, and the engine or worker that answers for it while it is loaded."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.errors import NotReady
from ...models.files import ModelFiles
from ...models.registry.installed import InstalledModel
from ...models.registry.name import ModelRef
from ..config import ModelConfig
from ..log import log
from ..types.model_info import ModelState
from ..types.placement import LlamaBuild, LoadPlan
from .budget import plan_load, plan_shared

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel
    from ..process.spawn import WorkerProcess
    from ..worker.supervisor import WorkerSupervisor


class ResidentModel:
    """Loads a model, here or in a worker process.

    An `isolated` model lives in a worker, and this process loads no llama.cpp. `process` is a worker that was started
    before, to import in parallel. `progress` receives the fraction of the weights that is loaded.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig,
        progress: Callable[[float], None] | None = None,
        *,
        isolated: bool = False,
        process: WorkerProcess | None = None,
        keep_alive: float = math.inf,
        own_names: Sequence[str] | None = None,
    ) -> None:
        self.id = files.id
        self.files = files
        self.own_names = own_names
        """The only further names of a preset; any name of its files means another model."""
        self.state: ModelState = "loading"
        """A worker that is being restarted leaves its model "ready": requests wait for it."""
        self.loaded: LoadedModel | WorkerSupervisor | None = None
        """The loaded model or its worker; `None` unless the state is "ready"."""
        self.keep_alive = keep_alive
        """Seconds without a request after which the model may be unloaded."""
        self.idle_since = math.inf
        """When its last request ended, as `time.monotonic` gives it."""
        self.fraction = 0.0
        """The part of the weights that is loaded."""
        self.on_idle: Callable[[], object] | None = None
        """Called when the last of its requests has ended."""
        self.is_awaited: Callable[[], bool] = lambda: False
        """Whether requests that waited for it have yet to begin."""
        self.plan = LoadPlan(config)
        self._config = config
        self._budget: int | None = None
        self._progress = progress
        self._isolated = isolated
        self._process = process
        self._loading: Future[None] | None = None
        self._leaving: WorkerSupervisor | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Loads the model on a thread, for which `load` then waits."""
        loading = self._loading = Future()
        threading.Thread(target=self._load_into, args=(loading,), name="galago-load", daemon=True).start()

    def load(self) -> None:
        """Loads the model, or waits until it is loaded. Raises the error that prevented it."""
        if self._loading is None:
            self._load()
        else:
            self._loading.result()

    @property
    def ready(self) -> bool:
        """Whether a request would be answered without waiting for a load or a restart."""
        loaded = self.loaded
        return loaded is not None and loaded.ready

    @property
    def is_busy(self) -> bool:
        """Whether a request uses its worker, or is about to."""
        worker: Any = self._leaving or self.loaded
        return worker is not None and (self.is_awaited() or not worker.is_idle)

    def not_ready(self) -> NotReady:
        """Returns the error for a request that comes while the model cannot answer."""
        if self.state == "loading":
            return NotReady("the model is still loading; try again shortly")
        return NotReady("the model is closed" if self.state == "closed" else "the model could not be loaded")

    def installed(self) -> InstalledModel:
        """Returns the model's files as the registry describes them."""
        ref = ModelRef("path", str(self.files.weights))
        return InstalledModel(ref, self.files.parts, self.files.projector, "loaded")

    def has_file(self, path: Path) -> bool:
        return path.samefile(self.files.weights)

    def share_memory(self, budget: int) -> None:
        """Makes the model's plan for memory that it shares with others. Raises `ConfigError` if it cannot fit."""
        from .llama_build import installed_build

        self._budget = budget
        self.plan = self._make_plan(installed_build(), server=True)

    def withdraw(self) -> None:
        """Takes no new requests, so that `unload` can unload the model once the running ones have ended."""
        with self._lock:
            if self.state == "ready":
                worker: Any = self.loaded
                self._leaving, self.loaded, self.state = worker, None, "unloading"

    def unload(self) -> bool:
        """Unloads a withdrawn model if no request uses it. Returns whether it is unloaded."""
        if self._leaving is not None and not self.is_awaited() and self._leaving.close_if_idle():
            with self._lock:
                self._leaving, self.fraction = None, 0.0
                self.state = "closed" if self.state == "closed" else "unloaded"
        return self._leaving is None

    def restore(self) -> bool:
        """Takes requests again, if the model was withdrawn and is still loaded. Returns whether it is loaded."""
        with self._lock:
            if self._leaving is not None and self.state == "unloading":
                self.loaded, self._leaving, self.state = self._leaving, None, "ready"
            return self.loaded is not None

    def close(self) -> None:
        with self._lock:
            loaded, self.loaded, self.state = self.loaded or self._leaving, None, "closed"
        if loaded is not None:
            loaded.close()

    def _load_into(self, loading: Future[None]) -> None:
        try:
            self._load()
        except BaseException as error:
            loading.set_exception(error)
        else:
            loading.set_result(None)

    def _load(self) -> None:
        with self._lock:
            self.state = "closed" if self.state == "closed" else "loading"
        try:
            loaded = self._open()
        except BaseException:
            with self._lock:
                self.state = "closed" if self.state == "closed" else "failed"
            raise
        with self._lock:
            closed = self.state == "closed"
            if not closed:
                self.loaded, self.state = loaded, "ready"
        if closed:
            loaded.close()

    def _open(self) -> LoadedModel | WorkerSupervisor:
        if self._isolated:
            from ..worker.supervisor import WorkerSupervisor

            process, self._process = self._process, None
            return WorkerSupervisor(self.files, self._plan_for_worker, self._show_progress, process, self.on_idle)
        from ..inference.loader import open_model
        from ..llamacpp.devices import describe_build

        plan = self._make_plan(describe_build(), server=False)
        return open_model(self.files, plan.config, plan.placement, self._show_progress)

    def _show_progress(self, fraction: float) -> None:
        self.fraction = fraction
        if self._progress is not None:
            self._progress(fraction)

    def _plan_for_worker(self) -> LoadPlan:
        """Called for each start of the worker: another program may have taken GPU memory since the last one."""
        from .llama_build import installed_build

        return self._make_plan(installed_build(), server=True)

    def _make_plan(self, build: LlamaBuild, server: bool) -> LoadPlan:
        if self._budget is None:
            plan = plan_load(self.files, self._config, build, server)
        else:
            plan = plan_shared(self.files, self._config, build, self._budget)
        for note in plan.notes if plan != self.plan else ():
            log(note)
        return plan
