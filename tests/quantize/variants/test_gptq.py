"""GPTQ: where codes are stored, that scales are kept, and that matrix products get more accurate."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import calibration, imatrix
from galago.quantize.jobs import VariantSpec
from galago.quantize.search import divergence, sensitivity
from galago.quantize.variants import block_layout, gptq, variant
from galago.quantize.variants.block_layout import LAYOUTS
from galago.quantize.variants.layer_pruning import write_without_layers
from galago.quantize.variants.schemes import BLOCKS, TYPE_NUMBERS, find
from galago.quantize.variants.source import open_source
from galago.runtime.cli.main import main
from galago.runtime.llamacpp.library import llama

TEXT = builtin_folder() / "text-F16.gguf"
WORDS = "What day comes after Monday? Tuesday. How many shapes are there? Four. "
Floats = NDArray[np.float32]


def quantized(kind: str, weights: Floats) -> NDArray[np.uint8]:
    """Quantizes rows with llama.cpp."""
    rows, columns = weights.shape
    out = np.zeros((rows, columns // BLOCKS[kind][0] * BLOCKS[kind][1]), np.uint8)
    chunk = llama._lib.ggml_quantize_chunk
    chunk.restype, chunk.argtypes = ctypes.c_size_t, (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    written = chunk(TYPE_NUMBERS[kind], weights.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert written == out.nbytes
    return out


@pytest.mark.parametrize("kind", LAYOUTS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-4, 0.05, 30.0]))
def test_codes_are_stored_where_llamacpp_stores_them(kind: str, seed: int, size: float) -> None:
    """Blocks that are split into scales and codes and packed again have the same bytes."""
    layout, random = LAYOUTS[kind], np.random.default_rng(seed)
    weights = (random.standard_normal((3, 512)) * size).astype(np.float32)
    weights[1, 256:] = 0
    blocks = quantized(kind, weights)
    values, scaled = layout.unpack(blocks), blocks.copy()
    least, scales = layout.grid(scaled)
    steps = np.divide(values - least, scales, out=np.zeros_like(least), where=scales != 0)
    layout.pack(scaled, layout.nearest(steps))
    assert (layout.unpack(scaled) == values).all()
    scaled_by = (scales.reshape(-1, BLOCKS[kind][0]) != 0).all(axis=1)
    same = (scaled == blocks).reshape(-1, BLOCKS[kind][1]).all(axis=1)
    assert same[scaled_by].all()
    assert scaled_by.any()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_products_of_correlated_inputs_get_more_accurate(kind: str) -> None:
    random = np.random.default_rng(3)
    weights = random.standard_normal((64, 512)).astype(np.float32)
    inputs = random.standard_normal((4000, 24)) @ random.standard_normal((24, 512))
    inputs = (inputs + random.standard_normal(inputs.shape)).astype(np.float32)
    moments = np.stack([half.T @ half / len(half) for half in np.split(inputs, 2, axis=1)])
    blocks = quantized(kind, weights)
    rounded = gptq.rounded(LAYOUTS[kind], blocks.copy(), weights, [gptq.column_block(m) for m in moments])

    def error(quantized_blocks: NDArray[np.uint8]) -> float:
        return float(np.square(inputs @ (LAYOUTS[kind].unpack(quantized_blocks) - weights).T).mean())

    assert error(rounded) < 0.5 * error(blocks)


def test_uncorrelated_inputs_give_each_weight_its_nearest_code() -> None:
    weights = np.random.default_rng(4).standard_normal((8, 256)).astype(np.float32)
    layout, blocks = LAYOUTS["Q4_K"], quantized("Q4_K", weights)
    least, scales = layout.grid(blocks.copy())
    rounded = layout.unpack(gptq.rounded(layout, blocks, weights, [gptq.column_block(np.eye(256, dtype=np.float32))]))
    inside = (weights >= least) & (weights <= least + 15 * scales)
    assert (np.abs(rounded - weights)[inside] <= scales[inside] * 0.501).all()


def test_columns_without_inputs_are_rounded_to_nearest() -> None:
    weights = np.random.default_rng(5).standard_normal((8, 256)).astype(np.float32)
    unseen = np.zeros((256, 256), np.float32)
    made = gptq.rounded(LAYOUTS["Q4_K"], quantized("Q4_K", weights), weights, [gptq.column_block(unseen)])
    assert np.abs(LAYOUTS["Q4_K"].unpack(made) - weights).max() < 0.5


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[calibration.CalibrationData, imatrix.ImportanceMatrix]:
    folder = tmp_path_factory.mktemp("read")
    (folder / "text.txt").write_text(WORDS * 60, encoding="utf-8")
    source = open_source(str(TEXT))
    given_data = calibration.select_data(source, None, [folder / "text.txt"], chunk_tokens=64, max_segments=16)
    data = replace(given_data, held_out_every=divergence.HELD_OUT_EVERY, products=True)
    return data, calibration.collect(data, folder / "part")


def test_products_include_the_squares(read: tuple[calibration.CalibrationData, imatrix.ImportanceMatrix]) -> None:
    data, matrix = read
    for name, entry in matrix.entries.items():
        assert entry.products is not None
        own = np.diagonal(entry.products, axis1=1, axis2=2)
        np.testing.assert_allclose(own.reshape(-1), entry.sums.reshape(-1), rtol=1e-3, atol=1e-4, err_msg=name)
    assert matrix.entries["blk.0.ffn_down.weight"].products is not None
    assert matrix.entries["blk.0.ffn_down.weight"].products.shape == (1, 512, 512)
    both = imatrix.merge([matrix, matrix])
    np.testing.assert_allclose(both.moments()["blk.0.ffn_down.weight"], matrix.moments()["blk.0.ffn_down.weight"], 1e-5)
    plain = {name: replace(entry, products=None) for name, entry in matrix.entries.items()}
    assert not imatrix.merge([matrix, imatrix.ImportanceMatrix(plain)]).moments()
    means, moments = imatrix.split_arrays(matrix.arrays())
    assert set(means) == set(moments) == set(matrix.entries)
    assert imatrix.ImportanceMatrix(plain).digest != matrix.digest


def test_a_mixture_rounded_with_gptq_keeps_scales_and_diverges_less(
    read: tuple[calibration.CalibrationData, imatrix.ImportanceMatrix], tmp_path: Path
) -> None:
    data, matrix = read
    types = dict.fromkeys(matrix.entries, "Q4_K")
    recipe = variant.Recipe(find("Q4_K_M"), types=types, matrix=matrix)
    names: list[str] = []
    for out, use_gptq in (("nearest", False), ("gptq", True)):
        plan = variant.plan(data.source, replace(recipe, gptq=use_gptq))
        variant.write(plan, tmp_path / f"{out}.gguf", progress=lambda name, _fraction: names.append(name))
    assert {f"{name} (GPTQ)" for name in types} <= set(names)
    before, after = (gguf.GGUFReader(tmp_path / f"{name}.gguf") for name in ("nearest", "gptq"))
    for a, b in zip(before.tensors, after.tensors, strict=True):
        assert a.name == b.name and a.tensor_type == b.tensor_type
        if a.name in types:
            assert (a.data.reshape(-1, 144)[:, :16] == b.data.reshape(-1, 144)[:, :16]).all(), a.name
            assert (a.data != b.data).any(), a.name
    paths = {name: VariantSpec(path=tmp_path / f"{name}.gguf") for name in ("nearest", "gptq")}
    measured = divergence.DivergenceMeter(data, None, 8).measure(paths)
    means = {name: divergence.mean_divergence(segments) for name, segments in measured.items()}
    assert means["gptq"] < 0.7 * means["nearest"]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with one of its six layers, which is calibrated and rounded in a sixth of the time."""
    return write_without_layers(open_source(str(TEXT)), range(1, 6), tmp_path_factory.mktemp("shallow")).path


def test_a_mixture_from_a_matrix_alone_is_not_rounded_with_gptq(
    shallow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, matrix = tmp_path / "text.txt", tmp_path / "m.gguf"
    text.write_text(WORDS * 200, encoding="utf-8")
    assert main(["calibrate", str(shallow), "--data", str(text), "-o", str(matrix), "--chunk", "64"]) == 0
    assert not imatrix.read(matrix).moments()
    options = ["--like", "Q4_0", "--effort", "none", "--calibration", str(matrix), "--calibration", str(text)]
    capsys.readouterr()
    assert main(["quantize", str(shallow), *options, "-o", str(tmp_path / "q.gguf")]) == 0
    assert "without GPTQ" in capsys.readouterr().out


def test_every_type_of_a_mixture_has_a_layout() -> None:
    assert set(block_layout.LAYOUTS) >= sensitivity.TYPES


def test_without_a_search_a_scheme_keeps_its_types(shallow: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "q.gguf"
    text.write_text(WORDS * 200, encoding="utf-8")
    given = ["quantize", str(shallow), "--effort", "none", "--calibration", str(text), "-o", str(out)]
    assert main([*given, "--like", "Q4_K_M"]) == 0
    source = open_source(str(shallow))
    plain = variant.plan(source, variant.Recipe(find("Q4_K_M")))
    written = read_header(out)
    assert {tensor.name: tensor.type_name for tensor in written.tensors} == plain.types
    assert out.stat().st_size < plain.size + 4096
    assert "GPTQ" in str(written.get("galago.quantize.rounding"))
