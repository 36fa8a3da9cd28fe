"""`galago ps`: what a running server is doing. Asks it over HTTP, on this machine."""

from __future__ import annotations

import http.client
import sys
from typing import Annotated

import typer

from ...models.errors import ConfigError, NotReady
from ..config import api_key_from_environment


def ps(
    host: Annotated[str, typer.Option(help="where the server listens", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="its port", metavar="PORT")] = 8080,
) -> None:
    """Show what a running `galago serve` is doing."""
    found = _asked(host, port)
    columns = ("model", "answering", "waiting", "answered", "tokens/s", "first token", "cached", "threads", "memory")
    rows = [columns, *(_row(model, stats) for model, stats in found.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for model, stats in found.items():
        if stats["restarts"]:
            print(f"galago: {model} was started again {stats['restarts']:.0f} times", file=sys.stderr)


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


def _asked(host: str, port: int) -> dict[str, dict[str, float]]:
    from ..server.galago.metrics import parse

    key = api_key_from_environment()
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        raise NotReady(f"no server answers at {host}:{port}; start one with galago serve") from None
    finally:
        connection.close()
    if answer.status == 401:
        raise ConfigError("the server wants a key: set GALAGO_API_KEY to it", "api-key")
    if answer.status != 200:
        raise NotReady(f"the server at {host}:{port} is not ready (status {answer.status})")
    return parse(text)
