"""Keeps texts of requests out of the log: an unexpected exception is logged by its type and place only."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator


class WithoutMessages(logging.Filter):
    """Replaces the traceback of a record by one without messages of exceptions, which may quote a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = "".join(_lines(record.exc_info[1])).rstrip()
            record.exc_info = None
        return True


def _lines(error: BaseException) -> Iterator[str]:
    """The calls that led to an exception and to those before it, each with the exception's type."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _lines(before)
        yield "\nThen:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__name__}\n"
