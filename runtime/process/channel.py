"""Messages over a connection between two processes: any thread sends, one receives. Knows no message by name."""

from __future__ import annotations

import queue
import threading
from multiprocessing.connection import Connection
from typing import Any

from msgspec import Raw, msgpack

from .messages import decode, encode

_LOOKS = 10

COMPANY = 0.012
"""Seconds that a message may wait for others to go over with. Each write wakes two processes and the client, on the
cores that compute the next token: it costs a small model a tenth of its speed to do so for each."""


class Channel:
    """Sending never waits: a thread writes, and whatever waits for it goes over in one write."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._urgent = threading.Event()
        self._writer = threading.Thread(target=self._write, name="galago-writer", daemon=True)
        self._writer.start()

    def send(self, message: object, urgent: bool = True) -> None:
        """To a side that is gone it sends nothing; whoever receives finds that out. What is not `urgent` waits a
        moment for company."""
        self._waiting.put(encode(message))
        if urgent:
            self._urgent.set()

    def receive(self, patience: float | None = None) -> list[Any]:
        """What came in one write.

        Raises `EOFError` or `OSError` where the other side is gone, `ValueError` where it sends no messages, and
        `TimeoutError` where nothing came for `patience` seconds.
        """
        # Looking often loses little of the patience to a stop of this very process (Ctrl-Z), in which nothing is read.
        if patience is not None and not any(self._connection.poll(patience / _LOOKS) for _ in range(_LOOKS)):
            raise TimeoutError
        return [decode(data) for data in msgpack.decode(self._connection.recv_bytes(), type=list[Raw])]

    def close(self) -> None:
        """Returns when everything sent before is written, or the other side is gone."""
        self._waiting.put(None)
        self._urgent.set()
        self._writer.join()
        self._connection.close()

    def _write(self) -> None:
        last = False
        while not last:
            batch = [self._waiting.get()]
            self._urgent.wait(COMPANY)
            self._urgent.clear()
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            last = None in batch
            try:
                self._connection.send_bytes(msgpack.encode([Raw(data) for data in batch if data is not None]))
            except OSError:
                return
            del batch  # it may hold pictures, and the next one may be hours away
