"""What the server does at a signal.

SIGTERM ends it, and so does the loss of its terminal. SIGHUP from anyone else makes it read its keys again and open
its logs again, so that a service never ends by surprise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ..log import log

_TERMINAL = "/dev/tty"
"""The terminal that controls this process. It cannot be opened if there is none, or if it is gone."""

_reloads: list[Callable[[], None]] = []

_running = threading.Event()
"""Whether the server handles SIGTERM, or has handled it."""


class Terminated(BaseException):
    """SIGTERM has ended the server."""


def server_runs() -> None:
    """Says that the server itself handles SIGTERM from now on, and raises it again at its end."""
    _running.set()


def on_hangup(reload: Callable[[], None]) -> None:
    """Sets a further function to call at SIGHUP, on a thread of its own. Its errors are logged."""
    _reloads.append(reload)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles SIGTERM and SIGHUP within the block, on the main thread.

    After SIGTERM the block is left, and then the process ends by that signal, as its parent expects.
    """
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _terminate)}
    with contextlib.suppress(AttributeError):  # Windows has no SIGHUP
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as with nohup
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, _Hangup().handle)
    try:
        yield
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _reloads.clear()
        _running.clear()


class _Hangup:
    """Calls the functions of `on_hangup`, or ends the server if the terminal in which it was started is gone."""

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._had_terminal and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            threading.Thread(target=_reload, name="galago-reload", daemon=True).start()


def _reload() -> None:
    for reload in list(_reloads):
        try:
            reload()
        except Exception as error:
            log(f"SIGHUP: {error}; what was read before still applies")
    log("SIGHUP: the file of keys and the logs were opened again; other options apply after a restart")


def _terminate(_number: int, _frame: FrameType | None) -> None:
    if not _running.is_set():  # nothing is to be put in order, and an exception would be lost in a destructor
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    raise Terminated


def _has_terminal() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
