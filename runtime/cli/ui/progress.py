"""Progress of long work.

`bar` shows a bar with the remaining time on a terminal, else one line per 10 percent. `percent` shows one line with the
percentage, and only on a terminal.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from . import report

ProgressUpdate: TypeAlias = Callable[[float, str], None]
"""Called with the amount done, of the total, and the name of the current item."""


@contextlib.contextmanager
def bar(label: str, total: float) -> Iterator[ProgressUpdate]:
    """Shows progress on standard error; yields the function to call for each update."""
    if sys.stderr.isatty():
        with _terminal_bar(label, total) as update:
            yield update
    else:
        yield _lines(label, total)


@contextlib.contextmanager
def _terminal_bar(label: str, total: float) -> Iterator[ProgressUpdate]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, item: progress.update(task, completed=done, description=report.printable(item)[-40:])


def _lines(label: str, total: float) -> ProgressUpdate:
    printed_tenths, printed_at = 0, time.monotonic()

    def update(done: float, item: str) -> None:
        nonlocal printed_tenths, printed_at
        tenths = int(10 * done / total) if total else 0
        printed_tenths = min(printed_tenths, tenths)  # the work may start over with another part
        if tenths > printed_tenths and time.monotonic() - printed_at > 1:
            printed_tenths, printed_at = tenths, time.monotonic()
            print(f"galago: {label}, {tenths * 10} %: {report.printable(item)}", file=sys.stderr, flush=True)

    return update


def percent(label: str) -> Callable[[float], None] | None:
    """A function that shows the fraction done on one terminal line, removed at the end; `None` without a terminal."""
    if not sys.stderr.isatty():
        return None

    began_at, shown = time.monotonic(), ""

    def update(fraction: float) -> None:
        nonlocal shown
        text = "" if fraction >= 1 else f"{label} {fraction:4.0%}"
        if text == shown or time.monotonic() - began_at < 0.3:  # short work needs no progress
            return
        shown = text
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return update


@contextlib.contextmanager
def stage(name: str) -> Iterator[Callable[[str, float], None]]:
    """Shows the progress of a named step; yields the function to call with the current item and the fraction done."""
    with bar(report.printable(name), 1.0) as update:
        yield lambda item, fraction: update(fraction, item)
