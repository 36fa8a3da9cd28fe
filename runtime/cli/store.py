"""`galago store`: what a server keeps for its clients, and its removal."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ...models.errors import NotFound


class Action(enum.StrEnum):
    status = "status"
    clear = "clear"


def store(
    action: Annotated[Action, typer.Argument(help="show what is there, or delete it", metavar="status|clear")],
    folder: Annotated[Path, typer.Argument(help="the folder given to galago serve --store", metavar="DIR")],
) -> None:
    """Show or delete what `galago serve --store DIR` keeps for its clients, while no server uses it."""
    from ..server.storage import database as stores

    folder = folder.expanduser()
    if not (folder / stores.DATABASE).is_file():
        raise NotFound(f"{folder} is not a folder where galago serve --store has kept anything", "store")
    if action is Action.clear:
        count, size = stores.clear(folder)
        print(f"deleted {count} files, {size / 2**20:.1f} MiB")
        return
    counts, size = stores.status(folder)
    for name, count in counts.items():
        print(f"{name}: {count}")
    print(f"{size / 2**20:.1f} MiB in all")
