"""Importance matrices in the format that llama-imatrix wrote before GGUF."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from galago.models.errors import ModelError
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import calibration, imatrix, old_imatrix
from galago.quantize.calibrate.imatrix import ImatrixEntry, ImportanceMatrix
from galago.quantize.variants.source import open_source

NAME = "blk.0.attn_q.weight"


def content(rows: Mapping[str, tuple[int, NDArray[np.float32]]], end: bytes = b"") -> bytes:
    """`rows` are the number of calls, and the means times that number, by name."""
    entries = [
        struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)) + values.tobytes()
        for name, (calls, values) in rows.items()
    ]
    return struct.pack("<i", len(rows)) + b"".join(entries) + end


def footer(chunks: int, name: str) -> bytes:
    return struct.pack("<ii", chunks, len(name)) + name.encode()


VALUES = np.random.default_rng(0).random(12, np.float32)
WHOLE = content({NAME: (7, VALUES), "output.weight": (3, VALUES[:4])}, footer(9, "text.txt"))


@pytest.mark.parametrize("calls", [0, 1, 7, 1000])
def test_means_are_exactly_those_of_llama_quantize(calls: int, tmp_path: Path) -> None:
    (tmp_path / "imatrix.dat").write_bytes(content({NAME: (calls, VALUES)}))
    found = old_imatrix.read(tmp_path / "imatrix.dat")
    assert (found.means()[NAME] == VALUES / np.float32(max(calls, 1))).all()
    assert found.datasets == () and found.chunks == 0


def test_chunks_and_data_are_read_and_the_matrix_can_be_written_anew(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(WHOLE)
    source = open_source(str(builtin_folder() / "text-F16.gguf"))
    data = calibration.select_data(source, None, [tmp_path / "old"])
    assert data.matrices == (tmp_path / "old",) and not data.files
    found = calibration.collect(data, tmp_path / "part")
    assert found.datasets == ("text.txt",) and found.chunks == 9 and set(found.entries) == {NAME, "output.weight"}
    imatrix.write(tmp_path / "new.gguf", found)
    assert imatrix.read(tmp_path / "new.gguf").digest == found.digest


@pytest.mark.parametrize("size", range(9, len(WHOLE), 5))
def test_a_file_that_is_cut_off_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "imatrix.dat").write_bytes(WHOLE[:size])
    if size == len(WHOLE) - len(footer(9, "text.txt")):  # as early versions wrote it
        return
    with pytest.raises(ModelError, match="imatrix.dat is an importance matrix in llama-imatrix's old format that is"):
        old_imatrix.read(tmp_path / "imatrix.dat")


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (content({NAME: (4, np.array([1, np.nan], np.float32))}), f"{NAME} contains values that cannot be sums"),
        (content({NAME: (4, np.array([np.inf, 1], np.float32))}), f"{NAME} contains values that cannot be sums"),
        (content({NAME: (4, np.array([1, -1], np.float32))}), f"{NAME} contains values that cannot be sums"),
        (content({NAME: (-4, VALUES)}), f"{NAME} contains values that cannot be sums"),
        (content({NAME: (4, VALUES[:0])}), "damaged or cut off"),
        (content({NAME: (4, VALUES)}, struct.pack("<ii", 1, -5)), "damaged or cut off"),
        (content({NAME: (4, VALUES)}, struct.pack("<ii", 1, 1 << 30)), "damaged or cut off"),
        (struct.pack("<ii", 1, 2) + b"ab" + struct.pack("<ii", 1, 1 << 30), "damaged or cut off"),
        (struct.pack("<ii", 2, 2) + b"\xff\xff" + struct.pack("<ii", 1, 1), "damaged or cut off"),
    ],
)
def test_impossible_content_is_refused(damaged: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "imatrix.dat").write_bytes(damaged)
    with pytest.raises(ModelError, match=message):
        old_imatrix.read(tmp_path / "imatrix.dat")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (WHOLE, True),
        (b"", False),
        (b"text", False),
        (b"A text with some words in it, and an end.", False),
        (b"\n\n\n\n\n\n\n\n\n\n", False),
        ("Text".encode("utf-16"), False),
        (b'{"text": "Hi"}', False),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), False),
        (b"PK\x03\x04" + bytes(40), False),
        (bytes(40), False),
    ],
)
def test_the_format_is_recognized_by_its_content(data: bytes, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert old_imatrix.is_old_format(tmp_path / "file") is expected


def test_experts_of_both_formats_are_added(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(content({NAME: (1, VALUES)}))
    old = old_imatrix.read(tmp_path / "old")
    entry = ImatrixEntry(VALUES.reshape(3, 4), np.array([0, 512, 1024], np.float32))
    new = ImportanceMatrix({NAME: entry})
    for both in ([old, new], [new, old]):
        merged = imatrix.merge(both).entries[NAME]
        assert merged.counts.tolist() == [512, 1024, 1536]
        assert np.allclose(merged.sums, VALUES.reshape(3, 4) * 513)


def test_experts_that_no_token_reached_are_counted() -> None:
    """Means of 1 stand for them in both formats; the old one has no other trace of them."""
    reached, unreached = [2.0, 1.0], [0.0, 0.0]
    new = ImatrixEntry(np.array([reached, unreached, unreached], np.float32), np.array([1, 0, 0], np.float32))
    old = ImatrixEntry(np.array([[2.0, 1.0, 1.0, 1.0, 1.0, 1.0]], np.float32), np.array([1], np.float32))
    assert new.unvisited(3) == old.unvisited(3) == 2
    assert ImatrixEntry(np.ones((1, 4), np.float32), np.array([1], np.float32)).unvisited(1) == 0
