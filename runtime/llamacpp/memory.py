"""Limits the memory that loading may take, and returns the pages that are not needed afterwards to the system.

Memory is returned on Linux with glibc only. Released pages come back by themselves when they are touched: those of a
file from the page cache, zeros as zeros (madvise(2), MADV_DONTNEED).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..process.limits import limit_this_process
from .devices import gpus

_IS_SUPPORTED = sys.platform == "linux"
_MIN_ALLOCATION_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16
_PAGE = mmap.PAGESIZE
_WORD = 8
_HEADER_BYTES, _IS_MMAPPED = 48, 2
"""glibc's malloc gives a large allocation, aligned to 64 bytes, separate pages. They start with 48 empty bytes,
then that number and the size of the rest, in which the bit of value 2 is set (malloc/malloc.c, `mchunk_size`)."""


def limit_memory(file_sizes: Iterable[int], base_bytes: int = 4 << 30) -> None:
    """Limits this process's memory to what loading files of these sizes can take, because a header may ask for more.

    `base_bytes` is for libraries, stacks of threads, and the working memory of a context. llama.cpp keeps at most a
    second copy of the weights, repacked. There is no limit where the system has none (macOS, Windows), nor with a GPU,
    whose driver reserves large address ranges.
    """
    if not gpus():
        limit_this_process(data_bytes=base_bytes + 3 * sum(file_sizes))


def release_file_pages(path: Path) -> None:
    """Releases the pages of a mapped file that are no longer read, such as weights that llama.cpp has repacked."""
    mapped = str(path.resolve())
    for start, end, permissions, name in _mappings() if _IS_SUPPORTED else ():
        if name == mapped and "w" not in permissions:
            _release(start, end)


@contextmanager
def zero_pages_released() -> Iterator[None]:
    """Releases the zeros in each large allocation made in the `with` block. Nothing may write there at its end.

    llama.cpp fills a new context with zeros; released, they take memory only as the context fills up.
    """
    before = list(_writable()) if _IS_SUPPORTED else []
    yield
    for start, end in _without(_writable(), before) if _IS_SUPPORTED else ():
        for first, last in _allocations(start, end):
            _release_zeros(first, last)


def _mappings() -> Iterator[tuple[int, int, str, str]]:
    """First address, end, permissions and file of everything mapped, by address; see proc_pid_maps(5)."""
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        yield start, end, permissions, name[0] if name else ""


def _writable() -> Iterator[tuple[int, int]]:
    return ((start, end) for start, end, permissions, name in _mappings() if permissions == "rw-p" and not name)


def _without(ranges: Iterator[tuple[int, int]], excluded: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of `ranges` that are in none of the `excluded` ones; both are sorted by address."""
    for start, end in ranges:
        for first, last in excluded:
            if start < last and first < end:
                yield start, first
                start = last
        yield start, end


def _allocations(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The pages of the large allocations in a range of memory, without the first and last page of each."""
    if end - start < _MIN_ALLOCATION_BYTES:
        return
    words = np.frombuffer(memoryview((ctypes.c_char * (end - start)).from_address(start)), np.uint64)
    headers, sizes = (words[n :: _PAGE // _WORD] for n in (_HEADER_BYTES // _WORD, _HEADER_BYTES // _WORD + 1))
    is_large = (headers == _HEADER_BYTES) & (sizes % _WORD == _IS_MMAPPED) & (sizes >= _MIN_ALLOCATION_BYTES)
    for page in np.flatnonzero(is_large):
        first = start + int(page) * _PAGE
        last = first + _HEADER_BYTES + int(sizes[page]) - _IS_MMAPPED
        if last % _PAGE == 0 and last <= end:
            yield first + _PAGE, last - _PAGE


def _release_zeros(start: int, end: int) -> None:
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    first = start
    for block in range(start, end, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, end - block)
        if ctypes.c_uint64.from_address(block).value or compare(block, block + _WORD, size - _WORD):
            _release(first, block)
            first = block + size
    _release(first, end)


def _release(start: int, end: int) -> None:
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if start < end:
        advise(start, end - start, mmap.MADV_DONTNEED)  # if it fails, the memory stays as it is
