"""`/metrics` and `galago ps`, which reads it."""

from __future__ import annotations

import subprocess
import sys
import time
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.server import Server
from galago.runtime import LocalModel
from galago.runtime.server.galago.metrics import FAMILIES, parse, render
from galago.runtime.types.model_info import Stats

GALAGO = [sys.executable, "-m", "galago.runtime.cli.main"]


@given(st.text(min_size=1), st.integers(0, 2**60), st.floats(0, 1e9))
def test_rendered_metrics_can_be_parsed(model: str, tokens: int, seconds: float) -> None:
    parsed = parse(render([("other", Stats()), (model, Stats(completion_tokens=tokens, busy_seconds=seconds))]))
    assert (parsed[model]["completion_tokens"], parsed[model]["busy_seconds"]) == (float(tokens), seconds)
    assert model == "other" or parsed["other"]["completion_tokens"] == 0


def test_every_metric_has_a_description() -> None:
    assert {field for _, _, field, _ in FAMILIES} == set(Stats.__dataclass_fields__)
    text = render([("m", Stats())])
    assert text.count("# HELP ") == text.count("# TYPE ") == len(FAMILIES) == len(parse(text)["m"])


def numbers(server: Server) -> dict[str, float]:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(answer.text)["builtin"]


def at_rest(server: Server) -> dict[str, float]:
    """The metrics, once they include every earlier request: they are updated once a second."""
    before, after = -1.0, numbers(server)
    while before != after["finished"]:
        before = after["finished"]
        time.sleep(1.5)
        after = numbers(server)
    return after


def test_a_request_is_counted(server: Server) -> None:
    before = at_rest(server)
    usage = server.ask("Opposite of big?").json()["usage"]
    deadline = time.monotonic() + 10
    while (after := numbers(server))["finished"] == before["finished"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert after["finished"] == before["finished"] + 1
    assert after["completion_tokens"] == before["completion_tokens"] + usage["completion_tokens"]
    assert after["prompt_tokens"] == before["prompt_tokens"] + usage["prompt_tokens"]
    assert after["busy_seconds"] > before["busy_seconds"] and after["memory_bytes"] > 10_000_000
    assert after["slots"] == 4 and after["threads"] >= 1 and after["restarts"] == 0


def test_ps_shows_a_running_server(server: Server) -> None:
    port = str(urlsplit(server.url).port)
    done = subprocess.run([*GALAGO, "ps", "--port", port], capture_output=True, text=True, timeout=60)
    head, line = done.stdout.splitlines()
    assert head.split()[:3] == ["model", "running", "waiting"] and line.startswith("builtin") and "of 4" in line


def test_ps_reports_that_no_server_is_running() -> None:
    done = subprocess.run([*GALAGO, "ps", "--port", "9"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no server answers at 127.0.0.1:9" in done.stderr


def test_a_model_in_this_process_is_counted_too(model: LocalModel) -> None:
    [(_, before)] = model._service.stats()
    model.chat("Opposite of big?")
    [(_, after)] = model._service.stats()
    assert after.finished == before.finished + 1 and after.completion_tokens > before.completion_tokens


@pytest.mark.parametrize("path", ["/metrics"])
def test_other_origins_may_not_read_metrics(server: Server, path: str) -> None:
    assert httpx.get(f"{server.url}{path}", headers={"Origin": "https://example.com"}).status_code == 403
