"""`galago ps`: shows what a server on this machine is doing, by its `/metrics`."""

from __future__ import annotations

import json
import sys
from typing import Any

from .ui import report
from .ui.server_client import DEFAULT_HOST, DEFAULT_PORT, ServerHost, ServerPort, send

_COLUMNS = ("model", "running", "waiting", "done", "tokens/s", "first token", "cached", "threads", "memory", "unloads")


def ps(
    host: ServerHost = DEFAULT_HOST,
    port: ServerPort = DEFAULT_PORT,
) -> None:
    """Show what a running `galago serve` is doing."""
    from ..server.galago.metrics import parse

    models = parse(send(host, port, "GET", "/metrics").decode("utf-8", "replace"))
    cards = {card["id"]: card for card in json.loads(send(host, port, "GET", "/v1/models"))["data"]}
    if not models:
        print("no model is loaded; one is when a request names it, or with galago load NAME")
        return
    rows = [(*_row(model, stats), _left(cards[model]) if model in cards else "") for model, stats in models.items()]
    print(report.table(_COLUMNS, rows))
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


def _left(card: dict[str, Any]) -> str:
    """When a model is unloaded, as people say it."""
    if card["state"] != "ready":
        return str(card["state"])
    left = card.get("seconds_left")
    return "" if left is None else f"in {left / 60:.0f} min" if left >= 60 else f"in {left:.0f} s"
