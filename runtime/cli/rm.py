"""`galago rm`: deletes a model, except files that other models use."""

from __future__ import annotations

from typing import Annotated

import typer

from ...models import units
from ...models.errors import NotFound
from .ui import report


def rm(
    model: Annotated[str, typer.Argument(help="an installed model, as shown by galago list", metavar="MODEL")],
    as_json: report.Json = False,
) -> None:
    """Delete a model. Keeps files that other models use, and removes an imported model only from the list."""
    from ...models.registry import installed
    from ...models.registry.name import parse_ref

    ref = parse_ref(model)
    if ref.kind == "builtin":
        raise NotFound("the built-in model is part of Galago and cannot be deleted", "model")
    if ref.kind == "path":
        raise NotFound(f"{model} is a file that Galago does not manage; delete it yourself", "model")
    removed, freed = installed.remove(ref)
    if as_json:
        report.emit_json({"model": str(removed.ref), "freed": freed, "imported": not removed.repository})
    elif removed.repository:
        print(f"deleted {ref}, which freed {units.format_bytes(freed)}")
    else:
        print(f"removed {ref} from the list; its files remain in {removed.origin}")
