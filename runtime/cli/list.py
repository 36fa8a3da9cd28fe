"""`galago list`: lists the models on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from ...models.errors import GalagoError
from .ui import report

if TYPE_CHECKING:
    from ..pool.presets import Preset


def list(
    every_commit: Annotated[
        bool, typer.Option("--all", help="models of older commits, too, and their commits")
    ] = False,
    as_json: report.Json = False,
) -> None:
    """List the models on this machine: built in, in the Hub's cache, imported, or presets of these."""
    from ...models.registry import installed
    from ...models.registry.resolve import builtin_model
    from ..pool.presets import read_presets

    presets = read_presets()
    rows = [_row(model) for model in (builtin_model(), *installed.all_models(every_commit))]
    rows += map(_preset_row, presets.presets)
    for problem in presets.problems:
        print(f"galago: {report.printable_line(problem)}", file=sys.stderr)
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


def _preset_row(preset: Preset) -> dict[str, Any]:
    from ..pool.presets import preset_files

    try:
        return _row(preset_files(preset)) | {"preset_of": preset.model}
    except GalagoError as error:
        row: dict[str, Any] = {"model": preset.name, "size": 0, "from": f"preset of {preset.model}", "paths": []}
        return row | {"repository": None, "commit": None, "problem": error.message, "preset_of": preset.model}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["problem"]:
        state = "unusable" if "preset_of" in row else "damaged"
        return (row["model"], units.format_bytes(row["size"]), state, "", "", _place(row["from"]))
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
