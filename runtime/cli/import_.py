"""`galago import`: adds models that other programs stored, without copying them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models.errors import ConfigError, NotFound
from .. import environment
from .ui import report

if TYPE_CHECKING:
    from ...models.registry.imported import ImportedModel


def import_(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="a GGUF file, a folder, another Hub cache, or Ollama's models  [default: LM Studio's and Ollama's]",
            metavar="PATH",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="import nothing if a file or a setting would be left out")
    ] = False,
    as_json: report.Json = False,
) -> None:
    """Use models that other programs stored, without copying them."""
    from ...models.registry import imported
    from ...models.registry.discovery import default_folders, discover

    folders = [path] if path is not None else default_folders(environment.ollama_folder())
    if not folders:
        raise NotFound("neither LM Studio nor Ollama has models on this machine; name a folder", "path")
    discovery = discover(*folders)
    left_out = [*discovery.left_out, *(f"{m.name}: {what}" for m in discovery.models for what in m.left_out)]
    if strict and left_out:
        raise ConfigError(
            "nothing was imported, because --strict is set and this would be left out", "strict", left_out
        )
    added = imported.add(discovery.models)
    for line in discovery.left_out:
        print(f"galago: left out: {report.printable_line(line)}", file=sys.stderr)
    for model in added:
        if model.left_out:
            lost = report.printable_line(", ".join(model.left_out))
            print(f"galago: {model.name} was imported without {lost}", file=sys.stderr)
    if as_json:
        report.emit_json([_row(model) for model in added])
        return
    for model in added:
        projector = f" with {report.printable(model.projector.name)}" if model.projector else ""
        print(f"{model.name}: {report.printable_line(str(model.weights[0]))}{projector}")
        wanted = next(other.name for other in discovery.models if other.is_same_as(model))
        if model.name != wanted:
            print(f"  it is not called {wanted}, because another model has that name")
    print(
        f"imported {report.quantity(len(added), 'model')}; no files were copied"
        if added
        else "all are already imported"
    )


def _row(model: ImportedModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "quant": model.quant,
        "paths": [str(path) for path in model.paths],
        "from": model.origin,
        "published_as": model.published_as or None,
        "left_out": [*model.left_out],
    }
