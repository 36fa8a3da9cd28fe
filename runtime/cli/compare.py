"""`galago compare`: shows what changed between two evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .ui import report


def compare(
    before: Annotated[Path, typer.Argument(help="results of galago evaluate --json", metavar="A.json")],
    after: Annotated[Path, typer.Argument(help="results of the same variants to compare with", metavar="B.json")],
    as_json: report.Json = False,
) -> None:
    """Show what changed from evaluation A to evaluation B, for each variant: between two devices, two builds, or
    before and after a change. Statistically significant changes are marked with an exclamation mark."""
    from ...quantize.evaluate.report import comparison

    compared = comparison.compare(comparison.read(before), comparison.read(after))
    if as_json:
        report.emit_json(compared)
        return
    table = comparison.table(compared)
    if table.rows:
        print(report.wide_table(table.columns, table.rows), end="\n\n")
    for name in compared["only_before"]:
        print(f"only in {before.name}: {name}")
    for name in compared["only_after"]:
        print(f"only in {after.name}: {name}")
    print("\n".join(compared["notes"]))
