"""Which proxy a request to the Hub takes, and what happens to a token that the Hub refuses."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub import LocalHub, running
from fakes.layouts import tiny_file
from galago.models import log
from galago.models.errors import ConfigError, GalagoError, HubError, NotFound
from galago.models.hub import client, connection, credentials, mirrors, pull
from galago.models.hub.proxies import proxy_for
from galago.models.registry.name import parse_ref
from galago.runtime.cli.main import main

REPO = "acme/omni-GGUF"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
DOWN = "http://127.0.0.1:9"


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    from huggingface_hub import constants

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with running() as server:
        server.put(REPO, {"README.md": b"# omni"})
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(connection, "_MAX_CONNECT_ATTEMPTS", 1)
        monkeypatch.setattr(credentials, "_not_sent", set())
        monkeypatch.setattr(log, "_logged", set())
        yield server


# Proxies


@pytest.mark.parametrize(
    ("settings", "url", "expected"),
    [
        ({}, "https://hub.example/x", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://hub.example/x", "http://p:1 HTTPS_PROXY"),
        ({"https_proxy": "http://p:1"}, "https://hub.example/x", "http://p:1 HTTPS_PROXY"),
        ({"HTTPS_PROXY": "p:1"}, "https://hub.example/x", "http://p:1 HTTPS_PROXY"),
        ({"HTTP_PROXY": "http://p:1"}, "https://hub.example/x", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://hub.example/x", "http://p:1 HTTP_PROXY"),
        ({"ALL_PROXY": "socks5://p:1"}, "https://hub.example/x", "socks5://p:1 ALL_PROXY"),
        ({"all_proxy": "socks5://p:1", "https_proxy": "http://q"}, "https://hub.example/x", "http://q HTTPS_PROXY"),
        ({"ALL_PROXY": "socks://p:1", "HTTPS_PROXY": ""}, "https://hub.example/x", "socks://p:1 ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://hub.example/x", None),
        ({"ALL_PROXY": "http://p:1", "no_proxy": "other, hub.example"}, "https://hub.example/x", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "example"}, "https://hub.example/x", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": ".hub.example"}, "https://cdn.hub.example/x", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*.hub.example"}, "https://cdn.hub.example/x", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "hub.example:8443"}, "https://hub.example:8443/x", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "b.example"}, "https://hub.example/x", "http://p:1 ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:8080/x", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3/x", "http://p:1 ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "[::1]"}, "http://[::1]:80/x", None),
    ],
)  # fmt: skip
def test_a_request_takes_the_proxy_of_the_environment(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], url: str, expected: str | None
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(url)
    assert (f"{proxy.url} {proxy.source}" if proxy else None) == expected


def test_the_hub_is_reached_through_a_proxy(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HTTP_PROXY", local.url)
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")  # of an unknown kind, but not needed
    assert client.search_models("omni")[0].name == REPO


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HTTP_PROXY", DOWN, r"the proxy http://127.0.0.1:9 \(HTTP_PROXY\) does not answer: .*unset HTTP_PROXY and"),
        ("http_proxy", DOWN, r"the proxy http://127.0.0.1:9 \(HTTP_PROXY\) does not answer"),
        ("ALL_PROXY", DOWN, r"the proxy http://127.0.0.1:9 \(ALL_PROXY\) does not answer"),
        ("all_proxy", "127.0.0.1:9", r"the proxy http://127.0.0.1:9 \(ALL_PROXY\) does not answer"),
        ("HTTP_PROXY", "http://me:secret@127.0.0.1:9", r"^the proxy http://127.0.0.1:9 \(HTTP_PROXY\) does not"),
        ("ALL_PROXY", "socks://127.0.0.1:9", r"the proxy socks://127.0.0.1:9 \(ALL_PROXY\) is of an unknown kind"),
        ("all_proxy", "socks4://127.0.0.1:9", r"begin it with http://, https:// or socks5://"),
        ("HTTP_PROXY", "http://p:port", r"the proxy http://p:port \(HTTP_PROXY\) is not a valid URL"),
    ],
)  # fmt: skip
def test_a_proxy_that_does_not_work_is_named(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(GalagoError, match=message) as raised:
        client.fetch_repository(REPO)
    assert isinstance(raised.value, HubError | ConfigError) and "secret" not in raised.value.message
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert client.fetch_repository(REPO)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_names_the_package_that_it_needs(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:1080")
    with pytest.raises(ConfigError, match=rf"the proxy {scheme}://127.*\(ALL_PROXY\) .*pip install 'galago\[socks\]'"):
        client.fetch_repository(REPO)


def test_a_proxy_that_wants_a_password_is_named(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    local.refusals = {None: (407, {})}
    monkeypatch.setenv("HTTP_PROXY", local.url)
    with pytest.raises(ConfigError, match=r"\(HTTP_PROXY\) asks for a name and password: write them as http://NAME:"):
        client.fetch_repository(REPO)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (407, r"\(HTTPS_PROXY\) asks for a name and password"),
        (503, r"\(HTTPS_PROXY\) does not reach https://hub.example"),
    ],
)
def test_a_proxy_that_does_not_reach_the_hub_is_named(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    local.refusals = {None: (status, {})}
    monkeypatch.setenv("HTTPS_PROXY", local.url)
    with pytest.raises(GalagoError, match=message):
        client.fetch_repository(REPO)


# Tokens

INVALID = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
EXPIRED = (401, {"X-Error-Message": 'User Access Token "old" is expired.'})
NO_RIGHT = (403, {"X-Error-Message": "Your token lacks the right"})


@pytest.mark.parametrize("refusal", [INVALID, EXPIRED, NO_RIGHT, (401, {}), (401, {"X-Error-Code": "RepoNotFound"})])
def test_a_public_model_needs_no_token_that_works(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    refusal: tuple[int, dict[str, str]],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    local.refusals = {"Bearer hf_old": refusal}
    assert len(client.fetch_repository(REPO).files) == 1
    warning = capfd.readouterr().err
    assert "the Hub refused your token (of HF_TOKEN or `hf auth login`)" in warning and "continuing without" in warning
    assert refusal[1].get("X-Error-Message", "").rstrip(".") in warning and "hf_old" not in warning
    requests = len(local.log)
    assert client.search_models("omni") and client.fetch_repository(REPO)
    assert len(local.log) == requests + 3  # the token is not sent again
    with pytest.raises(NotFound, match="If it is private, replace your token .*, which was refused"):
        client.fetch_repository("acme/private")


def test_a_refused_token_is_named_where_the_repository_needs_one(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.repos[REPO].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    local.refusals = {"Bearer hf_old": EXPIRED}
    with pytest.raises(HubError, match=rf'refused your token .*"old" is expired\), and without it .* {REPO}\. Check'):
        client.fetch_repository(REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(NotFound, match="If it is private, run `hf auth login` or set HF_TOKEN"):
        client.fetch_repository(REPO)


@pytest.mark.parametrize("token", ["{}\n", "{}\r\n", " {} ", "\n{}"])
def test_spaces_and_line_ends_around_a_token_do_no_harm(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    local.repos[REPO].private = True
    monkeypatch.setenv("HF_TOKEN", token.format(local.token))
    assert client.fetch_repository(REPO)


@pytest.mark.parametrize("token", ["hf_schlüssel", "hf_a b", "“hf_a”", "hf_a\tb", "hf_\x1b[2J"])
def test_a_token_that_cannot_be_one_is_not_sent(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert client.fetch_repository(REPO)
    warning = capfd.readouterr().err
    assert "is not sent: it contains characters that no token has" in warning and token not in warning


def test_a_gated_repository_says_whose_access_is_missing(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    local.repos[REPO].gated = True
    repository = client.fetch_repository(REPO)
    with pytest.raises(HubError, match=f"accept its terms at {local.url}/{REPO}, then run `hf auth login` or set HF_"):
        client.fetch_start(repository, "README.md", 4)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(HubError, match="is gated: accept its terms at .* with the account of your token .*approve"):
        client.fetch_start(repository, "README.md", 4)


@pytest.mark.parametrize("text", ["omni", REPO, f"hf.co/{REPO}", f"https://huggingface.co/{REPO}/tree/main"])
def test_a_repository_is_found_by_its_name_and_its_address(
    local: LocalHub, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert main(["search", text, "--hub"]) == 0
    assert f"hf:{REPO}  7 downloads" in capsys.readouterr().out


# Mirrors


def test_every_page_is_asked_of_the_mirror_in_use(local: LocalHub) -> None:
    commit = local.put(REPO, {f"{i}.md": bytes([i]) for i in range(5)})
    local.next_page_host = "https://huggingface.co"
    assert len(client.fetch_repository(REPO).files) == 5
    assert [path for _, path, _ in local.log].count(f"/api/models/{REPO}/tree/{commit}") == 3


@pytest.mark.parametrize("is_default", [True, False])
def test_the_hub_that_answered_is_named_if_it_is_not_the_usual_one(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    is_default: bool,
) -> None:  # fmt: skip
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if is_default:
        monkeypatch.setattr(mirrors, "DEFAULT_ENDPOINT", local.url)
    local.put(REPO, {"omni-Q8_0.gguf": tiny_file("omni-Q8_0.gguf")})
    assert main(["pull", REPO]) == 0 and main(["show", REPO]) == 0 and main(["search", "omni", "--hub"]) == 0
    output = capsys.readouterr()
    assert (f", from {local.url}\n" in output.out) is not is_default
    assert (re.search(rf"hub +{local.url}\n", output.out) is not None) is not is_default
    assert (f"from {local.url}:" in output.err) is not is_default


def test_what_comes_from_the_usual_hub_again_is_no_longer_of_a_mirror(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    mirrors.remember(REPO, "c" * 40, "https://mirror.example")
    mirrors.remember(REPO, "d" * 40, "https://mirror.example")
    mirrors.remember(REPO, "c" * 40, "https://huggingface.co")
    assert [mirrors.source_of(REPO, c * 40) for c in "cde"] == ["", "https://mirror.example", ""]


def test_a_path_that_may_mean_a_file_on_the_hub_says_how_to_name_it() -> None:
    with pytest.raises(NotFound, match="write: galago pull acme/tiny:sub/tiny-Q8_0.gguf"):
        pull.plan(parse_ref("acme/tiny/sub/tiny-Q8_0.gguf"))
    for path in ("./acme/tiny/x.gguf", "/acme/tiny/x.gguf", "~/acme/tiny/x.gguf", "x.gguf"):
        with pytest.raises(NotFound, match="there is nothing to pull"):
            pull.plan(parse_ref(path))
