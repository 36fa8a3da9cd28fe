"""Carries messages between a worker and the process that started it: the connection, and the bytes on it.

Every array in the bytes begins with the number of its class. Decoding therefore makes values of the classes listed here
and nothing else, whoever wrote the bytes.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import deque
from dataclasses import fields
from pathlib import Path
from typing import Any

from msgspec import Raw, msgpack

from ...models import errors
from ...models.errors import GalagoError, InvalidRequest
from ...models.files import AdapterFile
from ..config import ModelConfig
from ..types import events, messages, model_info, placement, request, tasks
from . import messages as protocol
from .spawn import PipeEnd

COALESCE_SECONDS = 0.012
"""How long a worker holds back a message that is not urgent, to send it together with the next ones. Each write wakes
two processes and the client, on the cores that compute the next token: one write per token costs a small model a tenth
of its speed."""

_POLLS = 10


class Channel:
    """Any thread sends, one thread receives. `send` writes from the calling thread."""

    def __init__(self, connection: PipeEnd) -> None:
        self._connection = connection
        self._outbox: deque[bytes] = deque()
        self._writing = threading.Lock()

    def send(self, message: object) -> None:
        """Writes a message. Blocks while the other side does not read; does nothing if it is gone."""
        self._outbox.append(encode(message))
        with self._writing:
            self._flush()
        self._flush_unless_writing()

    def post(self, message: object) -> None:
        """Sends a small message without waiting: a thread that is writing now also writes this message."""
        self._outbox.append(encode(message))
        self._flush_unless_writing()

    def receive(self, timeout_seconds: float | None = None) -> list[Any]:
        """Returns the messages of one write.

        Raises `EOFError` or `OSError` if the other side is gone, `ValueError` if it sends no messages, and
        `TimeoutError` if nothing arrives in time.
        """
        # Several short polls, because time in which this process is stopped (Ctrl-Z) must hardly count.
        if timeout_seconds is not None and not any(
            self._connection.poll(timeout_seconds / _POLLS) for _ in range(_POLLS)
        ):
            raise TimeoutError
        return [decode(data) for data in msgpack.decode(self._connection.recv_bytes(), type=list[Raw])]

    def close(self) -> None:
        """Closes the connection once a write that is under way has ended. It does end if the other side is gone."""
        with self._writing:
            self._connection.close()

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
        if batch:
            self._write(batch)

    def _write(self, batch: list[bytes]) -> bool:
        """Writes messages together. Returns whether the other side is there."""
        try:
            self._connection.send_bytes(msgpack.encode([Raw(data) for data in batch]))
        except OSError:
            return False
        return True


class BufferedChannel(Channel):
    """The worker's end: `send` never blocks, so that the engine does not wait for a slow reader. A thread writes."""

    def __init__(self, connection: PipeEnd) -> None:
        super().__init__(connection)
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._urgent = threading.Event()
        self._writer = threading.Thread(target=self._run, name="galago-writer", daemon=True)
        self._writer.start()

    def send(self, message: object, urgent: bool = True) -> None:
        """Queues a message. One that is not `urgent` is held back for `COALESCE_SECONDS`."""
        self._queue.put(encode(message))
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
            if not self._write([data for data in batch if data is not None]):
                return
            del batch  # it may hold images, and the next message may be hours away


_CLASSES: tuple[type, ...] = (
    *(protocol.Load, protocol.Generate, protocol.RunTask, protocol.Cancel, protocol.Shutdown),
    *(protocol.Heartbeat, protocol.LoadProgress, protocol.ModelLoaded, protocol.LoadFailed),
    *(protocol.Accepted, protocol.Refused, protocol.EventMessage, protocol.TaskDone),
    *(events.Started, events.Delta, events.TokenLogprob, events.Finished, events.Usage, events.Timings, events.Failed),
    events.ParserSpec,
    *(events.ReasoningDelta, events.ToolCallStart, events.ToolCallArguments),
    *(messages.Message, messages.Text, messages.Image, messages.Audio, messages.Video, messages.Frame),
    messages.Unreadable,
    *(messages.Tool, messages.ToolCall),
    *(request.Request, request.Sampling, request.CompletionPrompt),
    *(tasks.Embed, tasks.Vectors, tasks.Rerank, tasks.Scores, tasks.Tokenize, tasks.Detokenize, tasks.TokenPieces),
    *(tasks.Estimate, tasks.RequestEstimate, tasks.PartTokens),
    *(model_info.ModelInfo, model_info.Stats, AdapterFile, ModelConfig, placement.Placement),
)
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _CLASSES}
_NUMBERS = {kind: number for number, kind in enumerate(_CLASSES)}
_ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GalagoError)
}
_TUPLE, _ERROR, _PATH, _JSON = range(-4, 0)


def encode(value: object) -> bytes:
    """Returns a value as bytes. Raises `InvalidRequest` if a JSON schema in it is not JSON."""
    return msgpack.encode(_pack(value))


def decode(data: bytes) -> Any:
    """Returns the value that was encoded. Raises `ValueError` if the bytes are not a message."""
    try:
        return _unpack(msgpack.decode(data))
    except (TypeError, LookupError, GalagoError) as error:
        raise ValueError(f"these bytes are not a message: {error}") from error


def _pack(value: Any) -> Any:
    kind = type(value)
    if kind in _NUMBERS:
        return [_NUMBERS[kind], *[_pack(getattr(value, name)) for name in _FIELDS[kind]]]
    if kind is str:  # a lone surrogate becomes a question mark, as the tokenizer would make it
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if kind is tuple:
        return [_TUPLE, *map(_pack, value)]
    if isinstance(value, GalagoError):
        return [_ERROR, kind.__name__, _pack(value.message), _pack(value.param)]
    if isinstance(value, Path):
        return [_PATH, os.fsencode(value)]
    if isinstance(value, dict | list):
        try:
            return [_JSON, json.dumps(value)]  # JSON's integers may be larger than msgpack's
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the JSON schema cannot be enforced: {error}", "json_schema") from error
    return value


def _unpack(packed: Any) -> Any:
    if not isinstance(packed, list):
        return packed
    number, *parts = packed
    if number == _TUPLE:
        return tuple(map(_unpack, parts))
    if number == _ERROR:
        name, message, param = parts
        return _ERRORS[name](message, param)
    if number == _PATH:
        return Path(os.fsdecode(parts[0]))
    if number == _JSON:
        return json.loads(parts[0])
    return _CLASSES[number](*map(_unpack, parts))
