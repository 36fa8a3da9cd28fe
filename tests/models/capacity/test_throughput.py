"""Speed estimates: the arithmetic on made-up machines, and a real benchmark of this one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fakes import shapes
from galago.models.capacity.recommend import recommend, weight_type_of_quant
from galago.models.capacity.throughput import (
    ENGINE_SECONDS_PER_TOKEN,
    SPLIT_KV_TOKENS,
    MachineBenchmark,
    WeightTypeSpeed,
    chunk,
    estimate_speed,
    matrix_types,
    token_costs,
)
from galago.models.errors import EngineError
from galago.models.gguf.header import GGUFHeader
from galago.models.gguf.reader import read_header
from galago.models.json_file import seal, unseal
from galago.models.registry.catalog import CatalogEntry, CatalogQuant, entries
from galago.models.registry.resolve import resolve
from galago.runtime.inference import machine_benchmark

GIB = 1 << 30
RATES = {
    "Q4_0": WeightTypeSpeed(10e9, 40e9, 0.0),
    "Q8_0": WeightTypeSpeed(12e9, 40e9, 0.0),
    "Q4_K": WeightTypeSpeed(10e9, 40e9, 0.0),
    "F16": WeightTypeSpeed(13e9, 30e9, 0.0),
}
MACHINE = MachineBenchmark(2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, RATES)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GGUFHeader]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: read_header(shapes.write(folder / f"{name}.gguf", shapes.SHAPES[name])) for name in ("1B", "8B")}


def test_a_token_takes_as_long_as_reading_its_weights(headers: dict[str, GGUFHeader]) -> None:
    size = {tensor.name: tensor.nbytes or 0 for tensor in headers["8B"].tensors if len(tensor.shape) > 1}
    found = estimate_speed(headers["8B"], MACHINE, 8192)
    assert found and 1 / found.tokens_per_second == pytest.approx(
        (sum(size.values()) - size["token_embd.weight"]) / 10e9 + ENGINE_SECONDS_PER_TOKEN
    )
    tied = {tensor.name: tensor.nbytes or 0 for tensor in headers["1B"].tensors if len(tensor.shape) > 1}
    found = estimate_speed(headers["1B"], MACHINE, 8192)
    assert found and 1 / found.tokens_per_second == pytest.approx(sum(tied.values()) / 10e9 + ENGINE_SECONDS_PER_TOKEN)


def test_attention_takes_more_time_after_more_tokens(headers: dict[str, GGUFHeader]) -> None:
    plain = estimate_speed(headers["1B"], MACHINE, 8192)
    slow = estimate_speed(headers["1B"], replace(MACHINE, layer_seconds=0.001, attention_seconds=1e-9), 8192, prompt=1)
    assert plain and slow and plain.tokens_per_second == plain.full_context_tokens_per_second
    assert 1 / slow.tokens_per_second - 1 / plain.tokens_per_second == pytest.approx(16 * 0.001, rel=0.01)
    assert 1 / slow.full_context_tokens_per_second - 1 / slow.tokens_per_second == pytest.approx(
        8191 * 16 * 2 * 2048 * 1e-9
    )


def test_splitting_attention_between_threads_costs_time_in_each_layer(headers: dict[str, GGUFHeader]) -> None:
    machine = replace(MACHINE, split_kv_seconds=0.001)
    found = estimate_speed(headers["1B"], machine, 8192, prompt=SPLIT_KV_TOKENS - 1)
    assert found and 1 / found.full_context_tokens_per_second - 1 / found.tokens_per_second == pytest.approx(16 * 0.001)


def test_the_first_token_waits_for_the_prompt(headers: dict[str, GGUFHeader]) -> None:
    short, long = (estimate_speed(headers["1B"], MACHINE, 8192, prompt) for prompt in (128, 512))
    assert (
        short
        and long
        and 3.5
        < (long.first_token_seconds - 1 / long.tokens_per_second)
        / (short.first_token_seconds - 1 / short.tokens_per_second)
        < 4.5
    )
    cut = estimate_speed(headers["1B"], MACHINE, 256, 512)
    assert cut and cut.prompt_tokens == 256


def test_prompt_rows_skip_matrices_that_only_logits_need(headers: dict[str, GGUFHeader]) -> None:
    tensors = [tensor for tensor in headers["1B"].tensors if len(tensor.shape) > 1]
    rest = [t for t in tensors if t.name != "token_embd.weight" and ("blk.15." not in t.name or "attn_o" not in t.name)]
    rest = [t for t in rest if "blk.15.ffn" not in t.name]
    found = estimate_speed(headers["1B"], MACHINE, 8192, 512)
    assert found
    products = 512 * sum(t.shape[0] * t.shape[1] for t in rest)
    assert found.first_token_seconds - 1 / found.tokens_per_second == pytest.approx(
        products / RATES["Q4_0"].products_per_second
    )


def test_an_unmeasured_weight_type_has_no_estimate(headers: dict[str, GGUFHeader]) -> None:
    assert matrix_types(headers["1B"]) == ["Q4_0"]
    assert estimate_speed(headers["1B"], replace(MACHINE, types={"Q8_0": RATES["Q8_0"]}), 8192) is None


def test_inactive_experts_take_no_time(headers: dict[str, GGUFHeader]) -> None:
    dense = headers["8B"]
    rows = [replace(t, name=t.name.replace("ffn_up", "ffn_up_exps")) for t in dense.tensors]
    keys = {"llama.expert_count": 8, "llama.expert_used_count": 2}
    sparse = replace(dense, tensors=tuple(rows), metadata={**dense.metadata, **keys})
    saved = sum(t.nbytes or 0 for t in dense.tensors if "ffn_up" in t.name) * 0.75 / 10e9
    one, other = estimate_speed(dense, MACHINE, 256), estimate_speed(sparse, MACHINE, 256)
    assert one and other and 1 / one.tokens_per_second - 1 / other.tokens_per_second == pytest.approx(saved)


def test_this_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = machine_benchmark.measured(matrix_types(resolve("builtin").header))
    assert (
        found.layer_seconds > 0
        and found.types["Q8_0"].bytes_per_second > 1e8
        and found.types["Q8_0"].products_per_second > 1e8
    )
    path = machine_benchmark._benchmarks().path
    [(key, row)] = json.loads(unseal(path.read_bytes())).items()
    row["types"]["F16"] = {"bytes_per_second": 3.0, "products_per_second": 4.0, "output_seconds": 0.0}
    path.write_bytes(seal(json.dumps({key: row}).encode()))
    assert asdict(machine_benchmark.measured(["Q8_0", "F16"])) == row  # nothing was measured again
    text_for_number = {**row, "layer_seconds": "1"}
    for damaged in ("{", '["no"]', json.dumps({key: {"types": 3}}), json.dumps({key: text_for_number})):
        path.write_bytes(seal(damaged.encode()))
        assert machine_benchmark._benchmark(machine_benchmark._benchmarks().read().get(key)) is None


def test_a_failed_benchmark_is_reported() -> None:
    with pytest.raises(EngineError, match="galago doctor"):
        machine_benchmark.run(["no such type"], 1)


def test_the_main_weight_type_of_a_quantization() -> None:
    names = {"Q4_K_M": "Q4_K", "UD-Q4_K_XL": "Q4_K", "q8_0": "Q8_0", "IQ4_XS": "IQ4_XS", "BF16": "BF16", "odd": ""}
    assert {name: weight_type_of_quant(name) for name in names} == names


def entry(name: str, parameters: int, *quants: CatalogQuant) -> CatalogEntry:
    return CatalogEntry(name, f"owner/{name}", parameters, "MIT", "", quants=quants)


def test_the_best_model_that_fits_comes_first() -> None:
    known = [
        entry("small", 500_000_000, CatalogQuant("Q4_0"), CatalogQuant("Q8_0")),
        entry("large", 3_000_000_000, CatalogQuant("Q4_K_M", 1_500_000_000), CatalogQuant("Q8_0")),
        entry("slow", 9_000_000_000, CatalogQuant("Q4_0")),
        entry("odd", 100, CatalogQuant("no such type")),
    ]
    found = [(c.entry.name, c.quant.name) for c in recommend(known, 64 * GIB, 4096, MACHINE)]
    fluent = [("large", "Q4_K_M"), ("small", "Q8_0"), ("small", "Q4_0")]
    assert found == [*fluent, ("slow", "Q4_0"), ("large", "Q8_0")]


@pytest.mark.parametrize("gib", [0, 1, 2, 4, 8, 64])
def test_a_larger_budget_never_loses_a_model(gib: int) -> None:
    less, more = (recommend(entries(), int(size * GIB), 8192, MACHINE) for size in (gib, gib + 0.5))
    assert {(c.entry.name, c.quant.name) for c in less} <= {(c.entry.name, c.quant.name) for c in more}
    assert all(c.needed <= gib * GIB for c in less)
    rows = {(c.entry.name, c.quant.name) for c in recommend(entries(), int(gib * GIB), 16384, MACHINE)}
    assert rows <= {(c.entry.name, c.quant.name) for c in less}


def test_a_prompt_ends_with_a_tile_of_rows_because_fewer_rows_are_slower(
    headers: dict[str, GGUFHeader],
) -> None:
    assert [chunk(left, 512, 512) for left in (20, 512, 513, 575, 576, 2000)] == [20, 512, 449, 511, 512, 512]
    assert [chunk(left, 64, 512) for left in (64, 65, 128, 200)] == [64, 65, 64, 72]
    assert [chunk(65, most, 64) for most in (63, 64)] == [63, 64] and chunk(120, 100, 512) == 100
    machine = replace(MACHINE, prompt_attention_seconds=1e-11, small_batch_attention_seconds=1e-9)
    found = token_costs(headers["1B"], machine)
    assert found is not None
    few, tile = (found.first_token_seconds(4000 + rows, 4000) - found.token_seconds(4000 + rows) for rows in (63, 64))
    assert few > 4 * tile
    assert found.first_token_seconds(1030) - found.token_seconds(1030) < found.first_token_seconds(
        1100
    ) - found.token_seconds(1100)
