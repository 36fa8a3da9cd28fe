"""`galago gc`: deletes what no model needs in the Hub's cache."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ...models import units
from .ui import report

if TYPE_CHECKING:
    from ...models.registry.garbage import Garbage

_MEANING = {
    "partial download": "partial download; galago pull would resume it",
    "file without a name": "no longer in any commit",
    "older commit": "replaced by a newer commit",
}


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be deleted")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="delete without asking")] = False,
    as_json: report.Json = False,
) -> None:
    """Delete partial downloads, files in no commit, and older commits. Shows their sizes and asks first.

    Touches only GGUF files in the Hub's cache, and nothing that a model shown by galago list needs.
    """
    from ...models.hub.cache import HubCache
    from ...models.hub.connection import cache_root
    from ...models.registry import garbage

    cache = HubCache(cache_root())
    items = garbage.find_garbage(cache)
    total = sum(item.size for item in items)
    if not as_json:
        print(_table(items) if items else "there is nothing to delete")
    delete = bool(items) and not dry_run and (yes or _confirmed(total, as_json))
    freed = sum(garbage.delete_garbage(cache, item) for item in items) if delete else 0
    if as_json:
        report.emit_json({"garbage": [_row(item) for item in items], "size": total, "deleted": delete, "freed": freed})
    elif delete:
        print(f"deleted, which freed {units.format_bytes(freed)}")
    elif items:
        print(f"nothing was deleted; deleting would free {units.format_bytes(total)}")


def _confirmed(total: int, as_json: bool) -> bool:
    """Asks on a terminal. Without one, nothing is deleted."""
    if as_json or not sys.stdin.isatty():
        print("galago: add --yes to delete", file=sys.stderr)
        return False
    return typer.confirm(f"Delete these files and free {units.format_bytes(total)}?")


def _table(items: list[Garbage]) -> str:
    rows = [(units.format_bytes(item.size), _name(item), _MEANING[item.kind]) for item in items]
    return report.table(("size", "what", "why"), rows)


def _name(item: Garbage) -> str:
    names = [path.name for path in item.paths] if item.commit else []
    return " ".join(
        [f"hf:{item.repository}" + f"@{item.commit[:12]}" * bool(item.commit), *map(report.printable, names)]
    )


def _row(item: Garbage) -> dict[str, object]:
    paths = [str(path) for path in item.paths]
    return {"kind": item.kind, "repository": item.repository, "commit": item.commit or None, "size": item.size} | {
        "paths": paths
    }
