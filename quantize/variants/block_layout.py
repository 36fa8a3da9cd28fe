"""Where the blocks of a quantized type store the codes of their weights, and the values of the codes.

A code is the small integer that a weight is rounded to; the scales stored with it stay unchanged here. The positions
are those of `block_q4_K` and the other block structs in ggml-common.h, in the order in which `dequantize_row_q4_K` and
the other functions of ggml-quants.c read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from .schemes import BLOCKS

ByteArray: TypeAlias = NDArray[np.uint8]
FloatArray: TypeAlias = NDArray[np.float32]


class CodeField(NamedTuple):
    """`bits` bits of every code, from bit `low`: their byte in the block, and their first bit in that byte."""

    bits: int
    low: int
    byte: NDArray[np.intp]
    shift: NDArray[np.intp]


@dataclass(frozen=True)
class BlockLayout:
    """`values` are those of the codes 0, 1, ..., in units of a scale. Codes are stored with `offset` added."""

    kind: str
    values: FloatArray
    fields: tuple[CodeField, ...]
    offset: int = 0

    @cached_property
    def middles(self) -> FloatArray:
        """The midpoints between neighboring values."""
        return np.asarray((self.values[1:] + self.values[:-1]) / 2, np.float32)

    def pack(self, blocks: ByteArray, codes: ByteArray) -> None:
        """Writes the codes (rows x weights of a row) into the blocks (rows x bytes of a row)."""
        weights, size = BLOCKS[self.kind]
        whole = blocks.reshape(-1, size)
        stored = (codes.reshape(-1, weights) + np.uint8(self.offset % 256)).astype(np.uint8)
        for bits, low, byte, shift in self.fields:
            mask = (1 << bits) - 1
            parts = ((stored >> low) & mask) << shift.astype(np.uint8)
            shared = np.argsort(byte, kind="stable").reshape(-1, (byte == byte[0]).sum())
            own = np.bitwise_or.reduce(
                np.full(weights, mask, np.uint8)[shared] << shift.astype(np.uint8)[shared], axis=1
            )
            places = byte[shared[:, 0]]
            whole[:, places] = whole[:, places] & ~own | np.bitwise_or.reduce(parts[:, shared], axis=2)

    def unpack(self, blocks: ByteArray) -> FloatArray:
        return np.asarray(dequantize(blocks, GGMLQuantizationType[self.kind]), np.float32)

    def grid(self, blocks: ByteArray) -> tuple[FloatArray, FloatArray]:
        """Returns, for each weight, the value of code 0 and the scale. Overwrites the codes in `blocks`.

        A weight with code c is the value of code 0 plus the scale times `values[c] - values[0]`.
        """
        codes = np.zeros((len(blocks), blocks.shape[1] // BLOCKS[self.kind][1] * BLOCKS[self.kind][0]), np.uint8)
        self.pack(blocks, codes)
        least = self.unpack(blocks)
        self.pack(blocks, codes + np.uint8(len(self.values) - 1))
        return least, (self.unpack(blocks) - least) / (self.values[-1] - self.values[0])

    @cached_property
    def even(self) -> bool:
        """Whether neighboring values are exactly one step apart."""
        return bool((np.diff(self.values) == 1).all())

    def nearest(self, steps: FloatArray) -> ByteArray:
        """Returns the codes of numbers given in steps from code 0."""
        if self.even:
            return np.clip(np.rint(steps), 0, len(self.values) - 1).astype(np.uint8)
        return np.searchsorted(self.middles - self.values[0], steps).astype(np.uint8)


_Positions = NDArray[np.intp] | int


def _layout(
    kind: str, values: int | Sequence[int], *fields: tuple[int, int, _Positions, _Positions], offset: int = 0
) -> BlockLayout:
    levels = np.arange(values) if isinstance(values, int) else np.array(values)
    count = BLOCKS[kind][0]
    places = [CodeField(bits, low, np.broadcast_to(byte, count), np.broadcast_to(shift, count))
              for bits, low, byte, shift in fields]  # fmt: skip
    return BlockLayout(kind, levels.astype(np.float32), tuple(places), offset)


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""`kvalues_iq4nl` of ggml-common.h."""
_I = np.arange(256)
_N = np.arange(32)
_HALVES = (_N % 16, _N // 16 * 4)
"""The first 16 of 32 weights are in the low halves of 16 bytes, the others in the high halves."""
_NIBBLES = (_I // 64 * 32 + _I % 32, _I % 64 // 32 * 4)
_PAIRS = (_I // 128 * 32 + _I % 32, _I % 128 // 32 * 2)

LAYOUTS = {
    layout.kind: layout
    for layout in (
        _layout("Q2_K", 4, (2, 0, 16 + _PAIRS[0], _PAIRS[1])),
        _layout("Q3_K", 8, (2, 0, 32 + _PAIRS[0], _PAIRS[1]), (1, 2, _I % 32, _I // 32)),
        _layout("Q4_K", 16, (4, 0, 16 + _NIBBLES[0], _NIBBLES[1])),
        _layout("Q5_K", 32, (4, 0, 48 + _NIBBLES[0], _NIBBLES[1]), (1, 4, 16 + _I % 32, _I // 32)),
        _layout("Q6_K", 64, (4, 0, _I // 128 * 64 + _I % 64, _I % 128 // 64 * 4), (2, 4, 128 + _PAIRS[0], _PAIRS[1])),
        _layout("IQ4_XS", _IQ4, (4, 0, 8 + _I // 32 * 16 + _I % 16, _I % 32 // 16 * 4)),
        _layout("Q4_0", 16, (4, 0, 2 + _HALVES[0], _HALVES[1])),
        _layout("IQ4_NL", _IQ4, (4, 0, 2 + _HALVES[0], _HALVES[1])),
        _layout("Q4_1", 16, (4, 0, 4 + _HALVES[0], _HALVES[1])),
        _layout("Q5_0", 32, (4, 0, 6 + _HALVES[0], _HALVES[1]), (1, 4, 2 + _N // 8, _N % 8)),
        _layout("Q5_1", 32, (4, 0, 8 + _HALVES[0], _HALVES[1]), (1, 4, 4 + _N // 8, _N % 8)),
        _layout("Q8_0", 255, (8, 0, 2 + _N, 0), offset=-127),
    )
}
