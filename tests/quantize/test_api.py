"""The use cases of quantization without the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from galago.models.errors import ConfigError
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import builtin_folder
from galago.quantize import api
from galago.quantize.progress import Progress

TEXT = builtin_folder() / "text-F16.gguf"


def test_quantize_writes_a_variant_and_reports_its_stages(tmp_path: Path) -> None:
    stages: list[str] = []
    steps: list[float] = []

    @contextmanager
    def stage(name: str) -> Iterator[Progress]:
        stages.append(name)
        yield lambda _tensor, fraction: steps.append(fraction)

    result = api.quantize(api.QuantizationRequest(str(TEXT), tmp_path / "q.gguf", scheme="int8"), stage)
    assert stages == ["quantizing text-F16.gguf"] and steps[0] == 0 and steps == sorted(steps) and steps[-1] < 1
    assert result.mixture is None and not result.dropped_layers
    types = {tensor.name: tensor.type_name for tensor in read_header(result.output).tensors}
    assert types == result.plan.types and "Q8_0" in types.values()


def test_calibrate_writes_an_importance_matrix(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("What day comes after Monday? Tuesday. " * 40, encoding="utf-8")
    request = api.CalibrationRequest(str(TEXT), tmp_path / "m.gguf", (tmp_path / "text.txt",), chunk_tokens=64)
    matrix = api.calibrate(request)
    assert matrix.datasets == ("text.txt",) and matrix.chunk_size == 64
    assert {path.name for path in tmp_path.iterdir()} == {"m.gguf", "text.txt"}
    with pytest.raises(ConfigError, match="already exists"):
        api.calibrate(request)


@pytest.mark.parametrize("targets", [{}, {"scheme": "Q4_0", "bits": 4.0}, {"size": "30%", "like": "Q4_0"}])
def test_exactly_one_target_is_required(tmp_path: Path, targets: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give exactly one of"):
        api.quantize(api.QuantizationRequest(str(TEXT), tmp_path / "q.gguf", **targets))
