"""Records of conversions and imports: what a model was made from, what was left out, and by which version."""

from __future__ import annotations

from dataclasses import dataclass

from ..gguf.header import GGUFHeader

MADE_FROM_KEY, LEFT_OUT_KEY, VERSION_KEY = "galago.made_from", "galago.left_out", "galago.version"
"""The keys in which conversion keeps its receipt in a GGUF file."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """`made_from` is the source, with its commit where that is known. `left_out` lists what was not carried over."""

    made_from: str
    left_out: tuple[str, ...]
    version: str


def conversion_receipt(header: GGUFHeader) -> Receipt | None:
    """Returns the receipt that conversion left in a file, or None if Galago did not convert it."""
    made_from, left_out, version = map(header.get, (MADE_FROM_KEY, LEFT_OUT_KEY, VERSION_KEY))
    if made_from is None and version is None:
        return None
    lines = left_out if isinstance(left_out, tuple) else [left_out] if left_out else []
    return Receipt(str(made_from or ""), tuple(map(str, lines)), str(version or ""))
