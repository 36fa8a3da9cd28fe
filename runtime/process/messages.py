"""The messages between a worker and the process that started it. Only values; `channel` turns them into bytes.

The receiver gets values of exactly these types, whatever the other side wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ...models.errors import GalagoError
from ...models.files import AdapterFile, ModelFiles
from ..config import ModelConfig
from ..types.events import Delta, Failed, Finished, Started
from ..types.model_info import ModelInfo, Stats
from ..types.placement import LoadPlan, Placement
from ..types.request import Request
from ..types.tasks import Detokenize, Embed, Estimate, RequestEstimate, Rerank, Scores, Tokenize, TokenPieces, Vectors

Content: TypeAlias = Request | Embed | Rerank | Tokenize | Detokenize | Estimate
"""What `Generate` and `RunTask` carry, encoded."""


class UnexpectedMessage(ValueError):
    """The other side sent what it may not send. The text is an object of "it sent"."""


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

    @classmethod
    def of(cls, files: ModelFiles, plan: LoadPlan) -> Load:
        draft = files.draft.weights if files.draft else None
        places = (files.weights, files.projector, files.trusted, files.adapters, draft)
        return cls(files.id, *places, plan.config, plan.placement)


@dataclass(frozen=True, slots=True)
class Generate:
    """To the worker: answer the request encoded in `data`. Later messages refer to it by `number`."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RunTask:
    """To the worker: run the task encoded in `data`. One `TaskDone` or `Refused` answers it."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: the caller is gone. The worker answers `Refused` unless the request has ended already."""

    number: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """To the worker: end running requests with an error, and exit."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """From the worker, once a second: it is alive, with its current state.

    `cpu_seconds` is the CPU time that its process has used so far.
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
class AboutRequest:
    """From the worker: about the request or task with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Accepted(AboutRequest):
    """The request's prompt is ready, and events will follow."""


@dataclass(frozen=True, slots=True)
class Refused(AboutRequest):
    """The request or task has failed, and no further message about it follows."""

    error: GalagoError


@dataclass(frozen=True, slots=True)
class EventMessage(AboutRequest):
    """The next event of an answer, not parsed yet. The last is `Finished` or `Failed`."""

    event: Started | Delta | Finished | Failed


@dataclass(frozen=True, slots=True)
class TaskDone(AboutRequest):
    """The result of a task, and the last message about it."""

    result: Vectors | Scores | TokenPieces | RequestEstimate


ToWorker: TypeAlias = Load | Generate | RunTask | Cancel | Shutdown
FromWorker: TypeAlias = (
    Heartbeat | LoadProgress | ModelLoaded | LoadFailed | Accepted | Refused | EventMessage | TaskDone
)


def unexpected(message: object) -> UnexpectedMessage:
    """Returns the error for a message, or an event, that may not come now."""
    return UnexpectedMessage(f"{type(message).__name__} at the wrong time")
