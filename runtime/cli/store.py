"""`galago store`: shows or deletes the files, batches and responses that a server stores for its clients."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ...models.errors import NotFound
from .ui import report


class StoreAction(enum.StrEnum):
    status = "status"
    clear = "clear"


def store(
    action: Annotated[StoreAction, typer.Argument(help="show what the folder holds, or delete it")],
    folder: Annotated[Path, typer.Argument(help="the folder given to galago serve --store")],
) -> None:
    """Show or delete what `galago serve --store FOLDER` stores for its clients.

    Stop the server before you delete.
    """
    from ..server.storage import database

    folder = folder.expanduser()
    if not (folder / database.DATABASE_FILE).is_file():
        raise NotFound(f"{folder} holds no data of galago serve --store", "store")
    if action is StoreAction.clear:
        count, size = database.clear(folder)
        print(f"deleted {report.quantity(count, 'file')}, {size / 2**20:.1f} MiB")
        return
    counts, size = database.status(folder)
    for name, count in counts.items():
        print(f"{name}: {count}")
    print(f"total: {size / 2**20:.1f} MiB")
