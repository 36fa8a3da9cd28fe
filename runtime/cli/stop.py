"""`galago stop`: makes a running server unload a model."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

import typer

from .ui.server_client import DEFAULT_HOST, DEFAULT_PORT, ServerHost, ServerPort, send


def stop(
    model: Annotated[str, typer.Argument(help="a model that the server has loaded", metavar="MODEL")],
    host: ServerHost = DEFAULT_HOST,
    port: ServerPort = DEFAULT_PORT,
) -> None:
    """Unload a model in a running `galago serve`, once it has ended its answers, and give its memory back."""
    answer = send(host, port, "POST", f"/v1/models/{quote(model, safe='')}/unload", {}, timeout=None)
    status = json.loads(answer)
    print(f"{status['id']} is {status['state']}")
