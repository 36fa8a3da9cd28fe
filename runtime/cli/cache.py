"""`galago cache`: shows or deletes the contents of a cache folder."""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import Annotated

import typer

from ...models.errors import NotFound


class CacheAction(enum.StrEnum):
    status = "status"
    clear = "clear"


def cache(
    action: Annotated[CacheAction, typer.Argument(help="show what the folder holds, or delete it")],
    folder: Annotated[Path, typer.Argument(help="the folder given to galago serve --cache-dir")],
) -> None:
    """Show or delete the cache of `galago serve --cache-dir FOLDER`."""
    from ..cache import disk_cache

    folder = folder.expanduser()
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "cache-dir")
    if action is CacheAction.clear:
        print(f"deleted {disk_cache.clear(folder)} files")
        return
    entries = list(disk_cache.entries(folder))
    models = len({entry.about.get("key") for entry in entries})
    size = sum(entry.size for entry in entries) / 2**20
    print(f"{len(entries)} files of {models} models, {size:.1f} MiB")
    for kind, name in (("state", "prefixes"), ("media", "images and audio")):
        of_kind = [entry for entry in entries if entry.about.get("kind") == kind]
        if of_kind:
            unused_days = (time.time() - min(entry.used for entry in of_kind)) / 86_400
            print(
                f"  {name}: {len(of_kind)} files, {sum(entry.size for entry in of_kind) / 2**20:.1f} MiB; "
                f"least recently used {unused_days:.1f} days ago (deleted after {disk_cache.DAYS})"
            )
