"""`galago verify`: checks the files of models against their published digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .ui import progress, report

if TYPE_CHECKING:
    from ...models.registry.installed import InstalledModel


def verify(
    model: Annotated[str | None, typer.Argument(help="an installed model  [default: all]", metavar="MODEL")] = None,
    as_json: report.Json = False,
) -> int:
    """Check models against their published digests, imported ones for changes. Exit 1 if any is damaged."""
    from ...models.registry import installed
    from ...models.registry.name import parse_ref

    models = [installed.find_unchecked(parse_ref(model))] if model is not None else [*installed.all_models()]
    rows = [(str(each.ref), check) for each in models for check in installed.verify(each, _progress(each))]
    if as_json:
        report.emit_json(
            [{"model": m, "path": c.path, "problem": c.problem or None, "published": c.published} for m, c in rows]
        )
    else:
        for name, check in rows:
            intact = "matches its published digest" if check.published else "unchanged since its import"
            print(f"{name}: {report.printable(check.path.name)}: {report.printable(check.problem) or intact}")
        if not rows:
            print("no models are installed")
    damaged = {name for name, check in rows if check.problem}
    if damaged and not as_json:
        pulled = [str(each.ref) for each in models if each.repository and str(each.ref) in damaged]
        if pulled:
            print(f"to repair them, run: {'; '.join(f'galago rm {m} && galago pull {m}' for m in sorted(pulled))}")
        for name in sorted(damaged.difference(pulled)):
            print(f"{name} is imported: repair or restore its files and import them again, or run: galago rm {name}")
    return 1 if damaged else 0


def _progress(model: InstalledModel) -> Callable[[int], None]:
    bar = progress.percent(f"reading {model.ref}")
    largest = max((path.stat().st_size for path in model.paths if path.is_file()), default=0) or 1
    return (lambda done: bar(done / largest)) if bar else (lambda _: None)
