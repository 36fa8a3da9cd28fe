"""Carries messages between a worker and the process that started it: the connection, and the bytes on it.

A worker may be taken over by a hostile model, so its end is not trusted. The length of each write is checked before
memory is allocated, and msgspec decodes only what the message's type allows. Anything else is an `UnexpectedMessage`.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from math import inf
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from msgspec import Meta, MsgspecError, Struct, defstruct, msgpack
from msgspec.structs import astuple

from ...models import errors
from ...models.errors import GalagoError, InvalidRequest, RequestTooLarge
from ..types.events import Timings
from ..types.limits import limit, limit_error
from ..types.model_info import Stats
from .messages import Content, FromWorker, Generate, Heartbeat, LoadProgress, RunTask, ToWorker, UnexpectedMessage
from .spawn import PipeEnd

COALESCE_SECONDS = 0.025
"""How long a worker holds back a message that is not urgent, to send it together with the next ones. Each write wakes
two processes and the client, on the cores that compute the next token: one write per token costs a small model a tenth
of its speed. Text that arrives 40 times a second looks smooth."""

MAX_REQUEST_BYTES = (1 << 31) - 64
"""The largest message to a worker: the length of a write is a signed number of four bytes."""

_MAX_MESSAGES = 4096
"""Messages in one write."""

MessagePieces: TypeAlias = tuple[bytes, ...]  # the bytes of one message

_HEADER_BYTES = 4
"""Size of the length before each write, as `multiprocessing.connection.Connection` writes it."""

_LIST_BYTES = 5
"""Size of the header of the list of messages in a write."""

_READ_BYTES = 1 << 16
_POLLS = 10


class Channel:
    """The parent's end. Any thread may send, and writes the message itself; one thread receives."""

    _receives: Any = FromWorker

    def __init__(self, connection: PipeEnd) -> None:
        self._connection = connection
        self._decoder = _decoder(list[self._receives])  # type: ignore[name-defined]
        self._max_received_bytes = limit("result_bytes")
        self._received = bytearray()
        self._outbox: deque[MessagePieces] = deque()
        self._writing = threading.Lock()

    def send(self, message: ToWorker) -> None:
        """Writes a message. Blocks while the other side does not read; does nothing if it is gone."""
        pieces = _pieces(message)
        if _size(pieces) > MAX_REQUEST_BYTES - _LIST_BYTES:
            raise RequestTooLarge("the request takes more than 2 GiB; send less")
        self._outbox.append(pieces)
        with self._writing:
            self._flush()
        self._flush_unless_writing()

    def post(self, message: ToWorker) -> None:
        """Sends a small message without waiting: a thread that is already writing also writes this message."""
        self._outbox.append((encode(message),))
        self._flush_unless_writing()

    def receive(self, timeout_seconds: float | None = None) -> list[Any]:
        """Returns the messages of one write.

        Raises `EOFError` or `OSError` if the other side is gone, `UnexpectedMessage` if it sends anything but messages
        that it may send, and `TimeoutError` if nothing arrives in time, or a write does not end in time.
        """
        messages: list[Any] = _decoded(self._decoder, self._receive_bytes(timeout_seconds))
        return messages

    def close(self) -> None:
        """Closes the connection once a write in progress has ended, which it also does if the other side is gone."""
        with self._writing:
            self._connection.close()

    def _receive_bytes(self, timeout_seconds: float | None) -> bytes | bytearray:
        """Reads one write. Memory use grows with the bytes that arrive, not with the announced length."""
        if sys.platform == "win32":  # the pipe keeps each write together
            self._wait(timeout_seconds, inf)
            return self._connection.recv_bytes(self._max_received_bytes)
        received = self._received
        deadline = inf
        while (end := self._end_of_write()) is None:
            if received and deadline == inf and timeout_seconds is not None:
                deadline = time.monotonic() + timeout_seconds
            self._wait(timeout_seconds, deadline)
            chunk = os.read(self._connection.fileno(), _READ_BYTES)
            if not chunk:
                raise EOFError
            received += chunk
        data = received[_HEADER_BYTES:end]
        del received[:end]
        return data

    def _end_of_write(self) -> int | None:
        """Returns where the first write in the received bytes ends, `None` if it is incomplete."""
        if len(self._received) < _HEADER_BYTES:
            return None
        length = int.from_bytes(self._received[:_HEADER_BYTES], "big", signed=True)
        if not 0 < length <= self._max_received_bytes:
            announced = f"{length} bytes" if length >= 0 else "more than 2 GiB"
            raise UnexpectedMessage(f"a message of {announced}; {self._max_received_bytes} are allowed")
        end = _HEADER_BYTES + length
        return end if len(self._received) >= end else None

    def _wait(self, timeout_seconds: float | None, deadline: float) -> None:
        """Waits for bytes. Polls several times, so that time while this process is stopped (Ctrl-Z) hardly counts."""
        if timeout_seconds is None:
            return
        late = time.monotonic() > deadline
        polls = (self._connection.poll(0 if late else timeout_seconds / _POLLS) for _ in range(_POLLS))
        if not any(polls):
            raise TimeoutError

    def _flush_unless_writing(self) -> None:
        while self._outbox and self._writing.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._writing.release()

    def _flush(self) -> None:
        batch = []
        while self._outbox:
            batch.append(self._outbox.popleft())
        self._write(batch, MAX_REQUEST_BYTES)

    def _write(self, messages: Iterable[MessagePieces], max_bytes: int) -> bool:
        """Writes messages, together up to the size that the other side accepts. Returns whether it is still there."""
        try:
            for batch in _batches(messages, max_bytes):
                head = b"\xdd" + len(batch).to_bytes(_LIST_BYTES - 1, "big")
                self._write_pieces((head, *(piece for pieces in batch for piece in pieces)))
        except OSError:
            return False
        return True

    def _write_pieces(self, pieces: MessagePieces) -> None:
        """Writes bytes as `send_bytes` does. Large ones are not copied."""
        size_bytes = _size(pieces)
        if sys.platform == "win32" or size_bytes <= _READ_BYTES:
            self._connection.send_bytes(b"".join(pieces))
            return
        for piece in (size_bytes.to_bytes(_HEADER_BYTES, "big"), *pieces):
            left = memoryview(piece)
            while left:
                left = left[os.write(self._connection.fileno(), left) :]


class BufferedChannel(Channel):
    """The worker's end: `send` never blocks, so that the engine does not wait for a slow reader. A thread writes."""

    _receives = ToWorker

    def __init__(self, connection: PipeEnd) -> None:
        super().__init__(connection)
        self._max_sent_bytes = self._max_received_bytes
        self._max_received_bytes = MAX_REQUEST_BYTES
        _decoder(Content)  # the first request must not wait for it
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._urgent = threading.Event()
        self._writer = threading.Thread(target=self._run, name="galago-writer", daemon=True)
        self._writer.start()

    def encode(self, message: FromWorker) -> bytes:
        """Returns a message's bytes for `send_encoded`. Raises an error if they are more than the parent accepts."""
        data = encode(message)
        if len(data) > self._max_sent_bytes - _LIST_BYTES:
            raise limit_error("result_bytes", f"the result of this request takes {len(data)} bytes")
        return data

    def send(self, message: Any, urgent: bool = True) -> None:
        self.send_encoded(self.encode(message), urgent)

    def send_encoded(self, data: bytes, urgent: bool = True) -> None:
        """Queues an encoded message. One that is not `urgent` is held back for `COALESCE_SECONDS`."""
        self._queue.put(data)
        if urgent:
            self._urgent.set()

    def close(self) -> None:
        """Returns when everything queued is written, or the other side is gone."""
        self._queue.put(None)
        self._urgent.set()
        self._writer.join()
        super().close()

    def _run(self) -> None:
        last = False
        while not last:
            batch = [self._queue.get()]
            self._urgent.wait(COALESCE_SECONDS)
            self._urgent.clear()
            while not self._queue.empty():
                batch.append(self._queue.get())
            last = None in batch
            if not self._write(((data,) for data in batch if data is not None), self._max_sent_bytes):
                return
            del batch  # it may hold images, and the next message may be hours away


def _batches(messages: Iterable[MessagePieces], max_bytes: int) -> Iterator[list[MessagePieces]]:
    batch: list[MessagePieces] = []
    room = max_bytes - _LIST_BYTES
    for pieces in messages:
        size_bytes = _size(pieces)
        if batch and (size_bytes > room or len(batch) == _MAX_MESSAGES):
            yield batch
            batch, room = [], max_bytes - _LIST_BYTES
        batch.append(pieces)
        room -= size_bytes
    if batch:
        yield batch


def _size(pieces: MessagePieces) -> int:
    return sum(map(len, pieces))


def _pieces(message: ToWorker) -> MessagePieces:
    """A message's bytes. The encoded request or task in it, which may be large, is a separate piece."""
    if not isinstance(message, Generate | RunTask):
        return (encode(message),)
    before = encode(replace(message, data=b"")).removesuffix(b"\xc4\x00")
    return before + b"\xc6" + len(message.data).to_bytes(4, "big"), message.data


# A message is encoded as an array of its class's name and its fields, and so are the values in it.


class _PathText(Struct, array_like=True, tag="Path", forbid_unknown_fields=True):
    path: bytes

    def value(self) -> Path:
        return Path(os.fsdecode(self.path))


class _JsonText(Struct, array_like=True, tag="JSON", forbid_unknown_fields=True):
    """A JSON schema: its integers may be larger than msgpack's."""

    text: str

    def value(self) -> Any:
        return json.loads(self.text)


class _ErrorText(Struct, array_like=True, tag="Error", forbid_unknown_fields=True):
    name: str
    message: str
    param: str | None

    def value(self) -> GalagoError:
        return _ERRORS[self.name](self.message, self.param)


_ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GalagoError)
}
_SUBSTITUTES: dict[Any, type[Struct]] = {Path: _PathText, GalagoError: _ErrorText}
_FINITE = Annotated[float, Meta(ge=-1e300, le=1e300)]
_WITH_FINITE_NUMBERS = (Heartbeat, LoadProgress, Stats, Timings)
"""Classes whose numbers the parent computes with. A NaN in them would disable the detection of hanging workers."""

_making_decoder = threading.Lock()
"""msgspec 0.22 crashes if a thread decodes with a decoder that another thread is still making."""

_makers: dict[type, Callable[[Any], Any]] = {kind: kind.value for kind in (_PathText, _JsonText, _ErrorText)}


def encode(value: object) -> bytes:
    """Returns a value as bytes. Raises `InvalidRequest` if a JSON schema in it is not JSON."""
    return msgpack.encode(_pack(value))


def decode(data: bytes, kind: Any) -> Any:
    """Returns the value that was encoded, which must be of this type. Raises `UnexpectedMessage` for other bytes."""
    return _decoded(_decoder(kind), data)


def _decoded(decoder: msgpack.Decoder[Any], data: bytes | bytearray) -> Any:
    try:
        return _value(decoder.decode(data))
    except (MsgspecError, ValueError, TypeError, LookupError, RecursionError, GalagoError) as error:
        raise UnexpectedMessage(f"bytes that are not a message of its kind ({error})") from error


@functools.cache
def _decoder(kind: Any) -> msgpack.Decoder[Any]:
    with _making_decoder:
        return msgpack.Decoder(_wire_type(kind))


def _wire_type(kind: Any, number: Any = float) -> Any:
    """The type that msgspec decodes for a type in a message; `number` stands for `float`."""
    parts = tuple(part if part is Ellipsis else _wire_type(part, number) for part in get_args(kind))
    origin = get_origin(kind)
    if kind is float:
        return number
    if origin is dict:
        return _JsonText
    if origin is list:
        return Annotated[list[parts], Meta(min_length=1, max_length=_MAX_MESSAGES)]  # type: ignore[valid-type]
    if origin is tuple:
        return tuple[parts]  # type: ignore[valid-type]
    if origin in (Union, UnionType):
        return Union[parts]  # noqa: UP007
    if isinstance(kind, type) and is_dataclass(kind):
        return _struct(kind)
    return _SUBSTITUTES.get(kind, kind)


@functools.cache
def _struct(kind: Any) -> type[Struct]:
    """The struct that msgspec decodes in place of a dataclass."""
    number = _FINITE if kind in _WITH_FINITE_NUMBERS else float
    hints = get_type_hints(kind)
    types = {field.name: _wire_type(hints[field.name], number) for field in fields(kind)}
    struct = defstruct(
        kind.__name__, types.items(), array_like=True, tag=kind.__name__, forbid_unknown_fields=True, gc=False
    )
    if any(map(_has_struct, types.values())):
        _makers[struct] = lambda decoded: kind(*map(_value, astuple(decoded)))
    else:
        _makers[struct] = lambda decoded: kind(*astuple(decoded))
    return struct


def _has_struct(wire_type: Any) -> bool:
    return (isinstance(wire_type, type) and issubclass(wire_type, Struct)) or any(map(_has_struct, get_args(wire_type)))


def _value(decoded: Any) -> Any:
    """The value that a decoded struct stands for, also within lists and tuples."""
    kind = type(decoded)
    if kind is tuple or kind is list:
        return kind(map(_value, decoded))
    make = _makers.get(kind)
    return decoded if make is None else make(decoded)


def _pack(value: Any) -> Any:
    kind: Any = type(value)
    packer = _packer(kind)
    return value if packer is None else packer(value)


@functools.cache
def _packer(kind: type) -> Callable[[Any], Any] | None:
    """Returns the function that turns values of a class into arrays, `None` if msgspec encodes them directly."""
    if is_dataclass(kind):
        names = tuple(field.name for field in fields(kind))
        return lambda value: [kind.__name__, *[_pack(getattr(value, name)) for name in names]]
    if kind is str:
        return _valid_text
    if kind is tuple:
        return lambda value: [*map(_pack, value)]
    if issubclass(kind, GalagoError):
        return lambda value: ["Error", kind.__name__, _pack(value.message), _pack(value.param)]
    if issubclass(kind, Path):
        return lambda value: ["Path", os.fsencode(value)]
    return _json if kind in (dict, list) else None


def _valid_text(text: str) -> str:
    """The text with a question mark for each lone surrogate, as the tokenizer would replace it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _json(value: Any) -> list[str]:
    try:
        return ["JSON", json.dumps(value)]
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema cannot be enforced: {error}", "json_schema") from error
