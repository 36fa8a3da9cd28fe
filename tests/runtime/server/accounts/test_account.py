"""A key's limits over one minute, and its file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from galago.models.errors import ConfigError, RateLimited, Unauthorized
from galago.runtime.server.accounts.account import Account, KeyLimits
from galago.runtime.server.accounts.keys import ApiKeys


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(account: Account, tokens: int = 0) -> int:
    """The seconds to wait for which the account refuses a request."""
    with pytest.raises(RateLimited) as error:
        account.admit("m", tokens)
    return error.value.retry_after_seconds


def test_requests_are_limited_in_any_minute_and_the_wait_is_told() -> None:
    clock = Clock()
    account = Account("a", KeyLimits(requests_per_minute=2), clock=clock)
    account.admit("m", 0)
    clock.now += 30.5
    account.admit("m", 0)
    assert refused(account) == 30
    clock.now += 29.5
    account.admit("m", 0)
    assert refused(account) == 31
    assert account.usage()["m"].requests == 3


def test_tokens_in_use_are_reserved_so_that_requests_at_once_cannot_exceed_the_limit() -> None:
    clock = Clock()
    account = Account("a", KeyLimits(tokens_per_minute=100), clock=clock)
    account.admit("m", 60)
    account.admit("m", 60)
    assert refused(account, 60) == 1
    account.use("m", 10, 20)
    account.reserve(-60)
    account.admit("m", 5)
    account.reserve(-65)
    account.use("m", 0, 80)
    clock.now += 10
    assert refused(account) == 50
    clock.now += 50
    account.admit("m", 0)


def test_tokens_leave_the_minute_one_after_another() -> None:
    clock = Clock()
    account = Account("a", KeyLimits(tokens_per_minute=100), clock=clock)
    for _ in range(4):
        account.use("m", 20, 20)
        clock.now += 5
    assert refused(account) == 45  # until two of the four have left
    clock.now += 45
    account.admit("m", 0)


def keys(tmp_path: Path, text: str, owner: str | None = None) -> ApiKeys:
    (tmp_path / "keys.toml").write_text(text)
    return ApiKeys(tmp_path / "keys.toml", owner)


def bearer(key: str) -> Headers:
    return Headers({"authorization": f"Bearer {key}"})


def test_keys_are_found_as_given_and_by_digest(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"second").hexdigest()
    found = keys(tmp_path, f'[a]\nkey = "first"\nmodels = ["m"]\n[b]\nkey_sha256 = "{digest}"\nadmin = true\n', "third")
    assert [found.account_for(bearer(key)).name for key in ("first", "second", "third")] == ["a", "b", "owner"]
    assert found.account_for(Headers({"x-api-key": "second"})).is_admin
    for wrong in ("", "firs", "first ", digest, "a"):
        if wrong.strip() != "first":
            with pytest.raises(Unauthorized):
                found.account_for(bearer(wrong))


def test_a_reload_keeps_usage_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    found = keys(tmp_path, '[a]\nkey = "first"\nrequests_per_minute = 1\n[b]\nkey = "second"\n')
    found.account_for(bearer("first")).admit("m", 0)
    (tmp_path / "keys.toml").write_text('[a]\nkey = "new"\nrequests_per_minute = 2\n[c]\nkeys = 3\n')
    with pytest.raises(ConfigError, match=r"line 5: c\.keys: is not known; use key, "):
        found.reload()
    assert found.account_for(bearer("first")).limits.requests_per_minute == 1
    (tmp_path / "keys.toml").write_text('[a]\nkey = "new"\nrequests_per_minute = 2\n')
    found.reload()
    account = found.account_for(bearer("new"))
    assert account.usage()["m"].requests == 1
    account.admit("m", 0)
    refused(account)
    for gone in ("first", "second"):
        with pytest.raises(Unauthorized):
            found.account_for(bearer(gone))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no keys"),
        ("[a", "is not TOML: .*line 1"),
        ('a = "x"', r"line 1: a: is not a table"),
        ("# note\n[a]\nadmin = true", r"line 2: a: needs either key or key_sha256"),
        ('[a]\nkey = "x"\nkey_sha256 = "y"', r"line 3: a.key_sha256: must be a SHA-256 digest"),
        ('[a]\nkey = ""', r"line 2: a.key: must be a text"),
        ('[a]\nkey = "x"\nrequests_per_minute = 0', r"line 3: a.requests_per_minute: must be a whole number"),
        ('[a]\nkey = "x"\ntokens_per_minute = true', r"line 3: a.tokens_per_minute: must be a whole number"),
        ('[a]\nkey = "x"\nmodels = []', r"line 3: a.models: must be a list"),
        ('[a]\nkey = "x"\nadmin = "yes"', r"line 3: a.admin: must be true or false"),
        ('[a]\nkey = "x"\n\n[b]\nkey = "x"', r"line 4: b: has the same key as a"),
        ('[owner]\nkey = "x"', r"line 1: owner: is the name of the key that"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        keys(tmp_path, text, "owner's key")
    assert error.value.param == "api-keys-file" and str(tmp_path / "keys.toml") in error.value.message
