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

from ..errors import ConfigError, HubError
from ..kept_file import TEMPORARY_SUFFIX, delete_abandoned, locked, read_file, temporary_path

PARTIAL_SUFFIX = TEMPORARY_SUFFIX

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
        """Returns the folder of a repository: if there is none, one whose name differs only in upper and lower case,
        which the Hub does not distinguish."""
        exact = self.root / ("models--" + checked_name(repository).replace("/", "--"))
        if os.path.lexists(exact):
            return exact
        alike = (path for path in sorted(self.root.glob("models--*")) if path.name.lower() == exact.name.lower())
        return next(alike, exact)

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
            text = read_file(self.folder(repository) / "refs" / checked_name(revision)).decode("ascii").strip()
            return text if _COMMIT.fullmatch(text) else None
        names = [path.name for path in (self.folder(repository) / "snapshots").glob("*")]
        known = [name for name in names if _COMMIT.fullmatch(name) and name.startswith(revision)]
        return known[0] if known and len(revision) >= 7 else None

    def current_commits(self, repository: str) -> set[str]:
        """Returns the commits that branches and tags point to."""
        refs = self.folder(repository) / "refs"
        names = [path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file()]
        return {commit for name in names if (commit := self.commit(repository, name)) is not None}

    def snapshot(self, repository: str, commit: str) -> Path:
        return self.folder(repository) / "snapshots" / checked_commit(commit)

    def file_names(self, repository: str, commit: str) -> list[str]:
        """Returns the names of the files of a commit, without broken links."""
        folder = self.snapshot(repository, commit)
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != TEMPORARY_SUFFIX)
        return sorted(path.relative_to(folder).as_posix() for path in files)

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
        partial = blob.with_name(etag + PARTIAL_SUFFIX)
        busy = f"another program is downloading a file of {repository}"
        with locked(self._lock_path(repository, etag), busy, while_waiting):
            if os.path.lexists(partial) and not stat.S_ISREG(partial.lstat().st_mode):
                partial.unlink()  # a link or pipe in its place
            yield partial

    def add_to_snapshot(self, repository: str, commit: str, name: str, etag: str) -> Path:
        """Links a blob under its name in a commit, or copies it if the disk has no links."""
        link = self.snapshot(repository, commit) / checked_name(name)
        self._make_folder(link.parent)
        blob = self.blob_path(repository, etag)
        if not blob.exists():
            return link  # already a plain file in the snapshot, because the disk has no links
        with self._replacement(link) as temporary:
            temporary.unlink()
            try:
                temporary.symlink_to(os.path.relpath(blob, link.parent))
            except OSError:
                try:
                    os.link(blob, temporary)
                except OSError:
                    shutil.copyfile(blob, temporary)
        return link

    def set_revision(self, repository: str, revision: str, commit: str) -> None:
        """Records the commit that a branch or tag points to."""
        if revision == commit:
            return
        path = self.folder(repository) / "refs" / checked_name(revision)
        self._make_folder(path.parent)
        with self._replacement(path) as temporary:
            temporary.write_text(checked_commit(commit))

    @contextlib.contextmanager
    def _replacement(self, path: Path) -> Iterator[Path]:
        """Yields the path of a file that replaces `path` at the end. Raises `ConfigError` if it cannot be written."""
        try:
            delete_abandoned(path.parent)
            with temporary_path(path) as temporary:
                yield temporary
                temporary.replace(path)
        except OSError as error:
            raise write_error(self.root, error) from error

    def remove(self, repository: str, commit: str, names: Iterable[str]) -> int:
        """Deletes files of a commit, and the blobs that nothing else links to. Returns the bytes freed."""
        links, freed, blobs = self.links(repository), 0, self.folder(repository) / "blobs"
        unneeded = {path for path in self.unlinked(repository) if path.name.endswith(PARTIAL_SUFFIX)}
        for name in names:
            link = self.snapshot(repository, commit) / checked_name(name)
            if link in links:
                unneeded |= {blobs / links[link], blobs / (links[link] + PARTIAL_SUFFIX)}
            elif link.is_file():
                unneeded |= set(self.unlinked(repository))  # the disk has no links, so blobs are only copies
            if os.path.lexists(link):
                freed += _delete_file(link)
            _remove_empty_folders(link.parent, self.folder(repository) / "snapshots")
        freed += sum(self.delete_unlinked(repository, blob) for blob in sorted(unneeded))
        self._remove_stale_names(repository)
        return freed

    def unlinked(self, repository: str) -> list[Path]:
        """Returns the blobs that no file of a commit leads to, and the partial files."""
        linked = set(self.links(repository).values())
        blobs = [path for path in sorted((self.folder(repository) / "blobs").glob("*")) if _is_content(path)]
        return [path for path in blobs if path.name not in linked]

    def delete_unlinked(self, repository: str, blob: Path) -> int:
        """Deletes a file that `unlinked` returned, unless another process uses it. Returns the bytes freed."""
        unused = locked(self._lock_path(repository, blob.name.removesuffix(PARTIAL_SUFFIX)), "", timeout_seconds=0)
        with contextlib.suppress(TimeoutError, FileNotFoundError), unused:
            if blob in self.unlinked(repository):  # another process may have linked it meanwhile
                return _delete_file(blob)
        return 0

    def is_downloading(self, repository: str) -> bool:
        """Whether a process is downloading a file of a repository."""
        for path in (self.root / ".locks" / self.folder(repository).name).glob("*.lock"):
            try:
                with locked(path, "", timeout_seconds=0):
                    pass
            except TimeoutError:
                return True
        return False

    def links(self, repository: str) -> dict[Path, str]:
        """Returns the names of the blobs that the files of all commits lead to, by the paths of these files."""
        paths = [path for path in (self.folder(repository) / "snapshots").rglob("*") if path.is_symlink()]
        return {path: os.readlink(path).replace("\\", "/").rsplit("/", 1)[-1] for path in paths}

    def _remove_stale_names(self, repository: str) -> None:
        """Deletes the branches and tags of commits that no longer have files, and folders that become empty."""
        folder = self.folder(repository)
        remaining = {path.name for path in (folder / "snapshots").glob("*")}
        for ref in [path for path in (folder / "refs").rglob("*") if path.is_file()]:
            if read_file(ref).decode("ascii", "replace").strip() not in remaining:
                ref.unlink()
        if not remaining:
            for part in ("refs", "snapshots", "blobs"):
                _remove_empty_folders(folder / part, folder.parent)

    def _lock_path(self, repository: str, etag: str) -> Path:
        locks = self.root / ".locks" / self.folder(repository).name
        self._make_folder(locks)
        return locks / f"{etag}.lock"

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


def _is_content(path: Path) -> bool:
    """Whether a file in `blobs` is a blob or Galago's part of one; huggingface-hub has other names for its parts."""
    return _ETAG.fullmatch(path.name.removesuffix(PARTIAL_SUFFIX)) is not None


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
