"""Waits for events, so that no test depends on how fast the machine is."""

from __future__ import annotations

import array
import fcntl
import termios
import time
from collections.abc import Callable
from typing import IO


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until a condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        time.sleep(0.01)


def wait_until_read(pipe: IO[str]) -> None:
    """Waits until the process at the other end of a pipe has read everything."""

    def is_empty() -> bool:
        unread = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, unread)
        return unread[0] == 0

    wait_until(is_empty)
