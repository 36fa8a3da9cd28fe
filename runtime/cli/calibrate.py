"""`galago calibrate`: collects an importance matrix from calibration data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .ui import options, progress, report

if TYPE_CHECKING:
    from ...quantize.calibrate.imatrix import ImportanceMatrix


def calibrate(
    model: Annotated[str, typer.Argument(help="builtin, the name of an installed model, or a GGUF file")],
    output: Annotated[Path, typer.Option("--output", "-o", help="importance matrix to write", metavar="FILE")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="text, JSON lines, question set (.zip), or importance matrix to add; may be repeated"
            "  [default: built-in text]",
            metavar="FILE",
        ),
    ] = None,
    mmproj: options.ProjectorOption = None,
    chunk: Annotated[
        int | None, typer.Option(help="tokens per chunk of text  [default: 512, or the model's context]", metavar="N")
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(help="maximum number of chunks and chats  [default: all]", metavar="N")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace FILE if it exists")] = False,
    as_json: report.Json = False,
) -> None:
    """Collect an importance matrix: how much each weight matters on calibration data. galago quantize uses it."""
    from ...quantize import api

    request = api.CalibrationRequest(model, output, tuple(data or ()), mmproj, chunk, chunks, force)
    matrix = api.calibrate(request, progress.stage)
    if as_json:
        rows = {name: entry.counts.tolist() for name, entry in matrix.entries.items()}
        report.emit_json({"file": output, "datasets": matrix.datasets, "chunks": matrix.chunks, "rows": rows})
    else:
        print("\n".join(_lines(matrix, output)))


def _lines(matrix: ImportanceMatrix, output: Path) -> list[str]:
    rows = [int(entry.counts.max()) for entry in matrix.entries.values()]
    lines = [
        f"{output}: importance matrix of {len(rows)} tensors",
        f"  data          {', '.join(map(report.printable, matrix.datasets)) or 'unnamed'}",
        f"  read          {matrix.chunks} chunks and chats, {max(rows)} tokens",
    ]
    without_data = [name for name, entry in matrix.entries.items() if (entry.counts == 0).any()]
    if without_data:
        lines.append(f"  warning       {len(without_data)} tensors have experts that no token reached; use more data")
    return lines
