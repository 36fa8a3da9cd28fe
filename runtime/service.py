"""What the server, the command line and scripts hold: a model behind its name. Knows no wire format."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ..models.errors import ModelError, NotFound, NotReady
from ..models.files import ModelFiles
from ..models.registry import installed, pairing
from ..models.registry.installed import Installed
from ..models.registry.name import ModelRef
from ..models.registry.resolve import builtin_model, same
from .config import ModelConfig
from .inference.stream import Stream
from .types.model_info import ModelInfo, Stats
from .types.request import Request
from .types.tasks import Embed, R, Task, TokenIds, Vectors

if TYPE_CHECKING:
    from .inference.loader import LoadedModel
    from .process.spawn import WorkerProcess
    from .worker.supervisor import WorkerSupervisor


class Service:
    """Answers requests for one model, from when `load` has returned until `close`.

    An `isolated` model lives in a process of its own, which may have been `started` for it, and this one loads no
    llama.cpp.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig,
        progress: Callable[[float], None] | None = None,
        *,
        isolated: bool = False,
        started: WorkerProcess | None = None,
    ) -> None:
        self.model_id = files.id
        self._files = files
        self._config = config
        self._progress = progress
        self._isolated = isolated
        self._started = started
        self._loading: Future[None] | None = None
        self._model: LoadedModel | WorkerSupervisor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def begin(self) -> None:
        """Loads the model on a thread of its own, for which `load` then waits."""
        self._loading = Future()
        threading.Thread(target=self._load_ahead, args=(self._loading,), name="galago-load", daemon=True).start()

    def _load_ahead(self, loading: Future[None]) -> None:
        try:
            self._load()
        except BaseException as error:
            loading.set_exception(error)
        else:
            loading.set_result(None)

    def load(self) -> None:
        """Loads the model. Raises what went wrong."""
        if self._loading is None:
            self._load()
        else:
            self._loading.result()

    def _load(self) -> None:
        model = self._open()
        with self._lock:
            self._model = None if self._closed else model
        if self._model is None:
            model.close()

    @property
    def ready(self) -> bool:
        """Whether a token can be made."""
        model = self._model
        return model is not None and model.ready

    def models(self) -> list[ModelInfo]:
        return [self._loaded().info]

    def installed(self) -> list[ModelInfo]:
        """The other models on this disk, as their headers describe them; they are not loaded."""
        found = []
        for model in self.others():
            with contextlib.suppress(ModelError):
                found.append(_info(model))
        return found

    def others(self) -> Iterator[Installed]:
        """The files of the models on this disk that are not loaded."""
        for model in (builtin_model(), *installed.every()):
            with contextlib.suppress(OSError):
                if not model.weights[0].samefile(self._files.weights):
                    yield model

    def served(self) -> Installed:
        """The files of the model that is loaded."""
        weights = self._files.weights
        names = pairing.parts_beside(weights.name, [path.name for path in weights.parent.iterdir()])
        parts = tuple(weights.with_name(name) for name in names)
        return Installed(ModelRef("path", str(weights)), parts, self._files.projector, "loaded")

    def serves(self, name: str) -> bool:
        """Whether a name, in any spelling, means the model that is loaded."""
        return same(name, self._files)

    def stats(self) -> list[tuple[str, Stats]]:
        """What each model is doing and has done."""
        return [(self.model_id, self._loaded().stats())]

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Starts answering; `model` `None` means the one there is. `cancelled` is asked while a prompt is prepared."""
        return self._serving(model).generate(request, cancelled)

    def answer(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """A task's answer; `cancelled` is asked while it is made."""
        return self._serving(model).answer(task, cancelled)

    def embed(
        self,
        texts: Iterable[str | TokenIds],
        dimensions: int | None = None,
        *,
        model: str | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Vectors:
        """A vector for each text, given as it is or as token ids."""
        return self.answer(model, Embed(tuple(texts), dimensions), cancelled)

    def check_served(self, model: str | None) -> None:
        """Raises `NotReady` while there is no model, and `NotFound` for the name of another; `None` means any."""
        self._serving(model)

    def _serving(self, model: str | None) -> LoadedModel | WorkerSupervisor:
        loaded = self._loaded()
        if model is not None and not self.serves(model):
            raise NotFound(
                f"the model {model!r:.100} is not loaded here; the one served is {self.model_id!r} "
                "(galago serve --model MODEL loads another, --name names it)",
                "model",
            )
        return loaded

    def close(self) -> None:
        with self._lock:
            model, self._model, self._closed = self._model, None, True
        if model is not None:
            model.close()

    def _open(self) -> LoadedModel | WorkerSupervisor:
        if self._isolated:
            from .worker.supervisor import WorkerSupervisor

            return WorkerSupervisor(self._files, self._config, self._progress, self._started)
        from .inference.loader import open_model

        return open_model(self._files, self._config, self._progress)

    def _loaded(self) -> LoadedModel | WorkerSupervisor:
        if self._model is None:
            raise NotReady("the model is closed" if self._closed else "the model is still loading; try again shortly")
        return self._model


def _info(model: installed.Installed) -> ModelInfo:
    facts = installed.facts(model)
    title = "".join(c if c.isprintable() else "?" for c in facts.title[:80])
    return ModelInfo(
        id=str(model.ref),
        description=f"{title}, {facts.quant}",
        context_length=facts.context or 0,
        parameters=facts.parameters,
        size_bytes=model.size,
        vision=facts.vision,
        audio=facts.audio,
        created=facts.changed,
    )
