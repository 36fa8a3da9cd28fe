"""The local cache of files from the Hub, in the layout of huggingface-hub, so that programs share each file.

    models--OWNER--REPO/blobs/ETAG              content; ETAG is its SHA-256, or the git blob id (SHA-1) of small files
    models--OWNER--REPO/snapshots/COMMIT/PATH   links to blobs, under the names that files have in a commit
    models--OWNER--REPO/refs/REVISION           the commit that a branch or tag points to
    .locks/models--OWNER--REPO/ETAG.lock        held while a blob is written; huggingface-hub takes the same lock

Names come from the Hub, which may be hostile: names that lead out of the cache are rejected, and writing follows no
link.
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
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # control characters, and characters with a meaning on Windows


def checked_name(name: str) -> str:
    """Returns the name of a file or revision. Raises `HubError` if it could lead out of its folder."""
    parts = name.split("/")
    if _FORBIDDEN.search(name) or any(p in ("", ".", "..") or len(p.encode("utf-8", "replace")) > 255 for p in parts):
        raise HubError(f"the Hub sent the unsafe file name {name!r:.100}; nothing was downloaded")
    return name


def checked_commit(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"the Hub sent {commit!r:.100}, which is not a commit id; nothing was downloaded")
    return commit


def checked_etag(etag: str) -> str:
    if not _ETAG.fullmatch(etag):
        raise HubError(f"the Hub sent {etag!r:.100}, which is not a file digest; nothing was downloaded")
    return etag


@dataclass(frozen=True, slots=True)
class HubCache:
    """The cache under the folder `root`, which may not exist yet."""

    root: Path

    def repositories(self) -> Iterator[str]:
        """Yields OWNER/REPO of every model repository in the cache."""
        for folder in sorted(self.root.glob("models--*")):
            owner, _, name = folder.name.removeprefix("models--").partition("--")
            if owner and name and folder.is_dir():
                yield f"{owner}/{name}"

    def folder(self, repository: str) -> Path:
        return self.root / ("models--" + checked_name(repository).replace("/", "--"))

    def commits(self, repository: str) -> list[str]:
        """Returns the commits that have files: the one of the main branch first, then the latest."""
        snapshots = self.folder(repository) / "snapshots"
        if not snapshots.is_dir():
            return []
        folders = [path for path in snapshots.iterdir() if _COMMIT.fullmatch(path.name) and path.is_dir()]
        main = self.commit(repository, "main")
        folders.sort(key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)
        return [path.name for path in folders]

    def commit(self, repository: str, revision: str) -> str | None:
        """Returns the commit of a branch, tag or abbreviated commit id, if the cache has it."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (self.folder(repository) / "refs" / checked_name(revision)).read_text("ascii").strip()
            return text if _COMMIT.fullmatch(text) else None
        names = [path.name for path in (self.folder(repository) / "snapshots").glob("*")]
        known = [name for name in names if _COMMIT.fullmatch(name) and name.startswith(revision)]
        return known[0] if known and len(revision) >= 7 else None

    def snapshot(self, repository: str, commit: str) -> Path:
        return self.folder(repository) / "snapshots" / checked_commit(commit)

    def file_names(self, repository: str, commit: str) -> list[str]:
        """Returns the names of the files of a commit, without broken links."""
        folder = self.snapshot(repository, commit)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def blob_path(self, repository: str, etag: str) -> Path:
        return self.folder(repository) / "blobs" / checked_etag(etag)

    def has(self, repository: str, commit: str, name: str, etag: str, size: int) -> bool:
        """Whether the content is in the cache, as a blob, or as a plain file if the disk has no links."""
        for path in (self.blob_path(repository, etag), self.snapshot(repository, commit) / checked_name(name)):
            with contextlib.suppress(OSError):
                if path.stat().st_size == size:
                    return True
        return False

    @contextlib.contextmanager
    def partial_file(self, repository: str, etag: str, while_waiting: Callable[[], None]) -> Iterator[Path]:
        """Locks a blob and yields the path of its partial file, with what an earlier process left in it.

        `while_waiting` is called twice a second while another process holds the lock, and may raise to give up.
        """
        blob = self.blob_path(repository, etag)
        self._make_folder(blob.parent)
        lock = self._lock(repository, etag)
        while not lock.is_locked:
            while_waiting()
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=0.5)
        try:
            yield blob.with_name(etag + PARTIAL_SUFFIX)
        finally:
            lock.release()

    def add_to_snapshot(self, repository: str, commit: str, name: str, etag: str) -> Path:
        """Links a blob under its name in a commit, or copies it if the disk has no links."""
        link = self.snapshot(repository, commit) / checked_name(name)
        self._make_folder(link.parent)
        blob = self.blob_path(repository, etag)
        if not blob.exists():
            return link  # already a plain file in the snapshot, because the disk has no links
        temporary = link.with_name(f".{link.name[:200]}.{os.getpid()}{PARTIAL_SUFFIX}")
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:
            try:
                os.link(blob, temporary)
            except OSError:
                shutil.copyfile(blob, temporary)
        temporary.replace(link)
        return link

    def set_revision(self, repository: str, revision: str, commit: str) -> None:
        """Records the commit that a branch or tag points to."""
        if revision == commit:
            return
        path = self.folder(repository) / "refs" / checked_name(revision)
        self._make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
        temporary.write_text(checked_commit(commit))
        temporary.replace(path)

    def remove(self, repository: str, commit: str, names: Iterable[str]) -> int:
        """Deletes files of a commit, and the blobs that nothing else links to. Returns the bytes freed."""
        freed = 0
        for name in names:
            link = self.snapshot(repository, commit) / checked_name(name)
            if os.path.lexists(link):
                freed += _delete_file(link)
            _remove_empty_folders(link.parent, self.folder(repository) / "snapshots")
        return freed + self._collect_garbage(repository)

    def _collect_garbage(self, repository: str) -> int:
        """Deletes blobs without links, partial files, and folders that are empty then. Returns the bytes freed."""
        folder = self.folder(repository)
        freed = 0
        for blob in sorted((folder / "blobs").glob("*")):
            etag = blob.name.removesuffix(PARTIAL_SUFFIX)
            if _ETAG.fullmatch(etag) and etag not in self._linked(repository):
                with contextlib.suppress(filelock.Timeout), self._lock(repository, etag, timeout=0):
                    if etag not in self._linked(repository):  # another process may have linked it meanwhile
                        freed += _delete_file(blob)
        remaining = {path.name for path in (folder / "snapshots").glob("*")}
        for ref in [path for path in (folder / "refs").rglob("*") if path.is_file()]:
            if ref.read_text("ascii", "replace").strip() not in remaining:
                ref.unlink()
        if not remaining:
            for part in ("refs", "snapshots", "blobs"):
                _remove_empty_folders(folder / part, folder.parent)
        return freed

    def _linked(self, repository: str) -> set[str]:
        links = (self.folder(repository) / "snapshots").rglob("*")
        return {os.readlink(path).replace("\\", "/").rsplit("/", 1)[-1] for path in links if path.is_symlink()}

    def _lock(self, repository: str, etag: str, timeout: float = -1) -> filelock.BaseFileLock:
        locks = self.root / ".locks" / self.folder(repository).name
        self._make_folder(locks)
        return filelock.FileLock(locks / f"{etag}.lock", mode=0o664, timeout=timeout)

    def _make_folder(self, folder: Path) -> None:
        """Creates a folder of the cache level by level. Rejects links, which could lead out of the cache."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            level = self.root
            for part in folder.relative_to(self.root).parts:
                level = level / part
                if level.is_symlink():
                    raise ConfigError(f"{level} is a link, which the cache does not follow; remove it first", "cache")
                level.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(self.root, error) from error


def write_error(path: Path, error: OSError) -> ConfigError:
    """Returns the error for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ConfigError(f"the disk of {path} is full ({error.strerror}); free some space, then try again", "cache")
    return ConfigError(f"{path} cannot be written: {error.strerror or error}", "cache")


def _delete_file(path: Path) -> int:
    """Deletes a file and returns the bytes freed: 0 for a link, or if the file has another hard link."""
    status = path.lstat()
    path.unlink()
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0


def _remove_empty_folders(folder: Path, top: Path) -> None:
    """Removes a folder and its parents below `top`, as long as they are empty."""
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
