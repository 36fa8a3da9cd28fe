"""`GET /metrics`: what each model has done, in Prometheus's text format. Knows no engine."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...types.model_info import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FAMILIES: tuple[tuple[str, str, str, str], ...] = (
    ("slots", "gauge", "slots", "Requests that can be answered at once"),
    ("requests_running", "gauge", "running", "Requests being answered"),
    ("requests_waiting", "gauge", "waiting", "Requests waiting for a slot"),
    ("threads", "gauge", "threads", "CPU threads that compute answers"),
    ("memory_bytes", "gauge", "memory_bytes", "Resident memory of the process that holds the model"),
    ("cache_bytes", "gauge", "cache_bytes", "Memory of conversations set aside"),
    ("requests_finished_total", "counter", "finished", "Requests answered"),
    ("requests_failed_total", "counter", "failed", "Requests that ended with an error"),
    ("requests_cancelled_total", "counter", "cancelled", "Requests whose client left"),
    ("prompt_tokens_total", "counter", "prompt_tokens", "Tokens of prompts, cached ones included"),
    ("cached_tokens_total", "counter", "cached_tokens", "Tokens of prompts that were not computed again"),
    ("completion_tokens_total", "counter", "completion_tokens", "Tokens of answers"),
    ("first_token_seconds_total", "counter", "first_token_seconds", "Time from requests to first tokens, added up"),
    ("busy_seconds_total", "counter", "busy_seconds", "Time spent computing"),
    ("engine_steps_total", "counter", "steps", "Iterations of the engine's loop"),
    ("engine_step_seconds", "gauge", "step_seconds", "How long the current step has been running; 0 while idle"),
    ("recovered_errors_total", "counter", "recovered_errors", "Internal failures that cost time but no answer"),
    ("restarts_total", "counter", "restarts", "Times the model's process was started again"),
)
"""Name, type, field of `Stats` and meaning of each metric."""


def render(stats: Iterable[tuple[str, Stats]]) -> str:
    """One line for each model and metric, under its description."""
    models = list(stats)
    lines = []
    for name, kind, field, meaning in FAMILIES:
        lines += [f"# HELP galago_{name} {meaning}", f"# TYPE galago_{name} {kind}"]
        lines += [f'galago_{name}{{model="{_quoted(model)}"}} {getattr(values, field)}' for model, values in models]
    return "\n".join(lines) + "\n"


def parse(text: str) -> dict[str, dict[str, float]]:
    """What `render` has written, by model and field of `Stats`."""
    fields = {f"galago_{name}": field for name, _, field, _ in FAMILIES}
    found: dict[str, dict[str, float]] = {}
    for line in text.split("\n"):
        name, _, rest = line.partition('{model="')
        if name in fields:
            model, _, value = rest.rpartition('"} ')
            found.setdefault(_unquoted(model), {})[fields[name]] = float(value)
    return found


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
