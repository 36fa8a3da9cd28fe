"""Finds what no model needs in the Hub's cache: partial downloads, files without a name, and older commits.

Touches nothing of other programs: no data sets, no files of commits except GGUF files, no blobs except GGUF files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..hub.cache import PARTIAL_SUFFIX, HubCache
from ..regular_file import open_regular
from . import imported, selection

GarbageKind = Literal["partial download", "file without a name", "older commit"]

_OTHER_PARTIAL_SUFFIXES = (".incomplete", ".downloadInProgress")
"""Suffixes of the partial files of huggingface-hub and llama.cpp."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Files that can be deleted together.

    `paths` are files of `commit`, or of the repository's `blobs` if that is empty. `size` are the bytes that deleting
    them frees, if everything before it in the list is also deleted.
    """

    kind: GarbageKind
    repository: str
    paths: tuple[Path, ...]
    size: int
    commit: str = ""


def find_garbage(cache: HubCache, repository: str | None = None) -> list[Garbage]:
    """Finds what can be deleted in all repositories of the cache, or in one. Deletes nothing."""
    kept = imported.files_in_use()
    garbage: list[Garbage] = []
    for name in cache.repositories() if repository is None else [repository]:
        garbage += _unlinked(cache, name, kept)
        garbage += _incomplete_models(cache, name, kept)
        garbage += _older_commits(cache, name, kept)
    return garbage


def delete_garbage(cache: HubCache, garbage: Garbage) -> int:
    """Deletes files that `find_garbage` returned, unless they are used by now. Returns the bytes freed."""
    if garbage.commit and garbage.kind == "partial download" and cache.is_downloading(garbage.repository):
        return 0
    if not garbage.commit:
        return sum(cache.delete_unlinked(garbage.repository, path) for path in garbage.paths)
    folder = cache.snapshot(garbage.repository, garbage.commit)
    names = [path.relative_to(folder).as_posix() for path in garbage.paths]
    return cache.remove(garbage.repository, garbage.commit, names)


def _unlinked(cache: HubCache, repository: str, kept: set[Path]) -> Iterator[Garbage]:
    for path in cache.unlinked(repository):
        is_partial = path.name.endswith(PARTIAL_SUFFIX)
        if path.resolve() not in kept and (is_partial or _is_unnamed_model(path)):
            kind: GarbageKind = "partial download" if is_partial else "file without a name"
            yield Garbage(kind, repository, (path,), path.lstat().st_size)


def _is_unnamed_model(path: Path) -> bool:
    """Whether a blob is a GGUF file that has no other name; links of another kind than symbolic ones are names."""
    try:
        with open_regular(path) as file:
            return file.read(4) == b"GGUF" and os.fstat(file.fileno()).st_nlink == 1
    except OSError:
        return False


def _older_commits(cache: HubCache, repository: str, kept: set[Path]) -> Iterator[Garbage]:
    """Yields the models of commits that no branch or tag points to, where a newer commit has the same model."""
    commits = cache.commits(repository)
    current = cache.current_commits(repository) or set(commits[:1])
    newer = [group for commit in commits if commit in current for group in _weights(cache, repository, commit)]
    links, gone = cache.links(repository), set[Path]()
    for commit in commits:
        if commit in current:
            continue
        folder, names = cache.snapshot(repository, commit), cache.file_names(repository, commit)
        groups = _weights(cache, repository, commit)
        older = [
            group for group in groups if any(selection.is_same_model(group.parts[0], other.parts[0]) for other in newer)
        ]
        parts = [part for group in older for part in group.parts]
        if older and len(older) == len(groups):
            parts += selection.rank_projectors(names, "*.gguf", older[0])
        paths = tuple(folder / part for part in parts if (folder / part).resolve() not in kept)
        if paths:
            gone.update(paths)
            yield Garbage("older commit", repository, paths, _freed(paths, links, gone), commit)


def _incomplete_models(cache: HubCache, repository: str, kept: set[Path]) -> Iterator[Garbage]:
    """Yields the parts of split models whose other parts are missing: no program can load them.

    Yields nothing if another program may be downloading the others.
    """
    if any(path.suffix in _OTHER_PARTIAL_SUFFIXES for path in (cache.folder(repository) / "blobs").glob("*")):
        return
    links, gone = cache.links(repository), set[Path]()
    for commit in cache.commits(repository):
        folder, names = cache.snapshot(repository, commit), cache.file_names(repository, commit)
        for first in selection.missing_parts(names):
            parts = [folder / part for part in selection.sibling_parts(first, names)]
            if not any(part.resolve() in kept for part in parts):
                gone.update(parts)
                yield Garbage("partial download", repository, tuple(parts), _freed(tuple(parts), links, gone), commit)


def _weights(cache: HubCache, repository: str, commit: str) -> list[selection.WeightSet]:
    return selection.weight_sets(cache.file_names(repository, commit))


def _freed(paths: tuple[Path, ...], links: Mapping[Path, str], gone: set[Path]) -> int:
    """Returns the bytes that deleting files frees: of the blobs to which only files in `gone` lead."""
    blobs = {links[path] for path in paths if path in links}
    blobs -= {blob for path, blob in links.items() if path not in gone}
    plain = sum(path.stat().st_size for path in paths if path not in links)
    return plain + sum({links[path]: path.stat().st_size for path in paths if links.get(path) in blobs}.values())
