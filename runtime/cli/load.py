"""`galago load`: makes a running server load a model."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

import typer

from ...models import units
from .ui.server_client import DEFAULT_HOST, DEFAULT_PORT, ServerHost, ServerPort, send


def load(
    model: Annotated[str, typer.Argument(help="builtin, an installed model or a preset", metavar="MODEL")],
    keep_alive: Annotated[
        str | None,
        typer.Option(
            help="unload it when it has had no request for this long, such as 90s, 5m or 2h; -1: never", metavar="TIME"
        ),
    ] = None,
    host: ServerHost = DEFAULT_HOST,
    port: ServerPort = DEFAULT_PORT,
) -> None:
    """Load a model in a running `galago serve`, so that its first request need not wait."""
    body = {} if keep_alive is None else {"keep_alive": keep_alive}
    answer = send(host, port, "POST", f"/v1/models/{quote(model, safe='')}/load", body, timeout=None)
    status = json.loads(answer)
    print(f"{status['id']} is loaded; it may take {units.format_bytes(status['memory_bytes'])}")
