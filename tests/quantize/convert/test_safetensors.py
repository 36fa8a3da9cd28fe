"""Safetensors files are read strictly: whatever bytes there are, tensors or one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import checkpoints
from galago.models.errors import ModelError
from galago.quantize.convert.safetensors import read_header

GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def written(path: Path, header: Any, data: bytes = bytes(24), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
    for dtype in ("F32", "F16", "BF16"):
        path = checkpoints.safetensors(tmp_path / "a", {"x": values, "y": values[:1]}, dtype)
        found = read_header(path)
        assert np.array_equal(found["x"].rows(1, 3), values[1:3]) and found["y"].shape == (1, 3)


def entry(**change: Any) -> dict[str, Any]:
    return {"a": GOOD["a"] | change}


LIES: dict[str, tuple[Any, bytes, int | None, str]] = {
    "empty": (b"", b"", 0, "header is not JSON"),
    "header longer than the file": (GOOD, bytes(24), 1 << 40, "cut off"),
    "header is a list": ([], bytes(24), None, "not a JSON object"),
    "not UTF-8": (b"\xff\xfe{}", bytes(24), None, "header is not JSON"),
    "nested without end": (b"[" * 100_000, b"", None, "header is not JSON"),
    "a name twice": (b'{"a": {}, "a": {}}', b"", None, "stands twice"),
    "an entry that is none": ({"a": 5}, bytes(24), None, "lacks dtype"),
    "a number format that is none": (entry(dtype="Q9"), bytes(24), None, "unknown number format 'Q9'"),
    "a negative size": (entry(shape=[-2, -3]), bytes(24), None, "impossible shape"),
    "a size that is none": (entry(shape=[True, 6]), bytes(24), None, "impossible shape"),
    "a size beyond reason": (entry(shape=[1 << 60, 1 << 60]), bytes(24), None, "takes"),
    "more than it has room for": (entry(shape=[4, 4]), bytes(24), None, "takes 64 bytes, not 24"),
    "backwards": (entry(data_offsets=[24, 0]), bytes(24), None, "takes 24 bytes, not -24"),
    "a hole": (entry(data_offsets=[4, 28]), bytes(28), None, "leaves a hole"),
    "overlap": (GOOD | {"b": GOOD["a"]}, bytes(24), None, "overlaps"),
    "cut off": (GOOD, bytes(20), None, "cut off"),
    "bytes behind": (GOOD, bytes(32), None, "followed by other bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_told(tmp_path: Path, lie: str) -> None:
    header, data, length, message = LIES[lie]
    with pytest.raises(ModelError, match=message):
        read_header(written(tmp_path / "a", header, data, length))


def test_numbers_that_cannot_be_converted_are_named(tmp_path: Path) -> None:
    found = read_header(written(tmp_path / "a", entry(dtype="F8_E4M3", shape=[24])))
    with pytest.raises(ModelError, match="stored as F8_E4M3; F32, F16 and BF16"):
        found["a"].rows(0, 1)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 200), put=st.binary(max_size=6), take=st.integers(0, 8))
def test_any_damage_is_an_error_or_a_file_that_adds_up(tmp_path: Path, at: int, put: bytes, take: int) -> None:
    path = checkpoints.safetensors(tmp_path / "a", {"x": np.ones((4, 3), np.float32), "y": np.ones(5, np.float32)})
    data = path.read_bytes()
    path.write_bytes(data[:at] + put + data[at + take :])
    try:
        found = read_header(path)
    except ModelError as error:
        assert error.message.startswith("a: ")
    else:
        assert sum(tensor.nbytes for tensor in found.values()) < path.stat().st_size
