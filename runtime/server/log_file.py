"""Copies what the server and its workers write to standard error to a file of limited size."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import cast

from ...models.errors import ConfigError, GalagoError
from . import signals

MAX_BYTES = 5 << 20
BACKUPS = 3
"""Older files that are kept, with the endings .1 to .3."""

_STANDARD_ERROR = 2
_CLOSE_SECONDS = 2.0


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner may read. Raises `ConfigError` if it cannot be written."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the log file {path} cannot be written: {error.strerror}", "log-file") from error
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def write(self, line: str) -> None:
        self.handle(logging.LogRecord("galago", logging.INFO, "", 0, line, None, None))

    def reopen(self) -> None:
        """Opens the file again, because another program may have moved it away."""
        with self.lock or contextlib.nullcontext():
            stream, self.stream = self.stream, self._open()
            if stream is not None:
                stream.close()

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not end the server, and the error must not be logged to the same file."""

    def _open(self) -> TextIOWrapper:
        def private(name: str, flags: int) -> int:
            return os.open(name, flags, 0o600)

        return cast(TextIOWrapper, open(self.baseFilename, self.mode, encoding=self.encoding, opener=private))


@contextlib.contextmanager
def copied_to(path: Path | None) -> Iterator[None]:
    """Copies standard error to a file within the block, also that of the processes that are started in it.

    Standard error goes through a pipe, and a thread writes each line to both. Raises `ConfigError`.
    """
    if path is None:
        yield
        return
    file = LogFile(path.expanduser())
    sys.stderr.flush()
    original = os.dup(_STANDARD_ERROR)
    reader, writer = os.pipe()
    os.dup2(writer, _STANDARD_ERROR)
    os.close(writer)
    thread = threading.Thread(target=_copy, args=(reader, original, file), name="galago-log", daemon=True)
    thread.start()
    signals.on_hangup(file.reopen)
    try:
        yield
    except GalagoError as error:
        file.write(f"galago: {error}")  # the command writes it to standard error after the block
        raise
    finally:
        sys.stderr.flush()
        os.dup2(original, _STANDARD_ERROR)
        thread.join(_CLOSE_SECONDS)  # longer only if a process that was started still runs


def _copy(reader: int, original: int, file: LogFile) -> None:
    with open(reader, "rb") as lines:
        for line in lines:
            with contextlib.suppress(OSError):
                os.write(original, line)
            file.write(line.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2])
