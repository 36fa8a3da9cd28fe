"""The models of this machine that answer requests, behind the `Service` interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ...models.errors import ModelError, NotFound
from ...models.registry import installed
from ...models.registry.installed import InstalledModel
from ...models.registry.resolve import builtin_model, refers_to
from ..inference.stream import Stream
from ..service import never
from ..types.model_info import ModelInfo, Stats
from ..types.request import Request
from ..types.tasks import R, Task

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel
    from ..worker.supervisor import WorkerSupervisor
    from .resident import ResidentModel


class ModelPool:
    """Implements `Service`. The first model is the default, for requests that name none."""

    def __init__(self, *models: ResidentModel) -> None:
        self.default = models[0]
        self._models = {model.id: model for model in models}

    def begin(self) -> None:
        """Loads the models in the background."""
        for model in self._models.values():
            model.begin()

    def load(self) -> None:
        for model in self._models.values():
            model.load()

    @property
    def ready(self) -> bool:
        return self.default.ready

    def model(self, name: str | None) -> ModelInfo:
        return self._loaded(name).info

    def models(self) -> list[ModelInfo]:
        self._loaded(None)
        return [loaded.info for model in self._models.values() if (loaded := model.loaded) is not None]

    def is_loaded(self, name: str) -> bool:
        return self._find(name) is not None

    def stats(self) -> list[tuple[str, Stats]]:
        self._loaded(None)
        return [(model.id, loaded.stats()) for model in self._models.values() if (loaded := model.loaded) is not None]

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = never) -> Stream:
        return self._loaded(model).generate(request, cancelled)

    def run_task(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = never) -> R:
        return self._loaded(model).run_task(task, cancelled)

    def files(self, model: str | None) -> InstalledModel:
        return self._route(model).installed()

    def installed(self) -> list[ModelInfo]:
        infos = []
        for model in self.installed_files():
            with contextlib.suppress(ModelError):
                infos.append(_describe(model))
        return infos

    def installed_files(self) -> Iterator[InstalledModel]:
        for model in (builtin_model(), *installed.all_models()):
            with contextlib.suppress(OSError):
                if not any(resident.has_file(model.weights[0]) for resident in self._models.values()):
                    yield model

    def close(self) -> None:
        for model in self._models.values():
            model.close()

    def _loaded(self, name: str | None) -> LoadedModel | WorkerSupervisor:
        model = self._route(name)
        loaded = model.loaded
        if loaded is None:
            raise model.not_ready()
        return loaded

    def _route(self, name: str | None) -> ResidentModel:
        """Returns the model that a request means."""
        model = self.default if name is None else self._find(name)
        if model is None:
            if self.default.loaded is None:
                raise self.default.not_ready()
            names = ", ".join(map(repr, self._models))
            raise NotFound(
                f"the model {name!r:.100} is not loaded here; loaded: {names}. `galago serve --model MODEL` loads "
                "another one, and --name names it",
                "model",
            )
        return model

    def _find(self, name: str) -> ResidentModel | None:
        """Returns the model that a name means, in any spelling."""
        if (model := self._models.get(name)) is not None:
            return model
        return next((model for model in self._models.values() if refers_to(name, model.files)), None)


def _describe(model: InstalledModel) -> ModelInfo:
    facts = installed.summarize(model)
    title = "".join(c if c.isprintable() else "?" for c in facts.title[:80])
    return ModelInfo(
        id=str(model.ref),
        description=f"{title}, {facts.quant}",
        context_length=facts.context or 0,
        parameters=facts.parameters,
        size_bytes=model.size,
        vision=facts.vision,
        audio=facts.audio,
        created=facts.modified_at,
    )
