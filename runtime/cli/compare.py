"""`galago compare`: what changed from one evaluation to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .ui import report


def compare(
    before: Annotated[Path, typer.Argument(help="results that galago evaluate --json wrote", metavar="A.json")],
    after: Annotated[Path, typer.Argument(help="others, of the same variants", metavar="B.json")],
    as_json: report.Json = False,
) -> None:
    """Tell what changed from evaluation A to B, variant by variant: of two devices, two builds, or before and after a
    change. What is larger than chance is marked with an exclamation mark."""
    from ...quantize.evaluate.report import comparison

    found = comparison.compare(comparison.read(before), comparison.read(after))
    if as_json:
        report.emit_json(found)
        return
    table = comparison.table(found)
    if table.rows:
        print(report.table(table.columns, table.rows))
    for name in found["only_before"]:
        print(f"only before: {name}")
    for name in found["only_after"]:
        print(f"only after: {name}")
    print("\n".join(found["notes"]))
