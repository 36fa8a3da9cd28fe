"""Gives memory back to the system that loading has filled and that need not be there. Linux with GNU's C library only;
elsewhere nothing happens. Knows mappings and pages, no models.

What is given back comes again by itself, page by page, when it is touched: a file's pages from the system's cache of
files, zeros as zeros (madvise(2), MADV_DONTNEED).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_HERE = sys.platform == "linux"
_LEAST = 1 << 20
"""Bytes of an allocation that is worth a look."""
_BLOCK = 1 << 16
_PAGE = mmap.PAGESIZE
_WORD = 8
_HEAD, _MAPPED = 48, 2
"""GNU's malloc gives a large allocation, aligned to 64 bytes, pages of its own. They begin with 48 bytes of nothing,
then that number and the size of all the rest, in which the bit of value 2 is set (malloc/malloc.c, `mchunk_size`)."""


def give_back_file(path: Path) -> None:
    """What of a mapped file is read no more, such as weights that were laid out anew, leaves this process."""
    mapped = str(path.resolve())
    for start, end, kind, name in _mappings() if _HERE else ():
        if name == mapped and "w" not in kind:
            _give_back(start, end)


@contextmanager
def zeros_given_back() -> Iterator[None]:
    """Of each large allocation made meanwhile the zeros leave this process at the end, when nobody may write there.

    llama.cpp writes zeros all over a context that it makes; so it takes memory as it is filled.
    """
    before = list(_writable()) if _HERE else []
    yield
    for start, end in _without(_writable(), before) if _HERE else ():
        for first, last in _allocations(start, end):
            _give_back_zeros(first, last)


def _mappings() -> Iterator[tuple[int, int, str, str]]:
    """First address, end, permissions and file of all that is mapped, by address; see proc_pid_maps(5)."""
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        addresses, kind, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        yield start, end, kind, name[0] if name else ""


def _writable() -> Iterator[tuple[int, int]]:
    return ((start, end) for start, end, kind, name in _mappings() if kind == "rw-p" and not name)


def _without(found: Iterator[tuple[int, int]], known: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of the stretches found is in none of those known; both by address."""
    for start, end in found:
        for first, last in known:
            if start < last and first < end:
                yield start, first
                start = last
        yield start, end


def _allocations(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The pages of the large allocations in a stretch of memory, without those that hold the head or end of one."""
    if end - start < _LEAST:
        return
    words = np.frombuffer(memoryview((ctypes.c_char * (end - start)).from_address(start)), np.uint64)
    heads, sizes = (words[n :: _PAGE // _WORD] for n in (_HEAD // _WORD, _HEAD // _WORD + 1))
    for page in np.flatnonzero((heads == _HEAD) & (sizes % _WORD == _MAPPED) & (sizes >= _LEAST)):
        first = start + int(page) * _PAGE
        last = first + _HEAD + int(sizes[page]) - _MAPPED
        if last % _PAGE == 0 and last <= end:
            yield first + _PAGE, last - _PAGE


def _give_back_zeros(start: int, end: int) -> None:
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    first = start
    for block in range(start, end, _BLOCK):
        size = min(_BLOCK, end - block)
        if ctypes.c_uint64.from_address(block).value or compare(block, block + _WORD, size - _WORD):
            _give_back(first, block)
            first = block + size
    _give_back(first, end)


def _give_back(start: int, end: int) -> None:
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if start < end:
        advise(start, end - start, mmap.MADV_DONTNEED)  # where it fails, the memory stays as it is
