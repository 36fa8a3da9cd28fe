"""`galago calibrate`: an importance matrix from what a model reads, sees and hears."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .ui import options, progress, report

if TYPE_CHECKING:
    from ...quantize.calibrate.calibration import Data
    from ...quantize.calibrate.imatrix import ImportanceMatrix


def calibrate(
    model: Annotated[str, typer.Argument(help="builtin, an installed model, or a GGUF file")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the importance matrix to write", metavar="FILE")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="text, JSON lines of texts and chats, a set of questions, or a matrix to add; may be repeated",
            metavar="FILE",
        ),
    ] = None,
    mmproj: options.ProjectorOption = None,
    chunk: Annotated[int, typer.Option(help="tokens of a stretch of text", metavar="N")] = 512,
    chunks: Annotated[int | None, typer.Option(help="stretches and chats at most  [default: all]", metavar="N")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace FILE where it exists")] = False,
    as_json: report.Json = False,
) -> None:
    """Measure what matters to a model's weights, from what it reads, sees and hears."""
    from ...quantize.calibrate import calibration, imatrix
    from ...quantize.variants import plan

    source = plan.open_source(model)
    plan.check_target(source, output, force)
    eyes = mmproj or plan.projector_of(model)
    wanted = calibration.data(source, eyes, data or [], chunk, chunks)
    part = output.with_name(f"{output.name}.part")
    matrix = collect(wanted, part)
    imatrix.write(output, matrix)
    part.unlink(missing_ok=True)
    if as_json:
        seen = {name: entry.counts.tolist() for name, entry in matrix.entries.items()}
        report.emit_json({"file": output, "datasets": matrix.datasets, "chunks": matrix.chunks, "rows": seen})
    else:
        print("\n".join(_lines(matrix, output)))


def collect(wanted: Data, part: Path) -> ImportanceMatrix:
    from ...quantize.calibrate import calibration

    with progress.bar("calibrating", 1.0) as show:
        return calibration.collect(wanted, part, lambda done, count: show(done / count, f"{done} of {count}"))


def _lines(matrix: ImportanceMatrix, output: Path) -> list[str]:
    rows = [int(entry.counts.max()) for entry in matrix.entries.values()]
    lines = [f"{output}: {len(rows)} weights, of {', '.join(map(report.printable, matrix.datasets)) or 'unnamed'}",
             f"  {matrix.chunks} stretches and chats, {max(rows)} rows"]  # fmt: skip
    blind = [name for name, entry in matrix.entries.items() if (entry.counts == 0).any()]
    if blind:
        lines.append(f"  experts that have read nothing, in {len(blind)} weights; more data would reach them")
    return lines
