"""`galago rm`: deletes a model, and of its files exactly those that no other model uses."""

from __future__ import annotations

from typing import Annotated

import typer

from ...models import units
from ...models.errors import NotFound
from .ui import report


def rm(
    model: Annotated[str, typer.Argument(help="an installed model, as galago list names it")],
    as_json: report.Json = False,
) -> None:
    """Delete a model. Files that another model uses stay, and so do imported ones, which only leave the list."""
    from ...models.registry import installed
    from ...models.registry.name import parse_ref

    ref = parse_ref(model)
    if ref.kind == "builtin":
        raise NotFound("the built-in model is a part of Galago and stays", "model")
    if ref.kind == "path":
        raise NotFound(f"{model} is a file of yours; delete it yourself", "model")
    gone, freed = installed.remove(ref)
    if as_json:
        report.emit_json({"model": str(gone.ref), "freed": freed, "imported": not gone.repository})
    elif gone.repository:
        print(f"{ref} is deleted; {units.format_bytes(freed)} freed")
    else:
        print(f"{ref} is off the list; its files stay in {gone.origin}")
