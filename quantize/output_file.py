"""Writes the files that users ask for, such as models: under a temporary name, then renamed; one program at a time."""

from __future__ import annotations

import contextlib
import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..models.errors import ConfigError
from ..models.kept_file import delete_abandoned, locked_beside, sync, temporary_path


def check_target(target: Path, force: bool, sources: Sequence[Path] = ()) -> None:
    """Raises `ConfigError` if `target` cannot be written, is one of the `sources`, or exists (without `force`)."""
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent} for {target.name}", "output")
    if not target.exists():
        return
    if any(target.samefile(source) for source in sources):
        raise ConfigError(f"{target} is the model itself; give another file", "output")
    if not target.is_file():
        kind = "a folder" if target.is_dir() else "not a file"
        raise ConfigError(f"{target} is {kind}; give a file name", "output")
    if not force:
        raise ConfigError(f"{target} already exists; use --force to replace it", "output")


@contextlib.contextmanager
def output_file(target: Path, force: bool) -> Iterator[Path]:
    """Yields a path next to the target to write to. It is renamed to the target on success, and deleted otherwise.

    Waits while another program is writing the same target. Raises `ConfigError` if that program has written something
    else there, unless `force`.
    """
    delete_abandoned(target.parent)
    with locked_beside(target, f"another program is writing {target}"), temporary_path(target) as part:
        yield part
        sync(part)
        if not (target.is_file() and filecmp.cmp(part, target, shallow=False)):
            check_target(target, force)
            part.replace(target)
