"""`galago ps`: shows what a server on this machine is doing, by its `/metrics`."""

from __future__ import annotations

import http.client
import sys
from typing import Annotated

import typer

from ...models.errors import ConfigError, NotReady
from ..environment import api_key_from_environment
from .ui import report

_COLUMNS = ("model", "running", "waiting", "done", "tokens/s", "first token", "cached", "threads", "memory")


def ps(
    host: Annotated[str, typer.Option(help="address of the server", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port of the server", metavar="PORT")] = 8080,
) -> None:
    """Show what a running `galago serve` is doing."""
    models = _read_metrics(host, port)
    print(report.table(_COLUMNS, [_row(model, stats) for model, stats in models.items()]))
    for model, stats in models.items():
        if stats["restarts"]:
            print(
                f"galago: {model} stopped responding or crashed, and was restarted; restarts: {stats['restarts']:.0f}",
                file=sys.stderr,
            )


def _row(model: str, stats: dict[str, float]) -> tuple[str, ...]:
    def ratio(part: str, whole: str, form: str) -> str:
        return form.format(stats[part] / stats[whole]) if stats[whole] else "-"

    return (
        model,
        f"{stats['running']:.0f} of {stats['slots']:.0f}",
        f"{stats['waiting']:.0f}",
        f"{stats['finished']:.0f}",
        ratio("completion_tokens", "busy_seconds", "{:.0f}"),
        ratio("first_token_seconds", "finished", "{:.2f} s"),
        ratio("cached_tokens", "prompt_tokens", "{:.0%}"),
        f"{stats['threads']:.0f}",
        f"{stats['memory_bytes'] / 2**20:.0f} MiB",
    )


def _read_metrics(host: str, port: int) -> dict[str, dict[str, float]]:
    """The numbers of each model, by their names."""
    from ..server.galago.metrics import parse

    key = api_key_from_environment()
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        raise NotReady(f"no server answers at {host}:{port}; start one with galago serve") from None
    finally:
        connection.close()
    if response.status == 401:
        raise ConfigError("the server needs an API key: set GALAGO_API_KEY to it", "api-key")
    if response.status != 200:
        raise NotReady(f"the server at {host}:{port} is not ready (HTTP status {response.status})")
    return parse(text)
