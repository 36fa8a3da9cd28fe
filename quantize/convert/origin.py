"""Where a checkpoint's folder came from: a repository on the Hub and a commit, if its path and files show them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ModelError
from ...models.hub.cache import HubCache
from ...models.hub.connection import cache_root
from ...models.regular_file import read_text

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY_FOLDER = re.compile(r"models--(?:(.+?)--)?(.+)")


@dataclass(frozen=True, slots=True)
class Origin:
    """`name` is the model's name, without an owner. `repository` is OWNER/NAME. Each is `None` if it is unknown."""

    name: str | None
    repository: str | None = None
    commit: str | None = None

    @property
    def text(self) -> str:
        """The repository and the commit, or else the folder's name; never an absolute path."""
        source = self.repository or self.name or "a folder"
        return f"{source} at commit {self.commit}" if self.commit else source


def find_origin(folder: Path) -> Origin:
    """Finds the origin of a snapshot in the Hub's cache, or of a folder that huggingface-hub downloaded files into."""
    folder = folder.resolve()
    for snapshot in (folder, *folder.parents):
        match = _REPOSITORY_FOLDER.fullmatch(snapshot.parent.parent.name)
        if match and snapshot.parent.name == "snapshots" and _COMMIT.fullmatch(snapshot.name):
            inner = "/".join(folder.relative_to(snapshot).parts)
            repository = "/".join(part for part in (match[1], match[2]) if part)
            return Origin(
                folder.name if inner else match[2], repository + (f"/{inner}" if inner else ""), snapshot.name
            )
    name = None if _COMMIT.fullmatch(folder.name) else folder.name or None
    return Origin(name, commit=_downloaded_commit(folder))


def snapshot_of(folder: Path) -> Path:
    """Returns the snapshot to convert if `folder` is a repository's folder in the Hub's cache, or else `folder`.

    If there is no such folder, it may be the name of a repository in the cache, OWNER/NAME. Raises `ModelError` if the
    cache has no commit of the repository.
    """
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", folder.as_posix()):
        root, repository = cache_root(), folder.as_posix()
    elif (match := _REPOSITORY_FOLDER.fullmatch(folder.resolve().name)) and (folder / "snapshots").is_dir():
        root, repository = folder.resolve().parent, "/".join(part for part in (match[1], match[2]) if part)
    else:
        return folder
    cache = HubCache(root)
    commits = cache.commits(repository)
    if not commits:
        raise ModelError(
            f"there is no folder {folder}, and the Hub's cache has no snapshot of {repository}; give the folder of a "
            "Hugging Face checkpoint, or download the repository",
            str(folder),
        )
    return cache.snapshot(repository, commits[0])


def _downloaded_commit(folder: Path) -> str | None:
    """Returns the commit that huggingface-hub records with files that it downloads into a folder."""
    with contextlib.suppress(OSError, ValueError):
        lines = read_text(folder / ".cache" / "huggingface" / "download" / "config.json.metadata").splitlines()
        return lines[0] if lines and _COMMIT.fullmatch(lines[0]) else None
    return None
