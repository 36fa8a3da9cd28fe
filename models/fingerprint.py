"""Tells one file from another without reading all of it. Knows nothing of what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCKS, _BLOCK = 64, 1 << 16


def fingerprint(path: Path) -> str:
    """A digest of a file's size and of 64 stretches of 64 KiB, its beginning and end among them.

    Two models of one shape differ in every stretch of weights; who exchanges single bytes with intent is not found out.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for i in range(_BLOCKS):
            file.seek((size - _BLOCK) * i // (_BLOCKS - 1) if size > _BLOCK else 0)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def of_pair(model: Path, projector: Path | None) -> str:
    """Tells a model with its projector, if any, from others."""
    return "".join(fingerprint(path)[:16] for path in (model, projector) if path)
