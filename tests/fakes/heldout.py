"""Small parts of the held-out questions."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from galago.models.registry.resolve import builtin_folder


def part_of_heldout(path: Path, count: int, groups: str | tuple[str, ...] = "") -> Path:
    """The first questions of each group whose name begins with a prefix."""
    kept: dict[str, list[str]] = {}
    with zipfile.ZipFile(builtin_folder() / "heldout.zip") as whole, zipfile.ZipFile(path, "w") as few:
        for line in whole.read("questions.jsonl").decode().splitlines():
            kept.setdefault(json.loads(line)["group"], []).append(line)
        lines = [line for name, group in kept.items() for line in group[:count] if name.startswith(groups)]
        few.writestr("questions.jsonl", "\n".join(lines))
        for name in whole.namelist():
            if any(f'"{name}"' in line for line in lines):
                few.writestr(name, whole.read(name))
    return path
