"""The API keys that the server accepts: those of a file, each with a name and limits, and the owner's key.

A file has a table for each key, with the key's name:

    [alice]
    key = "..."                     # or key_sha256 = "...", its SHA-256 digest in hexadecimal digits
    requests_per_minute = 60
    tokens_per_minute = 20000
    models = ["builtin"]            # all models, if it is left out
    admin = true                    # sees the usage of all keys

Keys are kept as digests, and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from starlette.datastructures import Headers

from ....models.errors import ConfigError, Unauthorized
from ....models.toml_lines import line_of, read_toml
from .account import Account, KeyLimits

OWNER = "owner"
"""The name of the key that `--api-key-file`, `GALAGO_API_KEY` or `--api-key` gives. It has no limits."""

_OPTION = "api-keys-file"
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_FIELDS = ("key", "key_sha256", "requests_per_minute", "tokens_per_minute", "models", "admin")
_MAX_LIMIT = 10**12


@dataclass(frozen=True, slots=True)
class _KeyEntry:
    """One key of a file."""

    name: str
    digest: bytes
    limits: KeyLimits
    is_admin: bool


class ApiKeys:
    """Raises `ConfigError`, which names the file, the line and the key, if the file has a mistake."""

    def __init__(self, file: Path | None, owner_key: str | None) -> None:
        self._file = file
        self._owner_digest = None if owner_key is None else _digest(owner_key.encode())
        self._keys: list[tuple[bytes, Account]] = []
        self.reload()

    def reload(self) -> None:
        """Reads the file again. Keys with the same name keep their usage. After an error, all stay as they were."""
        entries = [] if self._file is None else list(_entries(self._file, self._owner_digest is not None))
        accounts = {account.name: account for _, account in self._keys}
        keys = []
        if self._owner_digest is not None:
            keys.append((self._owner_digest, accounts.get(OWNER) or Account(OWNER, is_admin=True)))
        for entry in entries:
            account = accounts.get(entry.name) or Account(entry.name)
            account.limits, account.is_admin = entry.limits, entry.is_admin
            keys.append((entry.digest, account))
        self._keys = keys

    def account_for(self, headers: Headers) -> Account:
        """Returns the account of the key in the header of OpenAI's clients, or in that of Anthropic's.

        Raises `Unauthorized`.
        """
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = [key.strip()] if scheme.lower() == "bearer" else []
        given += headers.getlist("x-api-key")
        matched = None
        for digest in [_digest(key.encode("latin-1", "replace")) for key in given]:
            for known, account in self._keys:  # all of them, so that the time says nothing
                if hmac.compare_digest(digest, known):
                    matched = account
        if matched is None:
            raise Unauthorized(
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
        return matched

    def named(self, name: str) -> Account | None:
        return next((account for _, account in self._keys if account.name == name), None)

    def accounts(self) -> list[Account]:
        return [account for _, account in self._keys]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _entries(file: Path, has_owner: bool) -> Iterator[_KeyEntry]:
    content, text = read_toml(file, _OPTION)

    def fail(problem: str, *keys: str) -> NoReturn:
        raise ConfigError(f"{file}, line {line_of(text, keys)}: {'.'.join(keys)}: {problem}", _OPTION)

    if not content:
        raise ConfigError(f'{file} has no keys; give each a table, such as [alice] with key = "..."', _OPTION)
    names: dict[bytes, str] = {}
    for name, table in content.items():
        if not isinstance(table, dict):
            fail(f'is not a table; write [{name}] and below it key = "..."', name)
        if has_owner and name == OWNER:
            fail("is the name of the key that GALAGO_API_KEY or --api-key-file gives; use another name", name)
        if not name.isprintable():
            fail("the name has unprintable characters", name)
        for field, value in table.items():
            problem = _problem(field, value)
            if problem:
                fail(problem, name, field)
        if ("key" in table) == ("key_sha256" in table):
            fail("needs either key or key_sha256", name)
        entry = _entry(name, table)
        if entry.digest in names:
            fail(f"has the same key as {names[entry.digest]}", name)
        names[entry.digest] = name
        yield entry


def _problem(field: str, value: Any) -> str:
    """What is wrong with a field of a key's table; empty if nothing is."""
    match field:
        case "key":
            good = isinstance(value, str) and value != "" and value.isascii() and value.isprintable()
            return "" if good else "must be a text of printable ASCII characters"
        case "key_sha256":
            good = isinstance(value, str) and _DIGEST.fullmatch(value) is not None
            return "" if good else "must be a SHA-256 digest, in 64 hexadecimal digits"
        case "requests_per_minute" | "tokens_per_minute":
            good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_LIMIT
            return "" if good else "must be a whole number of at least 1; leave it out for no limit"
        case "models":
            good = isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)
            return "" if good else "must be a list of models' names; leave it out to allow all"
        case "admin":
            return "" if isinstance(value, bool) else "must be true or false"
    return f"is not known; use {', '.join(_FIELDS)}"


def _entry(name: str, table: Mapping[str, Any]) -> _KeyEntry:
    digest = _digest(table["key"].encode()) if "key" in table else bytes.fromhex(table["key_sha256"])
    models = table.get("models")
    limits = KeyLimits(
        table.get("requests_per_minute"), table.get("tokens_per_minute"), None if models is None else tuple(models)
    )
    return _KeyEntry(name, digest, limits, table.get("admin", False))
