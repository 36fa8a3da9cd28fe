"""Weights that a type cannot represent are counted."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from fakes.gguf_writing import write_and_close
from galago.quantize.variants import invalid_values

NAN, INF, BEYOND = np.nan, np.inf, "beyond 65504, which is F16's largest"


@pytest.mark.parametrize(
    ("values", "stored", "target", "expected"),
    [
        ([], "F32", "F16", ""),
        ([NAN], "F32", "Q4_0", "1 is NaN"),
        ([NAN, NAN, INF, -INF, -INF], "F16", "Q4_0", "2 are NaN and 3 are infinite"),
        ([INF], "BF16", "F16", "1 is infinite"),
        ([65504.0, -65504.0], "F32", "F16", ""),
        ([1e6, -1e6, 65536.0], "F32", "F16", f"3 are {BEYOND}"),
        ([1e6, NAN], "BF16", "F16", f"1 is NaN and 1 is {BEYOND}"),
        ([1e6], "F32", "Q4_0", ""),
        ([], "Q8_0", "F16", ""),
    ],
)
def test_weights_are_counted_by_kind(
    values: list[float], stored: str, target: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever block they are in."""
    monkeypatch.setattr(invalid_values, "_BLOCK_WEIGHTS", 10)
    weights = np.zeros((2, 32), np.float32)
    weights.reshape(-1)[5 : 5 + 11 * len(values) : 11] = values
    kind = gguf.GGMLQuantizationType[stored]
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("other", np.full((1, 32), NAN, np.float32))
    writer.add_tensor("weights", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    write_and_close(writer)
    found = invalid_values.describe(tmp_path / "model.gguf", "weights", target)
    assert found == (f"of its 64 weights, {expected}" if expected else "")
