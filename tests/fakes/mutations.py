"""Reads damaged copies of a GGUF header and prints the results: `python mutations.py HEADER FOLDER COUNT`.

A separate program, so that its peak memory is that of the reader.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path

from galago.models.errors import GGUFError
from galago.models.gguf.reader import read_header

HUGE = (2**64 - 1, 2**64 - 8, 2**63, 2**63 - 1, 2**62, 2**32, 2**31, 10**9, 10**6, 0)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Returns a copy with one to four kinds of damage."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        kind = chance.randrange(8)
        if kind == 0:  # single bits
            for _ in range(chance.randint(1, 8)):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        elif kind == 1:  # lengths, counts and offsets near the limits of 64 bits
            struct.pack_into("<Q", changed, min(at, len(changed) - 8), chance.choice(HUGE))
        elif kind == 2:  # the counts of tensors and keys
            struct.pack_into("<Q", changed, chance.choice((8, 16)), chance.choice((*HUGE, chance.randrange(1000))))
        elif kind == 3:  # a type or a number of dimensions
            struct.pack_into("<I", changed, min(at, len(changed) - 4), chance.choice((0, 4, 8, 9, 13, 99, 2**32 - 1)))
        elif kind == 4:  # truncated
            del changed[max(at, 32) :]
        elif kind == 5:  # a part missing
            del changed[max(at, 24) : max(at, 24) + chance.randint(1, 64)]
        elif kind == 6:  # a part twice
            changed[at:at] = changed[at : at + chance.randint(1, 512)]
        else:  # the alignment
            value = changed.find(b"general.alignment")
            if 0 < value < len(changed) - 25:
                struct.pack_into("<I", changed, value + 21, chance.choice((0, 1, 3, 7, 2**17, 2**31, 2**32 - 1)))
        if len(changed) < 32:
            break
    return bytes(changed)


def large(folder: Path) -> list[Path]:
    """Writes sparse files that are as large as their headers claim."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def holed(name: str, start: bytes, size: int) -> Path:
        path = folder / name
        path.write_bytes(start)
        with path.open("r+b") as file:
            file.truncate(size)
        return path

    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    keys = b"".join(text(b"k%d" % n) + struct.pack("<I", 0) + b"\1" for n in range(1_000_000))
    arrays = b"".join(text(b"k%d" % n) + struct.pack("<IIQ", 9, 10, 64) + bytes(range(256)) * 2 for n in range(60_000))
    texts = b"".join(text(b"k%d" % n) + struct.pack("<I", 8) + text(b"x" * 4000) for n in range(60_000))
    wide = text(b"w") + struct.pack("<I", 8) + text(("x" * ((4 << 20) - 4) + "\U0001f600").encode())
    tensors = b"".join(text(b"t%d" % n) + struct.pack("<IQIQ", 1, 1, 0, 32 * n) for n in range(65_000))
    return [
        holed("million-keys", b"GGUF" + struct.pack("<IQQ", 3, 0, 1_000_000) + keys, 1 << 28),
        holed("arrays", b"GGUF" + struct.pack("<IQQ", 3, 0, 60_000) + arrays, 1 << 28),
        holed("texts", b"GGUF" + struct.pack("<IQQ", 3, 0, 60_000) + texts, 1 << 28),
        holed("wide", b"GGUF" + struct.pack("<IQQ", 3, 0, 4) + wide + wide.replace(b"w", b"v", 1) * 3, 1 << 28),
        holed("tensors", b"GGUF" + struct.pack("<IQQ", 3, 65_000, 0) + tensors, 1 << 28),
        holed("empty-strings", head + text(b"a") + struct.pack("<IIQ", 9, 8, 30_000_000), 1 << 30),
        holed("bytes", head + text(b"a") + struct.pack("<IIQ", 9, 0, 1 << 27), 1 << 40),
        holed("long-string", head + text(b"a") + struct.pack("<IQ", 8, 1 << 27), 1 << 40),
    ]


def peak_memory() -> int:
    """Peak memory in bytes. On Linux, `ru_maxrss` is at least that of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(header: Path, folder: Path, count: int) -> None:
    chance = random.Random(5)
    data = header.read_bytes()
    path = folder / "mutated.gguf"
    maker = multiprocessing.get_context("fork").Pool(1)  # its memory does not belong to the reader
    paths = maker.apply(large, (folder,))
    maker.terminate()
    peak, slowest, outcomes = peak_memory(), 0.0, Counter[str]()
    for number in range(count):
        if number >= len(paths):
            path.write_bytes(mutated(data, chance))
        begin = time.process_time()
        try:
            read_header(paths[number] if number < len(paths) else path)
            outcomes["read"] += 1
        except GGUFError as error:
            has_place = " (at byte " in error.message or " is not a GGUF file" in error.message
            outcomes["refused" if has_place else "refused without a place"] += 1
        except Exception as error:
            outcomes[type(error).__name__] += 1
        slowest = max(slowest, time.process_time() - begin)
    grown = peak_memory() - peak
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "grown": grown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
