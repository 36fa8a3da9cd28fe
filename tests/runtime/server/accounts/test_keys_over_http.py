"""Several keys with limits on a running server: over HTTP, WebSockets and in batches, in each API's dialect."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from fakes.server import Server, serving
from fakes.waiting import wait_until

LIMITED_KEYS = 20
MARKER = "zyxmarker"
OTHERS = """
[admin]
key = "admin-key"
admin = true
[free]
key = "free-key"
[once]
key = "once-key"
requests_per_minute = 1
[batcher]
key = "batch-key"
[socket]
key = "socket-key"
requests_per_minute = 1
[elsewhere]
key = "elsewhere-key"
models = ["another-model"]
[friend]
key = "friend-key"
models = ["FRIEND"]
"""


def limits(number: int) -> tuple[int, int]:
    """The requests and tokens a minute of a key."""
    return (1000, 60 + 10 * (number % 3)) if number % 2 else (3 + number % 5, 100_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keys")
    tables = [
        f'[key-{number}]\nkey = "secret-{number}"\nrequests_per_minute = {requests}\ntokens_per_minute = {tokens}\n'
        for number in range(LIMITED_KEYS)
        for requests, tokens in [limits(number)]
    ]
    (folder / "keys.toml").write_text("".join(tables) + OTHERS)
    allowed = ["--allow-create", "--allow-rm", "--allow-pull"]
    arguments = [*allowed, "--api-keys-file", str(folder / "keys.toml"), "--audit-log", str(folder / "audit.jsonl")]
    with serving("--threads", "1", "--alias", "friend", "--store", str(folder / "store"), *arguments) as running:
        wait_until(lambda: bool(running.url))
        running.wait_until_ready()
        running.audit = folder / "audit.jsonl"  # type: ignore[attr-defined]
        yield running


def post(server: Server, key: str, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": MARKER}], "max_tokens": 8, **options}
    return server.post(body, path, headers={"Authorization": f"Bearer {key}"})


def usage(server: Server, key: str) -> dict[str, dict[str, Any]]:
    answer = httpx.get(f"{server.url}/v1/usage", headers={"x-api-key": key}).json()
    assert answer["since"] <= time.time()
    return {one["key"]: one for one in answer["data"]}


def audit_lines(server: Server, key: str | None) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in server.audit.read_text().splitlines()]  # type: ignore[attr-defined]
    return [line for line in lines if line["key"] == key]


def test_no_key_exceeds_its_limits_by_more_than_one_request_under_load(server: Server) -> None:
    def ask(number: int) -> tuple[int, httpx.Response]:
        return number, post(server, f"secret-{number}", ignore_eos=True, stream=number % 4 < 2)

    jobs = [number for _ in range(9) for number in range(LIMITED_KEYS)]
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, jobs))
    assert {answer.status_code for _, answer in answers} == {200, 429}
    admitted = Counter(number for number, answer in answers if answer.status_code == 200)
    wait_until(lambda: sum(len(audit_lines(server, f"key-{n}")) for n in range(LIMITED_KEYS)) == len(jobs))
    for number in range(LIMITED_KEYS):
        requests, tokens = limits(number)
        lines = [line for line in audit_lines(server, f"key-{number}") if line["status"] == 200]
        assert len(lines) == admitted[number] >= 1
        times = [line["time"] for line in lines]
        spent = [line["prompt_tokens"] + line["completion_tokens"] for line in lines]
        one = usage(server, f"secret-{number}")
        assert list(one) == [f"key-{number}"]  # a key sees only its own
        total = one[f"key-{number}"]
        assert total["prompt_tokens"] + total["completion_tokens"] == sum(spent)
        assert (total["requests"], total["limits"]["tokens_per_minute"]) == (len(lines), tokens)
        if seconds_between(min(times), max(times)) < 50:  # all within one minute
            assert len(lines) <= requests
            assert sum(spent) - max(spent) < tokens


def seconds_between(first: str, last: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def test_a_key_over_its_limit_is_told_when_to_try_again_in_each_dialect(server: Server) -> None:
    post(server, "once-key")
    refused = post(server, "once-key")
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert "'once'" in error["message"] and "once-key" not in refused.text
    anthropic = post(server, "once-key", "/v1/messages")
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (429, "rate_limit_error")
    ollama = post(server, "once-key", "/api/chat")
    assert ollama.status_code == 429 and "try again" in ollama.json()["error"]
    for path, body in (("embeddings", {"input": "x"}), ("responses", {"input": "x"}), ("completions", {"prompt": "x"})):
        answer = server.post(body, f"/v1/{path}", headers={"x-api-key": "once-key"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert usage(server, "once-key")["once"]["requests"] == 1
    assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": "once-key"}).status_code == 200


def test_a_key_may_use_only_its_models_by_any_of_their_names(server: Server) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
        assert post(server, "elsewhere-key", path, model="another-model").status_code == 403
    assert post(server, "elsewhere-key").json()["error"]["param"] == "model"
    assert post(server, "friend-key", model="builtin").status_code == 200
    headers = {"x-api-key": "elsewhere-key"}
    assert httpx.get(f"{server.url}/v1/models", headers=headers).json()["data"] == []
    for action in ("load", "unload"):
        refused = httpx.post(f"{server.url}/v1/models/builtin/{action}", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    shown = httpx.get(f"{server.url}/v1/models", headers={"x-api-key": "friend-key"}).json()["data"]
    assert "builtin" in {one["id"] for one in shown}


def test_a_key_that_is_limited_to_some_models_manages_none_and_sees_no_others(server: Server) -> None:
    key = {"Authorization": "Bearer elsewhere-key"}
    body = {"model": "another-model", "from": "builtin", "stream": False}
    for method, path in (("POST", "/api/create"), ("DELETE", "/api/delete"), ("POST", "/api/pull")):
        answer = httpx.request(method, f"{server.url}{path}", json=body, headers=key)
        assert answer.status_code == 403 and "limited to some models" in answer.text, (path, answer.text)
    assert server.post({"model": "builtin"}, "/api/show", headers=key).status_code == 404
    assert httpx.get(f"{server.url}/api/tags", headers=key).json()["models"] == []
    free = {"Authorization": "Bearer free-key"}
    assert server.post({"model": "builtin"}, "/api/show", headers=free).status_code == 200


def test_an_admin_sees_the_usage_of_all_keys_and_no_key_is_shown(server: Server) -> None:
    post(server, "free-key")
    text = httpx.get(f"{server.url}/v1/usage", headers={"x-api-key": "admin-key"}).text
    everyone = usage(server, "admin-key")
    assert len(everyone) == LIMITED_KEYS + OTHERS.count("[") - OTHERS.count(" [")
    free = everyone["free"]
    assert free["models"] == [
        {"model": "builtin"} | {name: free[name] for name in ("requests", "prompt_tokens", "completion_tokens")}
    ]
    assert free["limits"] == {"requests_per_minute": None, "tokens_per_minute": None, "models": None}
    assert "secret-" not in text and "free-key" not in text


def test_each_message_on_a_websocket_counts_for_its_key(server: Server) -> None:
    url = server.url.replace("http", "ws") + "/v1/responses"
    create = json.dumps({"type": "response.create", "model": "builtin", "input": MARKER, "max_output_tokens": 16})
    with connect(url, additional_headers={"Authorization": "Bearer socket-key"}) as socket:
        socket.send(create)
        while json.loads(socket.recv(20))["type"] not in ("response.completed", "response.incomplete"):
            pass
        socket.send(create)
        event = json.loads(socket.recv(20))
    assert (event["type"], event["status"]) == ("error", 429)
    used = usage(server, "socket-key")["socket"]
    assert used["requests"] == 1 and used["prompt_tokens"] > 0 and used["completion_tokens"] > 0
    wait_until(lambda: len(audit_lines(server, "socket")) == 4)  # with the connection and the list of usage
    statuses = [line["status"] for line in audit_lines(server, "socket") if line["path"] == "/v1/responses"]
    assert sorted(statuses) == [101, 200, 429]


def test_the_lines_of_a_batch_count_for_the_key_that_created_it(server: Server) -> None:
    lines = [
        {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions"}
        | {"body": {"messages": [{"role": "user", "content": MARKER}], "max_tokens": 4}}
        for i in range(3)
    ]
    with server.client(default_headers={"x-api-key": "batch-key"}) as client:
        text = "\n".join(map(json.dumps, lines)).encode()
        uploaded = client.files.create(file=("in.jsonl", text), purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
    assert usage(server, "batch-key")["batcher"]["requests"] == 3
    answers = [line for line in audit_lines(server, "batcher") if line["model"]]
    assert [(line["status"], line["client"]) for line in answers] == [(200, "unknown")] * 3


def test_the_audit_log_has_no_content_keys_or_paths_that_clients_choose(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/batches/{MARKER}", headers={"x-api-key": "free-key"}).status_code == 404
    assert httpx.get(f"{server.url}/{MARKER}", headers={"x-api-key": "free-key"}).status_code == 404
    assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": MARKER}).status_code == 401
    wait_until(lambda: any(line["status"] == 401 for line in audit_lines(server, None)))
    text = server.audit.read_text()  # type: ignore[attr-defined]
    assert MARKER not in text and "free-key" not in text and "secret-" not in text
    lines = audit_lines(server, "free")
    assert {"/v1/batches/{id}", "other"} <= {line["path"] for line in lines}
    assert all(line["client"] == "loopback" and line["seconds"] >= 0 for line in lines)
    assert server.audit.stat().st_mode & 0o077 == 0  # type: ignore[attr-defined]
