"""The models of this machine that answer requests, behind the `Service` interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...models.errors import ModelError, NotFound
from ...models.registry import installed
from ...models.registry.installed import InstalledModel
from ...models.registry.resolve import builtin_model, refers_to
from ..inference.stream import Stream
from ..service import never
from ..types.model_info import ModelInfo, Stats
from ..types.request import Request, RequestLimits
from ..types.tasks import R, Task
from ..types.warnings import Warnings

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel
    from ..worker.supervisor import WorkerSupervisor
    from .resident import ResidentModel

_NAME_OF_DEFAULT = "default"
_LATEST = ":latest"


class ModelPool:
    """Implements `Service`. The first model is the default, for requests that name none.

    `aliases` are other names of the default model. With `any_model` it answers to every name.
    """

    def __init__(self, *models: ResidentModel, aliases: Sequence[str] = (), any_model: bool = False) -> None:
        self.default = models[0]
        self._limits = RequestLimits()
        self._aliases = tuple(aliases)
        self._any_model = any_model
        self._models = {model.id: model for model in models}
        plain_names = dict.fromkeys(map(_plain, (_NAME_OF_DEFAULT, *aliases)), self.default)
        self._plain_names = plain_names | {_plain(model.id): model for model in reversed(models)}

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

    def model_for(self, name: str | None, warnings: Warnings) -> str:
        model = self._find(name)
        if model is None and name and not warnings.strict and self._answers_unknown(name):
            model = self.default
            warnings.append(f"there is no model {name!r:.100} on this machine; {model.id!r} answers instead")
        return (model or self._route(name)).id

    def model(self, name: str | None) -> ModelInfo:
        return self._loaded(name).info

    def models(self) -> list[ModelInfo]:
        self._loaded(None)
        return [loaded.info for model in self._models.values() if (loaded := model.loaded) is not None]

    def aliases(self) -> list[ModelInfo]:
        return [replace(self._loaded(None).info, id=alias) for alias in self._aliases]

    def is_loaded(self, name: str) -> bool:
        return self._find(name) is not None

    def stats(self) -> list[tuple[str, Stats]]:
        self._loaded(None)
        return [(model.id, loaded.stats()) for model in self._models.values() if (loaded := model.loaded) is not None]

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = never) -> Stream:
        self._limits.check(request)
        return self._loaded(model).generate(request, cancelled)

    def run_task(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = never) -> R:
        task.check(self._limits)
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
        model = self._find(name)
        if model is None:
            if self.default.loaded is None:
                raise self.default.not_ready()
            names = ", ".join(map(repr, self._models))
            raise NotFound(
                f"the model {name!r:.100} is not loaded here; loaded: {names}. `galago serve --model MODEL` loads "
                "another one, --name names it, and --alias NAME gives it further names",
                "model",
            )
        return model

    def _find(self, name: str | None) -> ResidentModel | None:
        """Returns the model that a name means, in any spelling."""
        if not name:
            return self.default
        model = self._models.get(name) or self._plain_names.get(_plain(name))
        if model is None:
            untagged = name.removesuffix(_LATEST)
            model = next((model for model in self._models.values() if refers_to(untagged, model.files)), None)
        return self.default if model is None and self._any_model else model

    def _answers_unknown(self, name: str) -> bool:
        """Whether the default model answers to a name that no model has: only if it is the pool's only model."""
        return len(self._models) == 1 and self.default.loaded is not None and not installed.exists(name)


def _plain(name: str) -> str:
    """The name in the form that is compared: without case, and without the tag that Ollama's clients add."""
    return name.casefold().removesuffix(_LATEST)


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
