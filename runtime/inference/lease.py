"""Keeps something open while it is used. Knows nothing of what that is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...models.errors import EngineError


class Lease:
    """Counts those who use a model, until it is closed."""

    def __init__(self) -> None:
        self._left = threading.Condition()
        self._count = 0
        self.closed = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """One more, within. Raises `EngineError` where the model is closed."""
        with self._left:
            if self.closed:
                raise EngineError("the model is closed")
            self._count += 1
        try:
            yield
        finally:
            with self._left:
                self._count -= 1
                self._left.notify_all()

    def close(self) -> None:
        """Lets nobody in any more, and waits for those within."""
        with self._left:
            self.closed = True
            self._left.wait_for(lambda: self._count == 0)
