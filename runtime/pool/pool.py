"""The models of this machine that answer requests, behind the `Service` interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ...models.errors import ConfigError, EngineCrashed, GalagoError, ModelError, NotFound, Unloaded
from ...models.registry import installed
from ...models.registry.installed import InstalledModel
from ...models.registry.name import BUILTIN
from ...models.registry.resolve import builtin_model, refers_to
from ..inference.stream import Stream
from ..service import never
from ..types.model_info import ModelInfo, ModelStatus, Stats
from ..types.request import Request, RequestLimits
from ..types.tasks import R, Task
from ..types.warnings import Warnings
from ..worker.policy import MAX_CRASHES_PER_REQUEST
from .descriptions import describe_files, describe_installed
from .presets import preset_files, read_presets

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel
    from ..worker.supervisor import WorkerSupervisor
    from .residency import Residency
    from .resident import ResidentModel

T = TypeVar("T")

_NAME_OF_DEFAULT = "default"
_LATEST = ":latest"


class ModelPool:
    """Implements `Service`. The first model is the default, for requests that name none.

    `aliases` are other names of the default model. With `any_model` it answers to every name. With `residency`, models
    that are not given are loaded when a request names them, as `open_model` opens them; the default is then "builtin".
    """

    def __init__(
        self,
        *models: ResidentModel,
        aliases: Sequence[str] = (),
        any_model: bool = False,
        residency: Residency | None = None,
        open_model: Callable[[str], ResidentModel] | None = None,
    ) -> None:
        self._limits = RequestLimits()
        self._given = list(models)
        self._aliases = tuple(aliases)
        self._any_model = any_model
        self._residency = residency
        self._open_model = open_model
        self._keep_alive_of_next: dict[str, float] = {}
        """What requests ask for that are about to load a model, in seconds, by its id."""
        self._default_names = frozenset(map(_plain, (_NAME_OF_DEFAULT, *aliases)))

    def begin(self) -> None:
        """Loads the given models in the background."""
        for model in self._given:
            model.begin()

    def load(self) -> None:
        for model in self._given:
            model.load()

    @property
    def loads_on_demand(self) -> bool:
        return self._residency is not None

    @property
    def ready(self) -> bool:
        return not self._given or self._given[0].ready

    def model_for(self, name: str | None, warnings: Warnings) -> str:
        model = self._find(name)
        if model is None and name and not warnings.strict and self._answers_unknown(name):
            model = self._default()
            warnings.append(f"there is no model {name!r:.100} on this machine; {model.id!r} answers instead")
        return (model or self._route(name)).id

    def model(self, name: str | None) -> ModelInfo:
        model = self._route(name)
        loaded = model.loaded
        if loaded is not None:
            return loaded.info
        if self._residency is None:
            raise model.not_ready()
        return describe_files(model.files, model.plan.config.context_length)

    def models(self) -> list[ModelInfo]:
        models = self._models()
        if self._given and self._given[0].loaded is None:
            raise self._given[0].not_ready()
        return [loaded.info for model in models if (loaded := model.loaded) is not None]

    def aliases(self) -> list[ModelInfo]:
        return [replace(self.model(None), id=alias) for alias in self._aliases]

    def is_loaded(self, name: str) -> bool:
        return self._find(name) in self._models()

    def stats(self) -> list[tuple[str, Stats]]:
        self.models()
        return [(model.id, loaded.stats()) for model in self._models() if (loaded := model.loaded) is not None]

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = never) -> Stream:
        self._limits.check(request)
        return self._with_loaded(model, lambda loaded: loaded.generate(request, cancelled), cancelled)

    def run_task(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = never) -> R:
        task.check(self._limits)
        return self._with_loaded(model, lambda loaded: loaded.run_task(task, cancelled), cancelled)

    def files(self, model: str | None) -> InstalledModel:
        return self._route(model).installed()

    def installed(self) -> list[ModelInfo]:
        infos = []
        for model in self.installed_files():
            with contextlib.suppress(ModelError):
                infos.append(describe_installed(model))
        for preset in read_presets().presets:
            with contextlib.suppress(GalagoError, OSError):
                if not self.is_loaded(preset.name):
                    infos.append(describe_installed(preset_files(preset)))
        return infos

    def installed_files(self) -> Iterator[InstalledModel]:
        for model in (builtin_model(), *installed.all_models()):
            with contextlib.suppress(OSError):
                plain = [resident for resident in self._models() if resident.own_names is None]
                if not any(resident.has_file(model.weights[0]) for resident in plain):
                    yield model

    def close(self) -> None:
        if self._residency is not None:
            self._residency.close()
        for model in self._given:
            model.close()

    def status(self) -> list[ModelStatus]:
        return [self._status(model) for model in self._models()]

    def progress(self, name: str) -> str | None:
        model = self._find(name)
        if self._residency is None or (model is not None and model.loaded is not None):
            return None
        load = None if model is None else self._residency.pending(model)
        return f"{name} waits to be loaded" if load is None else load.describe()

    def load_model(self, name: str, cancelled: Callable[[], bool] = never) -> ModelStatus:
        return self._with_loaded(name, lambda _loaded: self._status(self._route(name)), cancelled)

    def unload_model(self, name: str, cancelled: Callable[[], bool] = never) -> ModelStatus:
        model = self._route(name)
        if self._residency is None:
            raise ConfigError(f"{model.id} stays loaded, because it was given by --model; stop the server to end it")
        self._residency.unload(model, cancelled)
        return self._status(model)

    def keep(self, name: str, seconds: float) -> None:
        model = self._find(name)
        if self._residency is None:
            return
        if model is None:
            self._keep_alive_of_next[name] = seconds
        else:
            model.keep_alive = seconds
            self._residency.wake(model)

    def allows(self, name: str) -> bool:
        return True

    def check_manager(self) -> None:
        pass

    def _status(self, model: ResidentModel) -> ModelStatus:
        return ModelStatus(model.id, model.state) if self._residency is None else self._residency.status(model)

    def _models(self) -> list[ResidentModel]:
        """The given models, and those that are in memory or on the way."""
        return self._given if self._residency is None else [*self._given, *self._residency.models]

    def _with_loaded(
        self, name: str | None, work: Callable[[LoadedModel | WorkerSupervisor], T], cancelled: Callable[[], bool]
    ) -> T:
        """Does work with a loaded model. A model that is unloaded or crashes before it takes the work gets it again."""
        model, crashes = self._route(name), 0
        while True:
            with self._loaded(model, cancelled) as loaded:
                try:
                    return work(loaded)
                except Unloaded:
                    if model.state == "closed":
                        raise
                except EngineCrashed:
                    crashes += 1
                    if crashes == MAX_CRASHES_PER_REQUEST:
                        raise

    def _loaded(
        self, model: ResidentModel, cancelled: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[LoadedModel | WorkerSupervisor]:
        if (loaded := model.loaded) is not None:
            return contextlib.nullcontext(loaded)
        if self._residency is None:
            raise model.not_ready()
        model.keep_alive = self._keep_alive_of_next.pop(model.id, model.keep_alive)
        return self._residency.loaded(model, cancelled)

    def _default(self) -> ResidentModel:
        if self._given:
            return self._given[0]
        return self._find_among(self._models(), BUILTIN) or self._open(BUILTIN)

    def _open(self, name: str) -> ResidentModel:
        assert self._open_model is not None
        return self._open_model(name)

    def _route(self, name: str | None) -> ResidentModel:
        """Returns the model that a request means, loaded or not."""
        model = self._find(name)
        if model is not None:
            return model
        if self._residency is not None:
            return self._open(name or BUILTIN)
        if self._given[0].loaded is None:
            raise self._given[0].not_ready()
        names = ", ".join(repr(model.id) for model in self._given)
        raise NotFound(
            f"the model {name!r:.100} is not loaded here; loaded: {names}. `galago serve --model MODEL` loads "
            "another one, --name names it, and --alias NAME gives it further names",
            "model",
        )

    def _find(self, name: str | None) -> ResidentModel | None:
        """Returns the model in memory that a name means, in any spelling."""
        if not name or _plain(name) in self._default_names:
            return self._default()
        model = self._find_among(self._models(), name)
        return self._default() if model is None and self._any_model else model

    def _find_among(self, models: Sequence[ResidentModel], name: str) -> ResidentModel | None:
        plain = _plain(name)
        for model in models:
            if model.id == name or plain in map(_plain, (model.id, *(model.own_names or ()))):
                return model
        untagged = name.removesuffix(_LATEST)
        return next((model for model in models if model.own_names is None and refers_to(untagged, model.files)), None)

    def _exists(self, name: str) -> bool:
        """Whether a name means a model that could be loaded, or one with a fault that its error names."""
        try:
            return bool(self._open(name))
        except NotFound:
            return installed.exists(name)
        except GalagoError:
            return True

    def _answers_unknown(self, name: str) -> bool:
        """Whether the default model answers to a name that no model has: only if there is no other model."""
        if self._residency is not None:
            return not self._exists(name) and next(installed.all_models(), None) is None
        return len(self._given) == 1 and self._given[0].loaded is not None and not installed.exists(name)


def _plain(name: str) -> str:
    """The name in the form that is compared: without case, and without the tag that Ollama's clients add."""
    return name.casefold().removesuffix(_LATEST)
