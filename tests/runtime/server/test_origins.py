"""Pages of other programs, such as Obsidian's or a browser extension's, that may send requests and read the answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fakes.server import Server, serving
from galago.models.errors import ConfigError
from galago.runtime.config import ServerConfig

KEY = {"Authorization": "Bearer k"}
ALLOWED = ("app://obsidian.md", "http://localhost:3000", "tauri://", "chrome-extension://abc")
LET_IN = ("app://obsidian.md", "http://localhost:3000", "tauri://localhost", "tauri://other", "chrome-extension://abc")
REFUSED = (
    "app://obsidian.md.evil",
    "app://other",
    "http://localhost:3001",
    "https://localhost:3000",
    "chrome-extension://abcd",
    "xtauri://localhost",
    "null",
    "",
)
ASK = {"messages": [{"role": "user", "content": "Opposite of big?"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def open_server() -> Iterator[Server]:
    flags = [flag for origin in ALLOWED for flag in ("--allow-origin", origin)]
    with serving("--threads", "1", *flags, GALAGO_API_KEY="k") as running:
        running.wait_until_ready()
        yield running


def preflight(server: Server, origin: str, method: str = "POST", **headers: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method} | headers
    return httpx.options(f"{server.url}/v1/chat/completions", headers=asked)


@pytest.mark.parametrize("origin", LET_IN)
def test_a_page_of_an_allowed_origin_reads_answers_streams_and_errors(open_server: Server, origin: str) -> None:
    headers = KEY | {"Origin": origin}
    whole = open_server.post(ASK | {"frobnicate": 1}, headers=headers)
    streamed = open_server.post(ASK | {"stream": True}, headers=headers)
    wrong = open_server.post({"messages": 5}, headers=headers)
    no_key = open_server.post(ASK, headers={"Origin": origin})
    unknown = httpx.get(f"{open_server.url}/nothing", headers=headers)
    answers = (whole, streamed, wrong, no_key, unknown)
    assert [answer.status_code for answer in answers] == [200, 200, 400, 401, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers
    assert whole.headers["x-galago-warnings"]
    assert "x-galago-warnings" in whole.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", LET_IN)
def test_a_preflight_request_needs_no_key(open_server: Server, origin: str) -> None:
    asked = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
    answer = preflight(open_server, origin, **asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))


@pytest.mark.parametrize("origin", REFUSED)
def test_a_page_of_another_origin_gets_an_error_that_names_the_option(open_server: Server, origin: str) -> None:
    for answer in (preflight(open_server, origin), open_server.post(ASK, headers=KEY | {"Origin": origin})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "--allow-origin" in answer.json()["error"]["message"]
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_programs_without_an_origin_get_no_headers_for_pages(open_server: Server) -> None:
    answer = open_server.post(ASK, headers=KEY)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_allowed_origin_does_not_open_other_host_names(open_server: Server) -> None:
    headers = KEY | {"Origin": LET_IN[0], "Host": "evil.example"}
    assert httpx.get(f"{open_server.url}/v1/models", headers=headers).status_code == 403


def test_an_allowed_page_may_open_a_websocket(open_server: Server) -> None:
    address = f"ws{open_server.url.removeprefix('http')}/v1/responses"
    with connect(address, additional_headers=KEY | {"Origin": LET_IN[0]}):
        pass
    with pytest.raises(InvalidStatus), connect(address, additional_headers=KEY | {"Origin": REFUSED[0]}):
        pass


@pytest.mark.parametrize(
    "origin", ["*", "null", "obsidian.md", "http://", "https://", "http://a.example/page", "app:obsidian.md", "", "://"]
)
def test_what_is_no_origin_or_means_every_page_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ConfigError) as error:
        ServerConfig(allowed_origins=(origin,))
    assert error.value.param == "allow-origin"


def test_the_command_reports_a_wrong_origin_in_one_line() -> None:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--allow-origin", "*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "app://obsidian.md" in done.stderr and "Traceback" not in done.stderr
