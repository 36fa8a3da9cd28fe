"""`galago cache`: shows or deletes the contents of a cache folder."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...models.errors import NotFound
from .ui import report

if TYPE_CHECKING:
    from ..cache.disk_cache import CacheEntry


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
        print(f"deleted {report.quantity(disk_cache.clear(folder), 'file')}")
        return
    entries = list(disk_cache.entries(folder))
    models = len({entry.metadata.get("key") for entry in entries})
    print(f"{_size(entries)} of {report.quantity(models, 'model')}")
    for kind, name in (("state", "prefixes"), ("media", "images and audio")):
        of_kind = [entry for entry in entries if entry.metadata.get("kind") == kind]
        if of_kind:
            unused_days = (time.time() - min(entry.last_used for entry in of_kind)) / 86_400
            print(
                f"  {name}: {_size(of_kind)}, least recently used {unused_days:.1f} days ago "
                f"(deleted after {disk_cache.MAX_AGE_DAYS})"
            )


def _size(entries: Sequence[CacheEntry]) -> str:
    return f"{report.quantity(len(entries), 'file')} ({sum(entry.size for entry in entries) / 2**20:.1f} MiB)"
