"""`galago cache`: what a cache folder holds, and its removal."""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import Annotated

import typer

from ...models.errors import NotFound


class Action(enum.StrEnum):
    status = "status"
    clear = "clear"


def cache(
    action: Annotated[Action, typer.Argument(help="show what is there, or delete it", metavar="status|clear")],
    folder: Annotated[Path, typer.Argument(help="the folder given to galago serve --cache-dir", metavar="DIR")],
) -> None:
    """Show or delete what `galago serve --cache-dir DIR` keeps over restarts."""
    from ..cache import disk_cache

    folder = folder.expanduser()
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "cache-dir")
    if action is Action.clear:
        print(f"deleted {disk_cache.clear(folder)} files")
        return
    found = list(disk_cache.entries(folder))
    models = len({entry.about.get("key") for entry in found})
    size = sum(entry.size for entry in found) / 2**20
    print(f"{len(found)} files of {models} models, {size:.1f} MiB")
    for kind, what in (("state", "conversations"), ("media", "pictures and sounds")):
        of_kind = [entry for entry in found if entry.about.get("kind") == kind]
        if of_kind:
            oldest = (time.time() - min(entry.used for entry in of_kind)) / 86_400
            print(
                f"  {what}: {len(of_kind)}, {sum(e.size for e in of_kind) / 2**20:.1f} MiB, "
                f"longest unused for {oldest:.1f} of {disk_cache.DAYS} days"
            )
