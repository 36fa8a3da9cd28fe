"""What a worker and the process that started it say to each other, as values and as bytes. Knows no process.

In the bytes every array begins with a number that says what it is, so that reading them makes the values listed here
and nothing else, whoever wrote them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import msgpack

from ...models import errors
from ...models.errors import GalagoError, InvalidRequest
from ...models.files import AdapterFile
from ..config import ModelConfig
from ..types import messages, tasks
from ..types import request as values
from ..types.events import (
    Delta,
    Event,
    Failed,
    Finished,
    ParserSpec,
    ReasoningDelta,
    Started,
    Timings,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)
from ..types.messages import Audio, Image, Message, Text, Tool, ToolCall
from ..types.model_info import ModelInfo, Stats


@dataclass(frozen=True, slots=True)
class Load:
    """To the worker, first of all: the model to load."""

    name: str
    weights: Path
    projector: Path | None
    trusted: bool
    adapters: tuple[AdapterFile, ...]
    draft: Path | None
    config: ModelConfig


@dataclass(frozen=True, slots=True)
class Generate:
    """To the worker: answer a request, itself in bytes. All that is said about it later carries its number."""

    number: int
    request: bytes


@dataclass(frozen=True, slots=True)
class RunTask:
    """To the worker: answer a task, itself in bytes, by one `Done`."""

    number: int
    task: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: nobody waits for this answer any more. It says `Refused`, unless the answer has ended already."""

    number: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """To the worker: end what is running with an error, and exit."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """From the worker, once a second: it lives, and what it does."""

    stats: Stats


@dataclass(frozen=True, slots=True)
class LoadProgress:
    fraction: float


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    error: GalagoError


@dataclass(frozen=True, slots=True)
class Accepted:
    """From the worker: the request's prompt is ready, and events will follow."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """From the worker: there will be no more events of this request."""

    number: int
    error: GalagoError


@dataclass(frozen=True, slots=True)
class EventMessage:
    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class TaskDone:
    """From the worker: a task's answer."""

    number: int
    result: Any


ToWorker: TypeAlias = Load | Generate | RunTask | Cancel | Shutdown
FromWorker: TypeAlias = (
    Heartbeat | LoadProgress | ModelLoaded | LoadFailed | Accepted | Refused | EventMessage | TaskDone
)

_CLASSES: tuple[type, ...] = (
    *(
        Load,
        Generate,
        Cancel,
        Shutdown,
        Heartbeat,
        LoadProgress,
        ModelLoaded,
        LoadFailed,
        Accepted,
        Refused,
        EventMessage,
    ),
    *(Text, Image, Audio, messages.Video, messages.Frame),
    *(Message, values.Sampling, values.Request),
    *(Usage, Timings, Started, TokenLogprob, Delta, Finished, Failed),
    *(Tool, ToolCall, ReasoningDelta, ToolCallStart, ToolCallArguments),
    *(ModelInfo, Stats, AdapterFile, ModelConfig),
    *(
        RunTask,
        TaskDone,
        tasks.Embed,
        tasks.Vectors,
        tasks.Tokenize,
        tasks.Detokenize,
        tasks.TokenPieces,
        values.CompletionPrompt,
    ),
    *(tasks.Estimate, tasks.RequestEstimate, tasks.PartTokens, tasks.Rerank, tasks.Scores, ParserSpec),
)
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _CLASSES}
_NUMBERS = {kind: number for number, kind in enumerate(_CLASSES)}
_ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GalagoError)
}
_TUPLE, _ERROR, _PATH, _JSON = range(-4, 0)


def encode(value: object) -> bytes:
    """A value's bytes. Raises `InvalidRequest` where a JSON schema in it is no JSON."""
    return msgpack.encode(_packed(value))


def decode(data: bytes) -> Any:
    """The value that was encoded. Raises `ValueError` where there is none."""
    try:
        return _unpacked(msgpack.decode(data))
    except (TypeError, LookupError, GalagoError) as error:
        raise ValueError(f"these bytes are no message: {error}") from error


def _packed(value: Any) -> Any:
    kind = type(value)
    if kind in _NUMBERS:
        return [_NUMBERS[kind], *[_packed(getattr(value, name)) for name in _FIELDS[kind]]]
    if kind is str:  # a lone surrogate becomes a question mark, as where text is tokenized
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if kind is tuple:
        return [_TUPLE, *map(_packed, value)]
    if isinstance(value, GalagoError):
        return [_ERROR, kind.__name__, _packed(value.message), _packed(value.param)]
    if isinstance(value, Path):
        return [_PATH, os.fsencode(value)]
    if isinstance(value, dict | list):
        try:
            return [_JSON, json.dumps(value)]  # whole numbers may be larger than msgpack's
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the JSON schema cannot be enforced: {error}", "json_schema") from error
    return value


def _unpacked(packed: Any) -> Any:
    if not isinstance(packed, list):
        return packed
    number, *parts = packed
    if number == _TUPLE:
        return tuple(map(_unpacked, parts))
    if number == _ERROR:
        name, message, param = parts
        return _ERRORS[name](message, param)
    if number == _PATH:
        return Path(os.fsdecode(parts[0]))
    if number == _JSON:
        return json.loads(parts[0])
    return _CLASSES[number](*map(_unpacked, parts))
