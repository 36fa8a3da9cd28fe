"""The interface between those who have requests (servers, commands, scripts) and the models that answer them.

`pool/pool.py` implements it for the models that are loaded on this machine. Knows no wire format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ..models.registry.installed import InstalledModel
from .inference.stream import Stream
from .types.model_info import ModelInfo, ModelStatus, Stats
from .types.request import Request
from .types.tasks import R, Task
from .types.warnings import Warnings


def never() -> bool:
    """The `cancelled` function of a caller that never cancels."""
    return False


class Service(Protocol):
    """Models, by their names. A request names one, or the default by `None`, an empty name or "default".

    A service has fixed models, or loads a model when a request names it. Every method that takes a name raises
    `NotFound` if no model has it, and `NotReady` while a fixed model is loading.
    """

    @property
    def loads_on_demand(self) -> bool:
        """Whether models are loaded when requests name them, and unloaded when they are idle."""

    @property
    def ready(self) -> bool:
        """Whether the default model can answer now."""

    def load(self) -> None:
        """Waits until the models are loaded. Raises the error that prevented it."""

    def model_for(self, name: str | None, warnings: Warnings) -> str:
        """Returns the id of the model that answers requests for a name, with a warning if the name means no model.

        Raises `NotFound` if none answers them, such as for an installed model that is not loaded, or in strict mode.
        """

    def model(self, name: str | None) -> ModelInfo:
        """Returns a model's description and abilities, from its files if it is not loaded."""

    def models(self) -> list[ModelInfo]:
        """Returns the loaded models, the default first. Raises `NotReady` while it is loading."""

    def aliases(self) -> list[ModelInfo]:
        """Returns the default model under each of its other names."""

    def is_loaded(self, name: str) -> bool:
        """Whether a name, in any spelling, means one of the pool's models."""

    def stats(self) -> list[tuple[str, Stats]]:
        """Returns each loaded model's id, with its state and counters."""

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = never) -> Stream:
        """Starts an answer, once the model is loaded. `cancelled` is called while the model is loaded and the prompt
        prepared; if it returns true, `Cancelled` is raised."""

    def run_task(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = never) -> R:
        """Returns a task's result: vectors, scores, tokens or an estimate."""

    def files(self, model: str | None) -> InstalledModel:
        """Returns the files of one of the pool's models, loaded or not."""

    def installed(self) -> list[ModelInfo]:
        """Returns the models on this disk and the presets that are not in the pool, as their headers describe them."""

    def installed_files(self) -> Iterator[InstalledModel]:
        """Yields the files of the models on this disk that are not in the pool."""

    def status(self) -> list[ModelStatus]:
        """Returns what the models do that are in memory or on the way."""

    def progress(self, name: str) -> str | None:
        """Returns what a request for a model waits for, as a sentence, or `None` if it need not wait."""

    def load_model(self, name: str, cancelled: Callable[[], bool] = never) -> ModelStatus:
        """Loads a model, and waits for that. Raises the error that prevents it."""

    def unload_model(self, name: str, cancelled: Callable[[], bool] = never) -> ModelStatus:
        """Unloads a model once its running requests have ended, and waits for that.

        Raises `ConfigError` for a fixed model.
        """

    def keep(self, name: str, seconds: float) -> None:
        """Keeps a loaded model for so long after its last request; `math.inf` keeps it. Fixed models always stay."""

    def allows(self, name: str) -> bool:
        """Whether the current request may use a model."""

    def check_manager(self) -> None:
        """Raises `Forbidden` if the current request may not create, download or delete models."""

    def close(self) -> None:
        """Ends running requests with an error, and unloads the models."""
