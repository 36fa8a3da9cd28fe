"""Brings files of a repository into the store: resumed, hashed while they are written, and published only when right.

A file grows beside its place under the store's lock; what is there after an interruption, of this process or an
earlier one, is hashed again and continued. Only contents that have the size and digest the Hub publishes get a name.
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
from . import client
from .cache import PARTIAL_SUFFIX, HubCache, checked_commit, checked_etag, checked_name, write_error
from .client import HubFile, HubRepository, TransientHubError

MAX_PARALLEL_DOWNLOADS = 3
"""Files transferred at once."""
MIN_FREE_BYTES = 64 << 20
"""Bytes that stay free on the disk."""
_CHUNK_BYTES = 1 << 20

DownloadProgress = Callable[[HubFile, int], None]
"""Called with a file and the number of its bytes that are here; from several threads."""


def download(
    repository: HubRepository, files: Sequence[HubFile], store: HubCache, report: DownloadProgress
) -> list[Path]:
    """Makes the files present in the store and returns their paths. Those that are there already are not touched.

    Raises `HubError` or `ConfigError`; what was transferred until then is kept for the next try. Where a name or digest
    is not what it should be, or the disk has too little room, nothing is written.
    """
    check_names(repository, files)
    _check_disk_space(repository, files, store)
    stop = threading.Event()
    with ThreadPoolExecutor(MAX_PARALLEL_DOWNLOADS, "galago-download") as pool:
        try:
            jobs = [pool.submit(_Transfer(repository, file, store, report, stop).run) for file in files]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            failed = [error for job in done if (error := job.exception()) is not None]
            if failed:
                raise failed[0]
        finally:
            stop.set()
    return [job.result() for job in jobs]


def check_names(repository: HubRepository, files: Sequence[HubFile]) -> None:
    """Refuses names and digests that could lead out of the store. Raises `HubError`."""
    checked_commit(repository.commit)
    for file in files:
        checked_name(file.name)
        checked_etag(file.etag)


def missing_files(repository: HubRepository, files: Sequence[HubFile], store: HubCache) -> list[HubFile]:
    """The files whose contents are not here."""
    return [f for f in files if not store.has(repository.name, repository.commit, f.name, f.etag, f.size)]


def file_digest(path: Path, etag: str, report: Callable[[int], None] = lambda _: None) -> str:
    """The digest of a file in the form of `etag`: SHA-256, or where that has 40 digits, a git blob id."""
    with path.open("rb") as file:
        digest = _new_digest(etag, os.fstat(file.fileno()).st_size)
        _hash_to_end(digest, file, report)
    return digest.hexdigest()


class _Transfer:
    """One file on its way."""

    def __init__(
        self, repository: HubRepository, file: HubFile, store: HubCache, report: DownloadProgress, stop: threading.Event
    ) -> None:
        self._repository = repository
        self._file = file
        self._store = store
        self._report = report
        self._stop = stop

    def run(self) -> Path:
        name, file, store = self._repository.name, self._file, self._store
        with store.staging(name, file.etag, self._check_stopped) as part:
            if missing_files(self._repository, [file], store):
                try:
                    self._fill(part)
                    part.replace(store.blob(name, file.etag))
                except OSError as error:
                    raise write_error(store.root, error) from error
            self._report(file, file.size)
            return store.publish(name, self._repository.commit, file.name, file.etag)

    def _fill(self, part: Path) -> None:
        """Fills the staging file with the right bytes, or raises. Contents that turn out wrong are thrown away."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(part, flags, 0o666), "r+b") as out:
            resumed = os.fstat(out.fileno()).st_size > 0
            if self._write(out) == self._file.etag:
                return
            out.truncate(0)
            if resumed and self._write(out) == self._file.etag:
                return
            out.truncate(0)
        part.unlink()
        raise HubError(
            f"{self._file.name} arrived damaged: its bytes are not those of the digest that {client.endpoint()} gives "
            f"({self._file.etag[:12]}...); nothing was kept, try again",
            "hub",
        )

    def _write(self, out: BinaryIO) -> str:
        """Goes on from what is there until all bytes are; returns their digest."""
        size = self._file.size
        digest = _new_digest(self._file.etag, size)
        if os.fstat(out.fileno()).st_size > size:
            out.truncate(0)
        out.seek(0)
        have = _hash_to_end(digest, out, lambda _: None)
        idle = 0
        while have < size:
            before = have
            try:
                with client.stream_file(self._repository, self._file.name, have, size) as (first, chunks):
                    if first != have:
                        out.seek(0)
                        out.truncate()
                        have, digest = 0, _new_digest(self._file.etag, size)
                        if first:
                            raise TransientHubError("it sent another part of the file than was asked for")
                    for chunk in chunks:
                        self._check_stopped()
                        have += len(chunk)
                        if have > size:
                            raise HubError(f"{self._file.name} is longer than the {size} bytes it should have", "hub")
                        out.write(chunk)
                        digest.update(chunk)
                        self._report(self._file, have)
                if have < size:
                    raise TransientHubError(f"it ended after {have} of {size} bytes")
            except TransientHubError as error:
                out.flush()
                idle = 0 if have > before else idle + 1
                if idle == client.MAX_ATTEMPTS:
                    raise HubError(
                        f"{self._file.name} stopped at {have} of {size} bytes ({error}); what is here is kept, "
                        "pull again to go on",
                        "hub",
                    ) from error
                self._stop.wait(client.retry_delay_seconds(idle, error.wait))
                self._check_stopped()
        out.flush()
        os.fsync(out.fileno())
        return digest.hexdigest()

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise HubError("stopped; what is here is kept, pull again to go on", "hub")


def _check_disk_space(repository: HubRepository, files: Sequence[HubFile], store: HubCache) -> None:
    """Refuses to begin what the disk cannot hold."""
    needed = 0
    for file in missing_files(repository, files, store):
        part = store.blob(repository.name, file.etag).with_name(file.etag + PARTIAL_SUFFIX)
        needed += file.size - min(part.stat().st_size if part.exists() else 0, file.size)
    at = store.root
    while not at.exists() and at != at.parent:
        at = at.parent
    free = shutil.disk_usage(at).free
    if needed and needed + MIN_FREE_BYTES > free:
        raise ConfigError(
            f"{repository.name} needs {units.format_bytes(needed)} more, and the disk of {store.root} has "
            f"{units.format_bytes(free)} free; free some, or set HF_HOME to a place with more",
            "cache",
        )


def _new_digest(etag: str, size: int) -> hashlib._Hash:
    if len(etag) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _hash_to_end(digest: hashlib._Hash, file: BinaryIO, report: Callable[[int], None]) -> int:
    """Hashes a file from where it is to its end; returns how many bytes that were."""
    done = 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        done += len(chunk)
        report(done)
    return done
