"""What a worker and the process that started it say to each other. Only values; `channel` turns them into bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ...models.errors import GalagoError
from ...models.files import AdapterFile
from ..config import ModelConfig
from ..types.events import Event
from ..types.model_info import ModelInfo, Stats
from ..types.placement import Placement


@dataclass(frozen=True, slots=True)
class Load:
    """To the worker, as the first message: the model to load."""

    name: str
    weights: Path
    projector: Path | None
    trusted: bool
    adapters: tuple[AdapterFile, ...]
    draft: Path | None
    config: ModelConfig
    placement: Placement


@dataclass(frozen=True, slots=True)
class Generate:
    """To the worker: answer a request, which is encoded already. Later messages refer to it by `number`."""

    number: int
    request: bytes


@dataclass(frozen=True, slots=True)
class RunTask:
    """To the worker: run a task, which is encoded already. One `TaskDone` or `Refused` answers it."""

    number: int
    task: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: the caller is gone. The worker answers `Refused` unless the request has ended already."""

    number: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """To the worker: end running requests with an error, and exit."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """From the worker, once a second: it is alive, and this is what it does.

    `cpu_seconds` is the processor time that its process has used so far.
    """

    stats: Stats
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """From the worker: the fraction of the weights that is loaded."""

    fraction: float


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """From the worker: the model is ready for requests."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """From the worker: the model cannot be loaded."""

    error: GalagoError


@dataclass(frozen=True, slots=True)
class Accepted:
    """From the worker: the request's prompt is ready, and events will follow."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """From the worker: the request or task has failed, and nothing more will be said about it."""

    number: int
    error: GalagoError


@dataclass(frozen=True, slots=True)
class EventMessage:
    """From the worker: the next event of an answer."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class TaskDone:
    """From the worker: a task's result."""

    number: int
    result: Any


ToWorker: TypeAlias = Load | Generate | RunTask | Cancel | Shutdown
FromWorker: TypeAlias = (
    Heartbeat | LoadProgress | ModelLoaded | LoadFailed | Accepted | Refused | EventMessage | TaskDone
)
