"""The Hub's cache on this disk, in the layout that huggingface-hub and others share, so that no file is stored twice.

    models--OWNER--REPO/blobs/ETAG              contents; ETAG is their SHA-256, of files small enough for git its SHA-1
    models--OWNER--REPO/snapshots/COMMIT/PATH   links to blobs, by the names they have in a commit
    models--OWNER--REPO/refs/REVISION           the commit that a branch or tag stands for
    .locks/models--OWNER--REPO/ETAG.lock        held while a blob is made; the same lock that huggingface-hub takes

Names come from the Hub, which may be hostile: whatever would leave the cache is refused, and no link in it is followed
to write. Knows nothing of the network or of what files hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from ..errors import ConfigError, HubError

PARTIAL_SUFFIX = ".galago-part"

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # control characters, and what Windows gives a meaning


def checked_name(name: str) -> str:
    """The name of a file or revision as the Hub gives it. Raises `HubError` where it could lead out of its folder."""
    parts = name.split("/")
    if _FORBIDDEN.search(name) or any(p in ("", ".", "..") or len(p.encode("utf-8", "replace")) > 255 for p in parts):
        raise HubError(f"the Hub names a file {name!r:.100}, which has no place in the cache; nothing was downloaded")
    return name


def checked_commit(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"the Hub names a commit {commit!r:.100}, which is none; nothing was downloaded")
    return commit


def checked_etag(etag: str) -> str:
    if not _ETAG.fullmatch(etag):
        raise HubError(f"the Hub gives a file the digest {etag!r:.100}, which is none; nothing was downloaded")
    return etag


@dataclass(frozen=True, slots=True)
class HubCache:
    """The cache under a folder, which need not exist yet."""

    root: Path

    def repositories(self) -> Iterator[str]:
        """OWNER/REPO of every model repository that has a folder here."""
        for folder in sorted(self.root.glob("models--*")):
            owner, _, name = folder.name.removeprefix("models--").partition("--")
            if owner and name and folder.is_dir():
                yield f"{owner}/{name}"

    def folder(self, repository: str) -> Path:
        return self.root / ("models--" + checked_name(repository).replace("/", "--"))

    def commits(self, repository: str) -> list[str]:
        """The commits of which there are files, that of the main branch first, then the latest."""
        snapshots = self.folder(repository) / "snapshots"
        if not snapshots.is_dir():
            return []
        found = [path for path in snapshots.iterdir() if _COMMIT.fullmatch(path.name) and path.is_dir()]
        main = self.commit(repository, "main")
        found.sort(key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)
        return [path.name for path in found]

    def commit(self, repository: str, revision: str) -> str | None:
        """What a branch, tag or the beginning of a commit stands for here."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (self.folder(repository) / "refs" / checked_name(revision)).read_text("ascii").strip()
            return text if _COMMIT.fullmatch(text) else None
        names = [path.name for path in (self.folder(repository) / "snapshots").glob("*")]
        known = [name for name in names if _COMMIT.fullmatch(name) and name.startswith(revision)]
        return known[0] if known and len(revision) >= 7 else None

    def snapshot(self, repository: str, commit: str) -> Path:
        return self.folder(repository) / "snapshots" / checked_commit(commit)

    def files(self, repository: str, commit: str) -> list[str]:
        """The names of the files that are here of a commit; links that lead nowhere are left out."""
        folder = self.snapshot(repository, commit)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def blob(self, repository: str, etag: str) -> Path:
        return self.folder(repository) / "blobs" / checked_etag(etag)

    def has(self, repository: str, commit: str, name: str, etag: str, size: int) -> bool:
        """Whether the contents are here, whoever downloaded them; as a blob, or as a file where links do not work."""
        for path in (self.blob(repository, etag), self.snapshot(repository, commit) / checked_name(name)):
            with contextlib.suppress(OSError):
                if path.stat().st_size == size:
                    return True
        return False

    @contextlib.contextmanager
    def staging(self, repository: str, etag: str, waiting: Callable[[], None]) -> Iterator[Path]:
        """Where a blob's contents grow, locked against all other processes; what an earlier one left is still there.

        `waiting` is called twice a second while another process has the lock, and may raise to give up.
        """
        blob = self.blob(repository, etag)
        self._make(blob.parent)
        lock = self._lock(repository, etag)
        while not lock.is_locked:
            waiting()
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=0.5)
        try:
            yield blob.with_name(etag + PARTIAL_SUFFIX)
        finally:
            lock.release()

    def publish(self, repository: str, commit: str, name: str, etag: str) -> Path:
        """Gives a blob its name in a commit. Where links cannot be made, a second name or a copy."""
        link = self.snapshot(repository, commit) / checked_name(name)
        self._make(link.parent)
        blob = self.blob(repository, etag)
        if not blob.exists():
            return link  # a file in the snapshot itself, made where links do not work
        beside = link.with_name(f".{link.name[:200]}.{os.getpid()}{PARTIAL_SUFFIX}")
        beside.unlink(missing_ok=True)
        try:
            beside.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:
            try:
                os.link(blob, beside)
            except OSError:
                shutil.copyfile(blob, beside)
        beside.replace(link)
        return link

    def set_revision(self, repository: str, revision: str, commit: str) -> None:
        """Notes which commit a branch or tag stands for."""
        if revision == commit:
            return
        path = self.folder(repository) / "refs" / checked_name(revision)
        self._make(path.parent)
        beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
        beside.write_text(checked_commit(commit))
        beside.replace(path)

    def remove(self, repository: str, commit: str, names: Iterable[str]) -> int:
        """Deletes files of a commit, and the contents that no other file of the repository has. Returns bytes freed."""
        freed = 0
        for name in names:
            link = self.snapshot(repository, commit) / checked_name(name)
            if os.path.lexists(link):
                freed += _delete_file(link)
            _remove_empty_folders(link.parent, self.folder(repository) / "snapshots")
        return freed + self._sweep(repository)

    def _sweep(self, repository: str) -> int:
        """Deletes blobs that nothing links to, what was left unfinished, and what is empty then."""
        folder = self.folder(repository)
        freed = 0
        for blob in sorted((folder / "blobs").glob("*")):
            etag = blob.name.removesuffix(PARTIAL_SUFFIX)
            if _ETAG.fullmatch(etag) and etag not in self._linked(repository):
                with contextlib.suppress(filelock.Timeout), self._lock(repository, etag, timeout=0):
                    if etag not in self._linked(repository):  # another process may have finished a download meanwhile
                        freed += _delete_file(blob)
        kept = {path.name for path in (folder / "snapshots").glob("*")}
        for ref in [path for path in (folder / "refs").rglob("*") if path.is_file()]:
            if ref.read_text("ascii", "replace").strip() not in kept:
                ref.unlink()
        if not kept:
            for part in ("refs", "snapshots", "blobs"):
                _remove_empty_folders(folder / part, folder.parent)
        return freed

    def _linked(self, repository: str) -> set[str]:
        links = (self.folder(repository) / "snapshots").rglob("*")
        return {os.readlink(path).replace("\\", "/").rsplit("/", 1)[-1] for path in links if path.is_symlink()}

    def _lock(self, repository: str, etag: str, timeout: float = -1) -> filelock.BaseFileLock:
        locks = self.root / ".locks" / self.folder(repository).name
        self._make(locks)
        return filelock.FileLock(locks / f"{etag}.lock", mode=0o664, timeout=timeout)

    def _make(self, folder: Path) -> None:
        """Makes a folder of the cache, level by level; a link in place of one could lead out, and is refused."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            at = self.root
            for part in folder.relative_to(self.root).parts:
                at = at / part
                if at.is_symlink():
                    raise ConfigError(f"{at} is a link to another place; remove it, then try again", "cache")
                at.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(self.root, error) from error


def write_error(path: Path, error: OSError) -> ConfigError:
    """What to tell of a write that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ConfigError(f"no room on the disk of {path} ({error.strerror}): free some, then try again", "cache")
    return ConfigError(f"{path} cannot be written: {error.strerror or error}", "cache")


def _delete_file(path: Path) -> int:
    """Deletes a file; returns the bytes that this frees, which are none where it has another name or is a link."""
    status = path.lstat()
    path.unlink()
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0


def _remove_empty_folders(folder: Path, top: Path) -> None:
    """Removes a folder and those above it, below `top`, as long as they are empty."""
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
