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
from .. import films, tasks, values
from ..config import ModelConfig
from ..values import Event, ModelInfo, Stats


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
class Do:
    """To the worker: answer a task, itself in bytes, by one `Done`."""

    number: int
    task: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: nobody waits for this answer any more. It says `Refused`, unless the answer has ended already."""

    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To the worker: end what is running with an error, and exit."""


@dataclass(frozen=True, slots=True)
class Beat:
    """From the worker, once a second: it lives, and what it does."""

    stats: Stats


@dataclass(frozen=True, slots=True)
class Progress:
    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class NotLoaded:
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
class Happened:
    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class Done:
    """From the worker: a task's answer."""

    number: int
    result: Any


ToWorker: TypeAlias = Load | Generate | Do | Cancel | Stop
FromWorker: TypeAlias = Beat | Progress | Loaded | NotLoaded | Accepted | Refused | Happened | Done

_CLASSES: tuple[type, ...] = (
    *(Load, Generate, Cancel, Stop, Beat, Progress, Loaded, NotLoaded, Accepted, Refused, Happened),
    *(values.Text, values.Image, values.Audio, films.Video, films.Frame),
    *(values.Message, values.Sampling, values.Request),
    *(values.Usage, values.Timings, values.Started, values.TokenLogprob, values.Delta, values.Finished, values.Failed),
    *(values.Tool, values.ToolCall, values.Thought, values.CallBegun, values.CallArguments),
    *(values.ModelInfo, values.Stats, AdapterFile, ModelConfig),
    *(Do, Done, tasks.Embed, tasks.Vectors, tasks.Tokenize, tasks.Detokenize, tasks.Tokens, values.Raw),
    *(tasks.Plan, tasks.Planned, tasks.PartTokens, tasks.Rerank, tasks.Scores),
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
