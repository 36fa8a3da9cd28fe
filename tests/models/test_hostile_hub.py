"""A Hub that sends requests elsewhere, sends too much or asks to wait: one error, and nothing else is contacted."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fakes.hub import Fault, LocalHub, running
from galago.models.errors import ConfigError, GalagoError, HubError
from galago.models.hub import client, connection
from galago.models.hub.client import HubRepository

REPO = "acme/omni-GGUF"
INFO = f"/api/models/{REPO}/revision/main"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    from huggingface_hub import constants

    with running() as server:
        server.put(REPO, {"README.md": b"# omni", "omni-Q8_0.gguf": b"GGUF" * 100})
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(connection, "_MAX_CONNECT_ATTEMPTS", 1)
        yield server


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another server on this machine, which must receive no request."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    assert not asked


def tree(repository: HubRepository) -> str:
    return f"/api/models/{REPO}/tree/{repository.commit}"


# Redirects


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_loop_of_redirects_is_an_error(local: LocalHub, steps: int) -> None:
    paths = [INFO, *(f"/loop/{i}" for i in range(1, steps))]
    for here, there in zip(paths, [*paths[1:], INFO], strict=True):
        local.redirects[here] = there
    with pytest.raises(HubError, match="redirects .* more than 8 times"):
        client.fetch_repository(REPO)
    assert len(local.log) == connection.MAX_REDIRECTS + 1


def test_a_few_redirects_within_the_hub_are_followed(local: LocalHub) -> None:
    local.redirects |= {INFO: "/moved/1", "/moved/1": local.url + "/moved/2", "/moved/2": f"/api/models/{REPO}"}
    assert len(client.fetch_repository(REPO).files) == 2


@pytest.mark.parametrize(
    "target",
    [
        "http://ELSEWHERE/secret", "https://ELSEWHERE/secret", "http://localhost:9/", "http://169.254.169.254/latest",
        "https://169.254.169.254/latest", "https://10.0.0.1/", "https://192.168.1.1:8443/x", "https://172.16.9.9/",
        "https://[::1]/", "https://[fd00::1]/", "https://[fe80::1]/", "https://[::ffff:127.0.0.1]/",
        "https://[2002:7f00:1::]/", "https://0.0.0.0/", "https://100.64.0.1/", "https://224.0.0.1/",
        "https://localhost/", "http://93.184.216.34/", "ftp://93.184.216.34/x", "file:///etc/passwd",
        "http://user@ELSEWHERE/", "//ELSEWHERE/x", "https://",
    ],
)  # fmt: skip
def test_redirects_lead_to_no_private_address(local: LocalHub, elsewhere: str, target: str) -> None:
    local.redirects[INFO] = target.replace("ELSEWHERE", elsewhere)
    with pytest.raises(GalagoError) as refused:
        client.fetch_repository(REPO)
    assert isinstance(refused.value, HubError | ConfigError) and len(local.log) == 1


def test_the_files_of_a_repository_redirect_to_no_private_address(local: LocalHub, elsewhere: str) -> None:
    repository = client.fetch_repository(REPO)
    local.redirects[f"/{REPO}/resolve/{repository.commit}/README.md"] = f"http://{elsewhere}/x"
    with pytest.raises(HubError, match="not an https address, so it is not followed"):
        client.fetch_start(repository, "README.md", 4)


def test_the_next_page_leads_to_no_private_address(local: LocalHub, elsewhere: str) -> None:
    row = {"type": "file", "path": "a", "size": 1, "oid": "0" * 40}
    link = {"Link": f'<http://{elsewhere}/next>; rel="next"'}
    local.bodies[tree(client.fetch_repository(REPO))] = (link, iter([json.dumps([row]).encode()]))
    with pytest.raises(HubError, match="not followed"):
        client.fetch_repository(REPO)


@pytest.mark.parametrize(
    ("addresses", "public"),
    [
        (["93.184.216.34"], True), (["2606:4700::1111"], True), (["93.184.216.34", "10.0.0.1"], False),
        (["127.0.0.1"], False), (["fe80::1%eth0"], False),
    ],
)  # fmt: skip
def test_a_host_is_public_if_all_its_addresses_are(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], public: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(connection, "addresses_of", lambda _host: addresses)
    if public:
        connection.check_target("https://cdn.example/file")
    else:
        with pytest.raises(HubError, match="not a public address"):
            connection.check_target("https://cdn.example/file")
    connection.check_target("https://hub.example/other")  # its own host is trusted


@pytest.mark.parametrize(
    ("own", "target", "allowed"),
    [
        ("http://10.0.0.5:8080", "http://10.0.0.5:9000/x", True),
        ("http://10.0.0.5:8080", "http://10.0.0.6:8080/x", False),
        ("https://10.0.0.5", "http://10.0.0.5/x", False),
        ("http://127.0.0.1:8080", "http://localhost:8080/x", True),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8081/x", False),
        ("http://localhost:8080", "https://[::1]:8080/x", True),
    ],
)
def test_an_endpoint_may_redirect_to_itself(
    monkeypatch: pytest.MonkeyPatch, own: str, target: str, allowed: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", own)
    if allowed:
        connection.check_target(target)
    else:
        with pytest.raises(HubError, match="not followed"):
            connection.check_target(target)


# Metadata


@pytest.mark.parametrize("place", ["info", "tree", "search"])
def test_metadata_without_end_is_cut_off(local: LocalHub, place: str) -> None:
    paths = {"info": INFO, "tree": tree(client.fetch_repository(REPO)), "search": "/api/models"}
    sent = itertools.count()
    chunks = (b'[{"a": 1},' * 10_000 for _ in zip(range(20_000), sent, strict=False))  # 2 GB
    local.bodies[paths[place]] = ({}, chunks)
    tracemalloc.start()
    with pytest.raises(HubError, match=r"sends more than .* about"):
        client.search_models("a") if place == "search" else client.fetch_repository(REPO)
    assert tracemalloc.get_traced_memory()[1] < 4 * connection.MAX_METADATA_BYTES
    tracemalloc.stop()
    assert next(sent) < 2000


def test_the_pages_of_a_tree_count_together(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_METADATA_BYTES", 1000)
    local.put(REPO, {f"{i}.md": bytes([i]) for i in range(9)})
    with pytest.raises(HubError, match="sends more than"):
        client.fetch_repository(REPO)


def test_a_tree_of_too_many_files_is_an_error(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MAX_FILES", 3)
    local.put(REPO, {f"{i}.md": bytes([i]) for i in range(3)})
    assert len(client.fetch_repository(REPO).files) == 3
    local.put(REPO, {f"{i}.md": bytes([i]) for i in range(4)})
    with pytest.raises(HubError, match="more than 3 files"):
        client.fetch_repository(REPO)


def test_a_packed_answer_is_not_unpacked(local: LocalHub) -> None:
    import gzip

    bomb = gzip.compress(b"[" + b" " * (64 << 20) + b"]")
    local.bodies[INFO] = ({"Content-Encoding": "gzip"}, iter([bomb]))
    with pytest.raises(HubError, match="an unexpected answer"):
        client.fetch_repository(REPO)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"7", b'"text"', b"{}", b'{"sha": 5}', b"[" * 100_000, b"\xff", b'{"sha": "a"', b"<html>"],
)  # fmt: skip
def test_other_metadata_is_an_error(local: LocalHub, body: bytes) -> None:
    local.bodies[INFO] = ({}, iter([body]))
    with pytest.raises(GalagoError):
        client.fetch_repository(REPO)


@pytest.mark.parametrize(
    "row",
    [
        {}, {"type": "file"}, {"type": "file", "path": "a", "size": -1, "oid": "0"},
        {"type": "file", "path": "a", "size": "x", "oid": "0"}, {"type": "file", "path": "a", "size": 1, "lfs": 3},
        {"type": "file", "path": "a", "size": 1, "lfs": {}, "oid": []}, 5, None, "text", [[]],
    ],
)  # fmt: skip
def test_other_rows_of_a_tree_are_errors_or_become_names_that_are_checked(local: LocalHub, row: object) -> None:
    local.bodies[tree(client.fetch_repository(REPO))] = ({}, iter([json.dumps([row]).encode()]))
    try:
        (file,) = client.fetch_repository(REPO).files
    except HubError as error:
        assert "an unexpected answer" in error.message
    else:
        assert file.etag == "[]"  # refused by `checked_etag`


# Waits


def test_a_hub_that_asks_for_a_day_is_not_waited_for(local: LocalHub) -> None:
    local.api_faults = [Fault(status=429, headers={"Retry-After": "86400"})]
    with pytest.raises(HubError, match="asks to wait for 86400 s; try again after that time"):
        client.fetch_repository(REPO)
    assert len(local.log) == 1


@pytest.mark.parametrize("asked", ["121", "9" * 30, "\u0663"])
def test_no_request_to_wait_is_obeyed_beyond_the_limit(asked: str) -> None:
    after = float(asked)
    if after > connection.MAX_WAIT_SECONDS:
        with pytest.raises(HubError, match="asks to wait"):
            connection.retry_delay_seconds(0, after)


def test_a_wait_that_the_hub_asks_for_is_announced(capfd: pytest.CaptureFixture[str]) -> None:
    assert connection.retry_delay_seconds(0, 60.0) == 60.0
    assert "is busy and asks to wait for 60 s; waiting" in capfd.readouterr().err
    assert connection.retry_delay_seconds(3, None) <= 8
    assert not capfd.readouterr().err
