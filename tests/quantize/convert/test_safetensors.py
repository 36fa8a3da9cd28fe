"""Safetensors files are validated strictly: any bytes give either tensors or one clear error."""

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


def test_written_tensors_are_read_back(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
    for dtype in ("F32", "F16", "BF16"):
        path = checkpoints.safetensors(tmp_path / "a", {"x": values, "y": values[:1]}, dtype)
        tensors = read_header(path)
        assert np.array_equal(tensors["x"].rows(1, 3), values[1:3]) and tensors["y"].shape == (1, 3)


def entry(**change: Any) -> dict[str, Any]:
    return {"a": GOOD["a"] | change}


INVALID: dict[str, tuple[Any, bytes, int | None, str]] = {
    "empty": (b"", b"", 0, "header is not JSON"),
    "header longer than the file": (GOOD, bytes(24), 1 << 40, "truncated"),
    "header is a list": ([], bytes(24), None, "not a JSON object"),
    "not UTF-8": (b"\xff\xfe{}", bytes(24), None, "header is not JSON"),
    "deeply nested JSON": (b"[" * 100_000, b"", None, "header is not JSON"),
    "a duplicate name": (b'{"a": {}, "a": {}}', b"", None, "occurs twice"),
    "an entry that is a number": ({"a": 5}, bytes(24), None, "lacks dtype"),
    "an unknown number format": (entry(dtype="Q9"), bytes(24), None, "unknown number format 'Q9'"),
    "a negative size": (entry(shape=[-2, -3]), bytes(24), None, "impossible shape"),
    "a size that is a boolean": (entry(shape=[True, 6]), bytes(24), None, "impossible shape"),
    "an impossibly large size": (entry(shape=[1 << 60, 1 << 60]), bytes(24), None, "takes"),
    "more weights than bytes": (entry(shape=[4, 4]), bytes(24), None, "takes 64 bytes, not 24"),
    "an end before its begin": (entry(data_offsets=[24, 0]), bytes(24), None, "takes 24 bytes, not -24"),
    "a gap": (entry(data_offsets=[4, 28]), bytes(28), None, "leaves a gap"),
    "overlap": (GOOD | {"b": GOOD["a"]}, bytes(24), None, "overlaps"),
    "truncated": (GOOD, bytes(20), None, "truncated"),
    "trailing bytes": (GOOD, bytes(32), None, "followed by other bytes"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_files_are_refused(tmp_path: Path, case: str) -> None:
    header, data, length, message = INVALID[case]
    with pytest.raises(ModelError, match=message):
        read_header(written(tmp_path / "a", header, data, length))


def test_unsupported_number_formats_are_named(tmp_path: Path) -> None:
    tensors = read_header(written(tmp_path / "a", entry(dtype="F8_E4M3", shape=[24])))
    with pytest.raises(ModelError, match="stored as F8_E4M3; only F32, F16 and BF16"):
        tensors["a"].rows(0, 1)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 200), put=st.binary(max_size=6), take=st.integers(0, 8))
def test_damaged_files_give_an_error_or_consistent_tensors(tmp_path: Path, at: int, put: bytes, take: int) -> None:
    path = checkpoints.safetensors(tmp_path / "a", {"x": np.ones((4, 3), np.float32), "y": np.ones(5, np.float32)})
    data = path.read_bytes()
    path.write_bytes(data[:at] + put + data[at + take :])
    try:
        tensors = read_header(path)
    except ModelError as error:
        assert error.message.startswith("a: ")
    else:
        assert sum(tensor.nbytes for tensor in tensors.values()) < path.stat().st_size
