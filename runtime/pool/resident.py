"""One model of the pool: its files, its settings, and the engine or worker that answers for it once it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ...models.errors import NotReady
from ...models.files import ModelFiles
from ...models.registry.installed import InstalledModel
from ...models.registry.name import ModelRef
from ..config import ModelConfig
from ..log import log
from ..types.placement import LlamaBuild, LoadPlan
from .budget import plan_load

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel
    from ..process.spawn import WorkerProcess
    from ..worker.supervisor import WorkerSupervisor

ResidentState: TypeAlias = Literal["loading", "ready", "failed", "closed"]
"""A worker that is being restarted leaves its model "ready": requests wait for it."""


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
    ) -> None:
        self.id = files.id
        self.files = files
        self.state: ResidentState = "loading"
        self.loaded: LoadedModel | WorkerSupervisor | None = None
        """The loaded model or its worker; `None` unless the state is "ready"."""
        self._config = config
        self._progress = progress
        self._isolated = isolated
        self._process = process
        self._loading: Future[None] | None = None
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

    def close(self) -> None:
        with self._lock:
            loaded, self.loaded, self.state = self.loaded, None, "closed"
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

            return WorkerSupervisor(self.files, self._plan_for_worker, self._progress, self._process)
        from ..inference.loader import open_model
        from ..llamacpp.devices import describe_build

        plan = self._plan(describe_build(), server=False)
        return open_model(self.files, plan.config, plan.placement, self._progress)

    def _plan_for_worker(self) -> LoadPlan:
        """Called for each start of the worker: another program may have taken GPU memory since the last one."""
        from .llama_build import installed_build

        return self._plan(installed_build(), server=True)

    def _plan(self, build: LlamaBuild, server: bool) -> LoadPlan:
        plan = plan_load(self.files, self._config, build, server)
        for note in plan.notes:
            log(note)
        return plan
