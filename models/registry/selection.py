"""Selects the files of a model by their names: weights by quantization, all their parts, and likely projectors.

Pure functions of the file names in a repository or folder. `pairing.py` decides by metadata which projector belongs to
a model.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import NotFound

PREFERRED_QUANTS = ("q4_k_m", "ud-q4_k_xl", "q4_0", "q4_k_s", "iq4_xs", "q5_k_m", "q8_0", "q6_k", "f16", "bf16", "f32")
"""Quantizations by preference, if neither the user nor the catalog names one."""

_PROJECTOR_QUANTS = ("q8_0", "f16", "bf16", "f32")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(
    r"(?:^|(?<=[-._/]))(?:ud-)?(?:i?q\d(?:_(?:\d|k|nl|x*[sl]|m))*|tq\d_\d|bf16|f16|f32|mxfp4(?:_moe)?|nvfp4)(?=$|[-._])"
)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """The files of one set of weights: its `parts` in order, or a single file."""

    parts: tuple[str, ...]
    quant: str

    @property
    def stem(self) -> str:
        """The path in lower case, without part number and extension."""
        return _split_name(self.parts[0])[0].lower()


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The weights selected for a model, and the projectors that may match them, the likeliest first."""

    weights: WeightSet
    projectors: tuple[str, ...]


def select_files(
    names: Sequence[str], quant: str = "", weights: str = "*.gguf", projector: str | None = "*mmproj*",
    default: str = "", where: str = "",
) -> FileSelection:  # fmt: skip
    """Selects weights and projectors among the files of a repository or folder, which `where` names in errors.

    `quant` is a quantization or a file name without its extension, `default` the quantization if that is empty;
    `weights` and `projector` are patterns of file names. Raises `NotFound` with the quantizations that exist.
    """
    sets = weight_sets(names, weights)
    if not sets:
        raise NotFound(f"{where or 'the folder'} has no GGUF weights", "model")
    wanted = [quant.lower()] if quant else [q.lower() for q in (default, *PREFERRED_QUANTS) if q]
    chosen = next((fit for q in wanted if (fit := _matching_sets(sets, q))), None)
    if chosen is None and not quant and len({group.quant for group in sets}) == 1:
        chosen = sets
    if chosen is None:
        wanted_text = f"quantization {quant}" if quant else "a common quantization, so name one"
        offered = ", ".join(sorted({group.quant or group.stem for group in sets}))
        raise NotFound(f"{where} has no weights with {wanted_text}; it has {offered}", "model")
    if len(chosen) > 1:
        stems = ", ".join(group.stem for group in chosen)
        raise NotFound(f"{where} has several models with this quantization; name one of them instead: {stems}", "model")
    return FileSelection(chosen[0], rank_projectors(names, projector, chosen[0].quant))


def weight_sets(names: Iterable[str], pattern: str = "*.gguf") -> list[WeightSet]:
    """Groups file names into complete sets of weights. Leaves out sets with a missing part."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        base = PurePosixPath(name).name
        if _is_gguf(name) and not is_projector_name(name):
            if fnmatch.fnmatch(base, pattern) or fnmatch.fnmatch(name, pattern):
                stem, number, count = _split_name(name)
                parts.setdefault((stem, count), {})[number] = name
    return [
        WeightSet(tuple(numbered[n] for n in range(1, count + 1)), quant_of(stem))
        for (stem, count), numbered in sorted(parts.items())
        if set(numbered) == set(range(1, count + 1))
    ]


def quant_of(name: str) -> str:
    """Returns the last quantization in a file name, in lower case, or an empty text."""
    quants = _QUANT.findall(_split_name(PurePosixPath(name).name)[0].lower())
    return quants[-1] if quants else ""


def is_projector_name(name: str) -> bool:
    return "mmproj" in PurePosixPath(name).name.lower()


def sibling_parts(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Returns all parts of the split weights that `name` belongs to, among `names`, or `name` alone."""
    stem, _, count = _split_name(name)
    parts = sorted(n for n in names if _is_gguf(n) and (_split_name(n)[0], _split_name(n)[2]) == (stem, count))
    return tuple(parts) or (name,)


def _matching_sets(sets: Sequence[WeightSet], wanted: str) -> list[WeightSet]:
    """Returns the sets with a quantization, or with a name if none has that quantization."""
    exact = [group for group in sets if group.quant == wanted]
    return exact or [group for group in sets if PurePosixPath(group.stem).name == wanted or group.stem == wanted]


def rank_projectors(names: Iterable[str], pattern: str | None, quant: str) -> tuple[str, ...]:
    """Returns the files that match a projector pattern, those with the quantization of the weights first."""
    if pattern is None:
        return ()
    order = list(dict.fromkeys((quant, *_PROJECTOR_QUANTS)))

    def rank(name: str) -> tuple[int, str]:
        own = quant_of(name)
        return (order.index(own) if own in order else len(order), name)

    base = {name: PurePosixPath(name).name.lower() for name in names if _is_gguf(name)}
    return tuple(sorted((name for name in base if fnmatch.fnmatch(base[name], pattern.lower())), key=rank))


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _split_name(name: str) -> tuple[str, int, int]:
    """Splits a path into the part without extension and part number, the part number, and the number of parts."""
    stem = name[:-5] if _is_gguf(name) else name
    split = _PART.fullmatch(stem)
    return (split[1], int(split[2]), int(split[3])) if split else (stem, 1, 1)
