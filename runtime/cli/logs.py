"""`galago logs`: shows the log of a server that writes one to a file."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ...models.errors import NotFound
from ...models.paths import log_path
from ...models.toml_lines import read_toml
from .ui.config_file import config_path

_POLL_SECONDS = 0.2


def logs(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with new lines until interrupted")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="show this many lines", metavar="N", min=0)] = 50,
    file: Annotated[
        Path | None,
        typer.Option(help="the log  [default: log-file in config.toml, else that of the service]", metavar="FILE"),
    ] = None,
) -> None:
    """Show the log of `galago serve --log-file` or of the service."""
    path = (file or _configured() or log_path()).expanduser()
    try:
        opened = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise NotFound(
            f"there is no log at {path}; start galago serve with --log-file, or name its file with --file", "file"
        ) from None
    for line in deque(opened, lines):
        print(line, end="")
    sys.stdout.flush()
    while follow:
        line = opened.readline()
        if line:
            print(line, end="", flush=True)
        elif _was_replaced(path, opened):  # by the next one, because it was full
            opened.close()
            opened = path.open(encoding="utf-8", errors="replace")
        else:
            time.sleep(_POLL_SECONDS)
    opened.close()


def _configured() -> Path | None:
    """The file that the configuration file names."""
    path = config_path()
    value = read_toml(path, "config")[0].get("log-file") if path.exists() else None
    return Path(value) if isinstance(value, str) else None


def _was_replaced(path: Path, opened: TextIO) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(opened.fileno()))
    except FileNotFoundError:
        return False
