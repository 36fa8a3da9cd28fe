"""What the name of a GGUF file says: its quantization, which part of a split model it is, and pieces to put together.

Two ways of cutting a model are in use. llama-gguf-split writes parts that are GGUF files themselves, which llama.cpp
loads as they are. Older uploads cut one file into pieces of bytes, which have to be joined first.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})")
_QUANT = re.compile(
    r"(?:^|(?<=[-._/ ]))(?:ud-)?(?:i?q\d(?:_(?:\d|k|nl|x*[sl]|m))*|tq\d_\d|bf16|fp?16|fp?32|int[48]"
    r"|mxfp4(?:_moe)?|nvfp4)(?=$|[-._ ])"
)
_SYNONYMS = {"fp16": "f16", "fp32": "f32"}
_PIECE = re.compile(
    r"(?i)(?P<whole>.*\.gguf)(?:"
    r"[-_.](?:part|split|chunk|piece|segment|shard)?[-_.]?(?P<number>\d+)[-_.]?of[-_.]?(?P<count>\d+)"
    r"|[-_.](?:part|split|chunk|piece|segment|shard)[-_.]?(?P<order>\d+|[a-z]{1,2})"
    r"|\.(?P<plain>\d{3}|a[a-z]))"
)


def is_gguf(name: str) -> bool:
    """Whether a file name ends in .gguf. macOS's ._ files, which hold no content of the file, do not count."""
    return name.lower().endswith(".gguf") and not PurePosixPath(name).name.startswith("._")


def split_name(name: str) -> tuple[str, int, int]:
    """Splits a path into the part without extension and part number, the part number, and the number of parts."""
    stem = name[:-5] if is_gguf(name) else name
    split = _PART.fullmatch(stem)
    return (split[1], int(split[2]), int(split[3])) if split else (stem, 1, 1)


def part_name(stem: str, number: int, count: int) -> str:
    """Returns the name of a part, as llama-gguf-split writes and llama.cpp expects it."""
    return f"{stem}-{number:05d}-of-{count:05d}.gguf"


def describe_missing(parts: Sequence[str]) -> str:
    """Says which parts of a split model are missing, such as "part 2 of 2 is missing: NAME"."""
    _, _, count = split_name(parts[0])
    numbers = ", ".join(str(split_name(part)[1]) for part in parts)
    verb = "part {} of {} is" if len(parts) == 1 else "parts {} of {} are"
    return f"{verb.format(numbers, count)} missing: {', '.join(parts)}"


def quant_of(name: str) -> str:
    """Returns the last quantization in a file name, in its usual form, or an empty text.

    If the file name has none, the name of its folder counts, if it ends in a quantization: `Q8_0/model.gguf`.
    """
    path = PurePosixPath(split_name(name)[0].lower())
    if quants := _QUANT.findall(path.name):
        return usual_quant(quants[-1])
    at_end = [match[0] for match in _QUANT.finditer(path.parent.name) if match.end() == len(path.parent.name)]
    return usual_quant(at_end[-1]) if at_end else ""


def without_quant(stem: str) -> str:
    """Returns a file name in lower case without the quantizations in it."""
    return _QUANT.sub("", stem.lower())


def name_words(stem: str) -> list[str]:
    """Returns the words of a file name in order."""
    return [word for word in re.split(r"[-_. ]+", stem) if word]


def usual_quant(quant: str) -> str:
    """Returns a quantization in lower case and its usual form, such as f16 for FP16.

    i1- says only that an importance matrix was used.
    """
    quant = quant.lower().removeprefix("i1-")
    return _SYNONYMS.get(quant, quant)


def is_quant(quant: str, asked: str) -> bool:
    """Whether a quantization is the one asked for. The Hub's pages show `Q4_K_XL` for files named `UD-Q4_K_XL`."""
    return usual_quant(asked) in (quant, quant.removeprefix("ud-"))


def why_not_whole(name: str) -> str:
    """Says, by a file's name, why the GGUF file in it cannot be used. Empty for all other files."""
    end = name.lower().rpartition(".gguf.")[2] if ".gguf." in name.lower() else ""
    if end in ("part", "crdownload", "incomplete", "download", "downloadinprogress", "tmp", "aria2", "!qb"):
        return f"{name} belongs to a download that is not complete"
    return f"{name} is compressed; unpack it first" if end in ("gz", "zip", "xz", "zst", "bz2", "7z") else ""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of bytes that one GGUF file was cut into, in order. `count` is their number, or 0 if it is unknown."""

    whole: str
    names: tuple[str, ...]
    count: int

    @property
    def how_to_join(self) -> str:
        """A sentence that says what the pieces are and what to do with them."""
        if self.count > len(self.names):
            verb = "is" if len(self.names) == 1 else "are"
            return f"{self.whole} was cut into {self.count} pieces, but only {', '.join(self.names)} {verb} there"
        return f"{', '.join(self.names)} are pieces of one file; join them with: {self.join_command}"

    @property
    def join_command(self) -> str:
        return f"cat {' '.join(map(shlex.quote, self.names))} > {shlex.quote(self.whole)}"


def pieces(names: Iterable[str]) -> list[Pieces]:
    """Finds the files among `names` that are pieces of a GGUF file, and groups them by that file."""
    rows_by_whole: dict[str, list[tuple[int, str, str, int]]] = {}
    for name in names:
        if match := _PIECE.fullmatch(name):
            order = match["number"] or match["order"] or match["plain"]
            rows_by_whole.setdefault(match["whole"], []).append(
                (len(order), order.lower(), name, int(match["count"] or 0))
            )
    return [
        Pieces(whole, tuple(name for *_, name, _ in sorted(rows)), _count(rows))
        for whole, rows in sorted(rows_by_whole.items())
    ]


def _count(rows: Sequence[tuple[int, str, str, int]]) -> int:
    """Returns how many pieces there must be, from a count in a name or from their numbers, which begin at 0 or 1."""
    numbers = [int(order) for _, order, _, _ in rows if order.isdecimal()]
    return max(*(row[-1] for row in rows), 1 + max(numbers) - min(1, *numbers) if len(numbers) == len(rows) else 0)
