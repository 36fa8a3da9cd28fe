"""`galago list`: lists the models on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...models import units
from ...models.errors import GalagoError
from .ui import report


def list(
    every_commit: Annotated[
        bool, typer.Option("--all", help="models of older commits, too, and their commits")
    ] = False,
    as_json: report.Json = False,
) -> None:
    """List the models on this machine: built in, in the Hub's cache, or imported."""
    from ...models.registry import installed
    from ...models.registry.resolve import builtin_model

    rows = [_row(model) for model in (builtin_model(), *installed.all_models(every_commit))]
    if as_json:
        report.emit_json(rows)
        return
    columns: tuple[str, ...] = ("model", "size", "input", "context", "weights", "from")
    cells = [_cells(row) for row in rows]
    if every_commit:
        columns = (*columns, "commit")
        cells = [(*cell, (row["commit"] or "")[:12]) for cell, row in zip(cells, rows, strict=True)]
    print(report.wide_table(columns, cells))
    for row in rows:
        if row["problem"]:
            print(f"{row['model']}: {report.printable_line(row['problem'])}")


def _row(model: Any) -> dict[str, Any]:
    from ...models.registry import installed

    row: dict[str, Any] = {"model": str(model.ref), "size": model.size, "from": model.origin, "problem": None}
    row |= {"repository": model.repository or None, "commit": model.commit or None}
    row |= {"paths": [str(path) for path in model.paths]}
    try:
        summary = installed.summarize(model)
    except GalagoError as error:
        return row | {"problem": error.message}
    return row | {
        "vision": summary.vision,
        "audio": summary.audio,
        "context": summary.context,
        "parameters": summary.parameters,
        "quant": summary.quant,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["problem"]:
        return (row["model"], units.format_bytes(row["size"]), "damaged", "", "", _place(row["from"]))
    return (
        row["model"],
        units.format_bytes(row["size"]),
        report.modalities(row["vision"], row["audio"]).removeprefix("text, "),
        str(row["context"] or "?"),
        f"{report.count(row['parameters'])} {row['quant']}",
        _place(row["from"]),
    )


def _place(origin: str) -> str:
    """Returns where a model is from, with ~ for the user's home folder."""
    path = Path(origin)
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else origin
