"""`GET /metrics`: gauges and counters of each model, in Prometheus's text format."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import NotReady
from ...types.model_info import Stats
from ..http.openapi import Endpoint, RouteDescription
from ..resource import Resource

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FAMILIES: tuple[tuple[str, str, str, str], ...] = (
    ("slots", "gauge", "slots", "Requests that can be answered at once"),
    ("requests_running", "gauge", "running", "Requests being answered"),
    ("requests_waiting", "gauge", "waiting", "Requests waiting for a slot"),
    ("threads", "gauge", "threads", "CPU threads used for decoding"),
    ("memory_bytes", "gauge", "memory_bytes", "Resident memory of the model's process"),
    ("cache_bytes", "gauge", "cache_bytes", "Memory of saved prefix states"),
    ("requests_finished_total", "counter", "finished", "Requests answered"),
    ("requests_failed_total", "counter", "failed", "Requests that ended with an error"),
    ("requests_cancelled_total", "counter", "cancelled", "Requests whose client disconnected"),
    ("prompt_tokens_total", "counter", "prompt_tokens", "Prompt tokens, including cached ones"),
    ("cached_tokens_total", "counter", "cached_tokens", "Prompt tokens taken from the prefix cache"),
    ("completion_tokens_total", "counter", "completion_tokens", "Generated tokens"),
    ("first_token_seconds_total", "counter", "first_token_seconds", "Sum of the times to first token"),
    ("busy_seconds_total", "counter", "busy_seconds", "Time spent computing"),
    ("engine_steps_total", "counter", "steps", "Iterations of the engine's loop"),
    ("engine_step_seconds", "gauge", "step_seconds", "How long the current step has been running; 0 while idle"),
    ("recovered_errors_total", "counter", "recovered_errors", "Internal failures that cost time but no answer"),
    ("restarts_total", "counter", "restarts", "Restarts of the model's process"),
)
"""Name, type, field of `Stats` and help text of each metric."""

SHOW = RouteDescription("Metrics for Prometheus", {200: CONTENT_TYPE}, errors=(NotReady,))


class Metrics(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint("/metrics", self.show, SHOW)]

    async def show(self, _request: Request) -> Response:
        return Response(render(self.service.stats()), headers={"Content-Type": CONTENT_TYPE})


def render(stats: Iterable[tuple[str, Stats]]) -> str:
    """One line for each metric and model, under the metric's help text."""
    models = list(stats)
    lines = []
    for name, kind, field, help_text in FAMILIES:
        lines += [f"# HELP galago_{name} {help_text}", f"# TYPE galago_{name} {kind}"]
        lines += [f'galago_{name}{{model="{_escaped(model)}"}} {getattr(values, field)}' for model, values in models]
    return "\n".join(lines) + "\n"


def parse(text: str) -> dict[str, dict[str, float]]:
    """The output of `render` by model and field of `Stats`."""
    fields = {f"galago_{name}": field for name, _, field, _ in FAMILIES}
    by_model: dict[str, dict[str, float]] = {}
    for line in text.split("\n"):
        name, _, rest = line.partition('{model="')
        if name in fields:
            model, _, value = rest.rpartition('"} ')
            by_model.setdefault(_unescaped(model), {})[fields[name]] = float(value)
    return by_model


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
