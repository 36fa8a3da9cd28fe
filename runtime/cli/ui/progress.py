"""How long work shows that it goes on: a bar with the time that is left on a terminal, else a line for each tenth."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from . import report

Show = Callable[[float, str], None]
"""Called with how much of the total is done, and what is being worked on."""


@contextlib.contextmanager
def bar(label: str, total: float) -> Iterator[Show]:
    if sys.stderr.isatty():
        with _drawn(label, total) as show:
            yield show
    else:
        yield _written(label, total)


@contextlib.contextmanager
def _drawn(label: str, total: float) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, completed=done, description=report.printable(what)[-40:])


def _written(label: str, total: float) -> Show:
    told, spoken = 0, time.monotonic()

    def show(done: float, what: str) -> None:
        nonlocal told, spoken
        tenths = int(10 * done / total) if total else 0
        told = min(told, tenths)  # it may begin anew, with another part of the work
        if tenths > told and time.monotonic() - spoken > 1:
            told, spoken = tenths, time.monotonic()
            print(f"galago: {label}, {tenths * 10} %: {report.printable(what)}", file=sys.stderr, flush=True)

    return show
