"""`galago pull`: downloads a model from the Hub."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from .ui import report

if TYPE_CHECKING:
    from ...models.hub.client import HubFile
    from ...models.hub.download import DownloadProgress
    from ...models.hub.pull import PullPlan


def pull(
    model: Annotated[
        str,
        typer.Argument(
            help=("a name from galago search, or OWNER/REPO[:QUANT][@REVISION] on the Hub"), metavar="MODEL"
        ),
    ],
    as_json: report.Json = False,
) -> None:
    """Download a model, or continue a download. Files are checked against their published digests."""
    from ...models.hub import pull as puller
    from ...models.registry.name import parse_ref
    from ...quantize.evaluate import saved_results

    plan = puller.plan(parse_ref(model))
    output = sys.stderr if as_json else sys.stdout
    print(_description(plan), file=output, flush=True)
    with _progress(plan) as show:
        installed = puller.pull(plan, show)
    if as_json:
        report.emit_json(_as_json(plan, installed.paths))
    else:
        if not plan.is_checked:
            print("HF_HUB_OFFLINE is set, so the Hub was not asked whether there is a newer version")
        what = "already installed" if not plan.missing else "installed, and its files match their published digests"
        print(f"{plan.ref} is {what}. Try it with: galago run {shlex.quote(str(plan.ref))} 'Hello'")
        if plan.missing and (older := _older_bytes(plan)):
            print(f"Older commits of it take {units.format_bytes(older)}; delete them with: galago gc")
        if evaluated := saved_results.find_latest(installed.weights[0], installed.projector):
            print(saved_results.describe(evaluated))


def _older_bytes(plan: PullPlan) -> int:
    """Returns the bytes of older commits in the cache that the pulled one replaces."""
    from ...models.hub import cache, connection
    from ...models.registry.garbage import find_garbage

    garbage = find_garbage(cache.HubCache(connection.cache_root()), plan.repository.name)
    return sum(item.size for item in garbage if item.kind == "older commit")


def _description(plan: PullPlan) -> str:
    from ...models.hub import mirrors

    repository, entry = plan.repository, plan.source.entry
    mirror = f", from {repository.endpoint}" if mirrors.is_mirror(repository.endpoint) else ""
    lines = [f"{repository.name} at {repository.revision}, commit {repository.commit[:12]}{mirror}"]
    lines += [f"  {report.printable(file.name)}  {units.format_bytes(file.size)}" for file in plan.files]
    present = plan.size - sum(file.size for file in plan.missing)
    if present and plan.missing:
        lines.append(f"  {units.format_bytes(present)} of it are already downloaded")
    licence = repository.licence or (entry.licence if entry else "")
    conditions = f"; {entry.conditions}" if entry and entry.conditions else ""
    lines.append(f"  license: {report.printable(licence) or 'not stated'}{conditions}")
    return "\n".join(lines)


def _as_json(plan: PullPlan, paths: tuple[Any, ...]) -> dict[str, Any]:
    files = [
        {"name": file.name, "size": file.size, "digest": file.etag, "path": path, "downloaded": file in plan.missing}
        for file, path in zip(plan.files, paths, strict=True)
    ]
    repository = plan.repository
    return {
        "model": str(plan.ref),
        "repository": repository.name,
        "revision": repository.revision,
        "commit": repository.commit,
        "hub": repository.endpoint,
        "licence": repository.licence,
        "size": plan.size,
        "downloaded": sum(file.size for file in plan.missing),
        "checked": plan.is_checked,
        "files": files,
    }


@contextlib.contextmanager
def _progress(plan: PullPlan) -> Iterator[DownloadProgress]:
    """Shows a bar for each file on a terminal, otherwise a line for every 10 %, at most one a second."""
    if not plan.missing:
        yield lambda _file, _done: None
    elif sys.stderr.isatty():
        with _bars(plan) as show:
            yield show
    else:
        yield _lines(plan)


@contextlib.contextmanager
def _bars(plan: PullPlan) -> Iterator[DownloadProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {f: progress.add_task(report.printable(f.name)[-40:], total=f.size) for f in plan.missing}
        started: set[HubFile] = set()

        def show(file: HubFile, done: int) -> None:
            if file in tasks:
                if file not in started:  # so that the speed leaves out what an earlier pull downloaded
                    started.add(file)
                    progress.reset(tasks[file], completed=done)
                progress.update(tasks[file], completed=done)

        yield show


def _lines(plan: PullPlan) -> DownloadProgress:
    total, lock = sum(file.size for file in plan.missing) or 1, threading.Lock()
    done: dict[HubFile, int] = {file: 0 for file in plan.missing}
    printed_tenths, printed_at = [0], [time.monotonic()]

    def show(file: HubFile, count: int) -> None:
        with lock:
            if file in done:
                done[file] = count
                tenths = 10 * sum(done.values()) // total
                if tenths > printed_tenths[0] and (tenths == 10 or time.monotonic() - printed_at[0] > 1):
                    printed_tenths[0], printed_at[0] = tenths, time.monotonic()
                    print(f"galago: {tenths * 10} % of {units.format_bytes(total)}", file=sys.stderr, flush=True)

    return show
