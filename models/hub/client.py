"""Reads from the Hugging Face Hub: metadata of repositories, and the bytes of their files.

Everything the Hub sends is untrusted: names and digests must be checked before they become paths
(`cache.checked_name`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..errors import HubError
from ..gguf.file_name import is_gguf
from ..log import log_once
from .connection import (
    MetadataReader,
    TransientHubError,
    check_repository_name,
    endpoint,
    open_url,
    range_start,
    with_retries,
)

_MAX_FILES = 50_000
_SHOWN_FILES = 6


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `etag` is the SHA-256 of its content, or the git blob id (40 digits) of small files."""

    name: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository at a revision. `commit` is what the revision pointed to on the Hub at `endpoint`."""

    name: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str
    gated: bool
    endpoint: str


@dataclass(frozen=True, slots=True)
class HubSearchResult:
    """A repository that matches a search."""

    name: str
    downloads: int
    licence: str
    gated: bool


def fetch_repository(name: str, revision: str = "main") -> HubRepository:
    """Fetches a repository's commit, list of files and licence, under its name in the Hub's own spelling.

    Raises `NotFound` or `HubError`.
    """
    check_repository_name(name)
    address = f"{endpoint()}/api/models/{name}"

    def ask() -> HubRepository:
        reader = MetadataReader(name, revision)
        info, _ = reader.get(f"{address}/revision/{quote(revision, safe='')}")
        commit = str(info["sha"])
        files = tuple(_files(reader, f"{address}/tree/{quote(commit, safe='')}", name))
        spelling, gated = _spelling(name, info), bool(info.get("gated"))
        return HubRepository(spelling, revision, commit, files, _licence(info), gated, endpoint())

    return with_retries(ask)


def _spelling(name: str, info: dict[str, Any]) -> str:
    """Returns a repository's name as the Hub spells it, which does not distinguish upper and lower case."""
    own = info.get("id")
    if not isinstance(own, str) or own == name:
        return name
    if own.lower() == name.lower():
        return own
    check_repository_name(own)
    log_once(f"the Hub calls {name} {own} now")
    return name


def _files(reader: MetadataReader, tree: str, name: str) -> Iterator[HubFile]:
    """Yields the files of a tree, page by page."""
    rows, following = reader.get(tree, {"recursive": "true", "expand": "false"})
    count = 0
    while rows:
        count += len(rows)
        if count > _MAX_FILES:
            raise HubError(f"{name} has more than {_MAX_FILES} files, too many for a model repository", "hub")
        yield from (_file(row) for row in rows if row["type"] == "file")
        rows, following = reader.get(following) if following is not None else ([], None)


def _file(row: dict[str, Any]) -> HubFile:
    size, large = int(row["size"]), row.get("lfs")
    if size < 0:
        raise ValueError(f"a file of {size} bytes")
    return HubFile(str(row["path"]), size, str(large["oid"] if large else row["oid"]))


def search_models(text: str, limit: int = 20) -> list[HubSearchResult]:
    """Finds repositories with GGUF files that match a text, most downloaded first. Raises `HubError`."""

    def ask() -> list[HubSearchResult]:
        params = {"search": text, "filter": "gguf", "sort": "downloads", "limit": limit}
        rows, _ = MetadataReader(text).get(f"{endpoint()}/api/models", params)
        return [
            HubSearchResult(str(row["id"]), int(row.get("downloads") or 0), _licence(row), bool(row.get("gated")))
            for row in rows[:limit]
        ]

    return with_retries(ask)


def fetch_start(repository: HubRepository, name: str, size: int) -> bytes:
    """Fetches the first bytes of a file, at most `size`."""
    data = bytearray()

    def ask() -> bytes:
        while len(data) < size:
            here = len(data)
            try:
                with stream_file(repository, name, here, size) as (first, chunks):
                    del data[first:]
                    for chunk in itertools.takewhile(lambda _: len(data) < size, chunks):
                        data.extend(chunk)
                broke = TransientHubError("it sent no data")
            except TransientHubError as error:
                broke = error
            if len(data) <= here:
                raise broke
        return bytes(data[:size])

    return with_retries(ask)


@contextlib.contextmanager
def stream_file(repository: HubRepository, name: str, start: int, end: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Streams the bytes of a file from `start` to `end`, with their actual start: 0 if the server ignores ranges.

    Raises `TransientHubError` if another attempt may succeed, otherwise `NotFound` or `HubError`.
    """
    url = f"{endpoint()}/{repository.name}/resolve/{repository.commit}/{quote(name)}"
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
    with open_url(url, repository.name, repository.revision, headers, None, _if_missing(repository, name)) as response:
        yield range_start(response), response.iter_raw()


def _if_missing(repository: HubRepository, name: str) -> str:
    """Returns the message for a file that the Hub lists but does not have."""
    others = [file.name for file in repository.files if is_gguf(file.name) and file.name != name]
    more = f" and {len(others) - _SHOWN_FILES} more" if len(others) > _SHOWN_FILES else ""
    choices = f"name another of its files ({', '.join(others[:_SHOWN_FILES])}{more})" if others else "try another one"
    return (
        f"{repository.endpoint} lists {name} in {repository.name}, but does not have it. The repository may be "
        f"changing: pull again later, or {choices}"
    )


def _licence(info: dict[str, Any]) -> str:
    tags = [tag.removeprefix("license:") for tag in map(str, info.get("tags") or ()) if tag.startswith("license:")]
    return tags[0] if tags else ""
