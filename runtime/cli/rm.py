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
    """Delete a model, in all its commits unless MODEL names one.

    Keeps files that other models use, and removes an imported model only from the list.
    """
    from ...models.registry import removal
    from ...models.registry.name import parse_ref
    from ..pool.presets import find_preset

    ref = parse_ref(model)
    if ref.kind == "builtin":
        raise NotFound("the built-in model is part of Galago and cannot be deleted", "model")
    if ref.kind == "path":
        raise NotFound(f"{model} is a file that Galago does not manage; delete it yourself", "model")
    try:
        removed = removal.remove(ref)
    except NotFound:
        if find_preset(model) is None:
            raise
        raise NotFound(f"{model} is a preset; galago preset rm {model} deletes it", "model") from None
    removed_model, remaining = removed.model, [str(other) for other in removed.remaining]
    if as_json:
        is_imported = not removed_model.repository
        fields = {"model": str(removed_model.ref), "freed": removed.freed, "imported": is_imported}
        report.emit_json(fields | {"commits": removed.commits, "remaining": remaining})
    elif removed_model.repository:
        commits = f" with its {removed.commits} commits" if removed.commits > 1 else ""
        print(f"deleted {removed_model.ref}{commits}, which freed {units.format_bytes(removed.freed)}")
        if remaining:
            print(f"still installed: {', '.join(remaining)}")
        if removed.successor:
            print(
                f"{removed_model.ref} now refers to {report.printable(removed.successor)}, another model from another "
                "commit; to delete that as well, run the same command again"
            )
    else:
        print(f"removed {removed_model.ref} from the list; its files remain in {removed_model.origin}")
