"""`galago import`: adds models that other programs stored, without copying them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...models.errors import NotFound
from .ui import report


def import_(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="a GGUF file, a folder, another Hub cache, or Ollama's models  [default: LM Studio's and Ollama's]",
            metavar="PATH",
        ),
    ] = None,
    as_json: report.Json = False,
) -> None:
    """Use models that other programs stored, without copying them."""
    from ...models.registry import imported

    folders = [path] if path is not None else imported.default_folders()
    if not folders:
        raise NotFound("neither LM Studio nor Ollama has models on this machine; name a folder", "path")
    added = imported.add([model for folder in folders for model in imported.discover(folder)])
    if as_json:
        report.emit_json(
            [{"model": m.name, "quant": m.quant, "paths": [str(p) for p in m.paths], "from": m.origin} for m in added]
        )
        return
    for model in added:
        projector = f" with {model.projector.name}" if model.projector else ""
        print(f"{model.name}: {report.printable(str(model.weights[0]))}{projector}")
    print(
        f"imported {report.quantity(len(added), 'model')}; no files were copied"
        if added
        else "all are already imported"
    )
