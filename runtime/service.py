"""The interface between those who have requests (servers, commands, scripts) and the models that answer them.

`pool/pool.py` implements it for the models that are loaded on this machine. Knows no wire format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ..models.registry.installed import InstalledModel
from .inference.stream import Stream
from .types.model_info import ModelInfo, Stats
from .types.request import Request
from .types.tasks import R, Task
from .types.warnings import Warnings


def never() -> bool:
    """The `cancelled` function of a caller that never cancels."""
    return False


class Service(Protocol):
    """Models, by their names. A request names one, or the default by `None`, an empty name or "default".

    Every method that takes a name raises `NotFound` if no loaded model has it, and `NotReady` while it is loading.
    """

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
        """Returns a loaded model's description and abilities."""

    def models(self) -> list[ModelInfo]:
        """Returns the loaded models, the default first. Raises `NotReady` while it is loading."""

    def aliases(self) -> list[ModelInfo]:
        """Returns the default model under each of its other names."""

    def is_loaded(self, name: str) -> bool:
        """Whether a name, in any spelling, means one of the pool's models."""

    def stats(self) -> list[tuple[str, Stats]]:
        """Returns each loaded model's id, with its state and counters."""

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = never) -> Stream:
        """Starts an answer. `cancelled` is called while the prompt is prepared; if it returns true, `Cancelled` is
        raised."""

    def run_task(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = never) -> R:
        """Returns a task's result: vectors, scores, tokens or an estimate."""

    def files(self, model: str | None) -> InstalledModel:
        """Returns the files of one of the pool's models, loaded or not."""

    def installed(self) -> list[ModelInfo]:
        """Returns the models on this disk that are not in the pool, as their headers describe them."""

    def installed_files(self) -> Iterator[InstalledModel]:
        """Yields the files of the models on this disk that are not in the pool."""

    def close(self) -> None:
        """Ends running requests with an error, and unloads the models."""
