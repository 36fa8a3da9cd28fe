"""Downloads files of a repository into the cache.

Each file grows under a lock, next to its final place, and is hashed while it is written. After an interruption, of
this process or an earlier one, the part on disk is hashed and continued. A file becomes visible in the cache only if
its size and digest are those that the Hub publishes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

from .. import units
from ..errors import ConfigError, HubError
from ..regular_file import open_regular
from . import client, connection
from .cache import PARTIAL_SUFFIX, HubCache, checked_commit, checked_etag, checked_name, write_error
from .client import HubFile, HubRepository
from .connection import TransientHubError

MAX_PARALLEL_DOWNLOADS = 3
MIN_FREE_BYTES = 64 << 20
"""Bytes that a download leaves free on the disk."""
_CHUNK_BYTES = 1 << 20

DownloadProgress = Callable[[HubFile, int], None]
"""Called with a file and the number of its bytes that are on disk, from several threads."""


def download(
    repository: HubRepository, files: Sequence[HubFile], cache: HubCache, progress: DownloadProgress
) -> list[Path]:
    """Downloads the files that are not in the cache yet, and returns the paths of all.

    Raises `HubError` or `ConfigError`. Bytes transferred before the error are kept for the next attempt. Writes nothing
    if a name or digest is invalid, or the disk has too little room.
    """
    check_names(repository, files)
    _check_disk_space(repository, files, cache)
    stop = threading.Event()
    with ThreadPoolExecutor(MAX_PARALLEL_DOWNLOADS, "galago-download") as pool:
        try:
            jobs = [pool.submit(_Transfer(repository, file, cache, progress, stop).run) for file in files]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            errors = [error for job in done if (error := job.exception()) is not None]
            if errors:
                raise errors[0]
        finally:
            stop.set()
    return [job.result() for job in jobs]


def check_names(repository: HubRepository, files: Sequence[HubFile]) -> None:
    """Raises `HubError` for names and digests that could lead out of the cache."""
    checked_commit(repository.commit)
    for file in files:
        checked_name(file.name)
        checked_etag(file.etag)


def missing_files(repository: HubRepository, files: Sequence[HubFile], cache: HubCache) -> list[HubFile]:
    """Returns the files whose content is not in the cache."""
    return [f for f in files if not cache.has(repository.name, repository.commit, f.name, f.etag, f.size)]


def file_digest(path: Path, etag: str, progress: Callable[[int], None] = lambda _: None) -> str:
    """Returns the digest of a file in the form of `etag`: a SHA-256, or a git blob id if `etag` has 40 digits."""
    with open_regular(path) as file:
        digest = _new_digest(etag, os.fstat(file.fileno()).st_size)
        _hash_to_end(digest, file, progress)
    return digest.hexdigest()


class _Transfer:
    """The download of one file."""

    def __init__(
        self,
        repository: HubRepository,
        file: HubFile,
        cache: HubCache,
        progress: DownloadProgress,
        stop: threading.Event,
    ) -> None:
        self._repository = repository
        self._file = file
        self._cache = cache
        self._progress = progress
        self._stop = stop

    def run(self) -> Path:
        name, file, cache = self._repository.name, self._file, self._cache
        with cache.partial_file(name, file.etag, self._check_stopped) as partial:
            if missing_files(self._repository, [file], cache):
                try:
                    self._complete(partial)
                    partial.replace(cache.blob_path(name, file.etag))
                except OSError as error:
                    raise write_error(cache.root, error) from error
            self._progress(file, file.size)
            return cache.add_to_snapshot(name, self._repository.commit, file.name, file.etag)

    def _complete(self, partial: Path) -> None:
        """Downloads the rest of the partial file. Raises `HubError` and discards it if its digest is wrong."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(partial, flags, 0o666), "r+b") as out:
            resumed = os.fstat(out.fileno()).st_size > 0
            if self._write(out) == self._file.etag:
                return
            out.truncate(0)
            if resumed and self._write(out) == self._file.etag:
                return
            out.truncate(0)
        partial.unlink()
        raise HubError(
            f"{self._file.name} arrived damaged: its digest is not the one that {connection.endpoint()} publishes "
            f"({self._file.etag[:12]}...). The file was discarded; pull again",
            "hub",
        )

    def _write(self, out: BinaryIO) -> str:
        """Appends the missing bytes to the file and returns the digest of all."""
        size = self._file.size
        digest = _new_digest(self._file.etag, size)
        if os.fstat(out.fileno()).st_size > size:
            out.truncate(0)
        out.seek(0)
        have = _hash_to_end(digest, out, lambda _: None)
        failures = 0
        while have < size:
            before = have
            try:
                with client.stream_file(self._repository, self._file.name, have, size) as (start, chunks):
                    if start != have:
                        out.seek(0)
                        out.truncate()
                        have, digest = 0, _new_digest(self._file.etag, size)
                        if start:
                            raise TransientHubError("it sent another range of the file than requested")
                    for chunk in chunks:
                        self._check_stopped()
                        have += len(chunk)
                        if have > size:
                            raise HubError(f"{self._file.name} is longer than the {size} bytes it should have", "hub")
                        out.write(chunk)
                        digest.update(chunk)
                        self._progress(self._file, have)
                if have < size:
                    raise TransientHubError(f"it ended after {have} of {size} bytes")
            except TransientHubError as error:
                out.flush()
                failures = 0 if have > before else failures + 1
                if failures == connection.MAX_ATTEMPTS:
                    raise HubError(
                        f"the download of {self._file.name} stopped at {have} of {size} bytes ({error}). These bytes "
                        "are kept; pull again to continue",
                        "hub",
                    ) from error
                self._stop.wait(connection.retry_delay_seconds(failures, error.wait_seconds))
                self._check_stopped()
        out.flush()
        os.fsync(out.fileno())
        return digest.hexdigest()

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise HubError("the download was stopped. What was downloaded is kept; pull again to continue", "hub")


def _check_disk_space(repository: HubRepository, files: Sequence[HubFile], cache: HubCache) -> None:
    """Raises `ConfigError` if the disk cannot hold the missing files."""
    needed = 0
    for file in missing_files(repository, files, cache):
        partial = cache.blob_path(repository.name, file.etag).with_name(file.etag + PARTIAL_SUFFIX)
        needed += file.size - min(partial.stat().st_size if partial.exists() else 0, file.size)
    folder = cache.root
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and needed + MIN_FREE_BYTES > free:
        raise ConfigError(
            f"{repository.name} needs {units.format_bytes(needed)} more, and the disk of {cache.root} has "
            f"{units.format_bytes(free)} free. Free some space, or set HF_HOME to a folder on a larger disk",
            "cache",
        )


def _new_digest(etag: str, size: int) -> hashlib._Hash:
    if len(etag) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _hash_to_end(digest: hashlib._Hash, file: BinaryIO, progress: Callable[[int], None]) -> int:
    """Hashes a file from its current position to its end, and returns the number of bytes."""
    done = 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        done += len(chunk)
        progress(done)
    return done
