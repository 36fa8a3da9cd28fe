"""Mixture search: the best choice in a budget, what is measured for it, and that nothing is measured twice."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.experts import write
from galago.models.capacity.throughput import MachineBenchmark, WeightTypeSpeed
from galago.models.errors import ConfigError
from galago.models.gguf.header import TensorInfo
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import calibration, imatrix
from galago.quantize.search import divergence, latency, mixture, sensitivity
from galago.quantize.search.allocation import Option, allocate
from galago.quantize.search.divergence import SegmentDivergence, mean_divergence
from galago.quantize.search.divergence_job import kl_divergences
from galago.quantize.variants import variant
from galago.quantize.variants.schemes import BLOCKS, find
from galago.quantize.variants.source import SourceModel, open_source
from galago.runtime.cli.main import main

TEXT = builtin_folder() / "text-F16.gguf"
Calibrated = tuple[calibration.CalibrationData, imatrix.ImportanceMatrix]

options = st.builds(Option, st.integers(0, 2000), st.floats(0, 10))
problems = st.lists(st.lists(options, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(problems, st.integers(0, 10_000))
def test_no_choice_in_the_budget_costs_less(groups: list[list[Option]], budget: int) -> None:
    possible = [c for c in itertools.product(*groups) if sum(option.size for option in c) <= budget]
    if not possible:
        with pytest.raises(ConfigError, match="are not enough"):
            allocate(groups, budget)
        return
    chosen = [options[i] for options, i in zip(groups, allocate(groups, budget), strict=True)]
    assert sum(option.size for option in chosen) <= budget
    assert sum(option.cost for option in chosen) == pytest.approx(min(sum(o.cost for o in c) for c in possible))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_large_budgets_are_solved_almost_optimally(seed: int) -> None:
    """Costs fall as bytes grow, as with more bits per weight. The lower bound is that of the relaxed problem."""
    random = np.random.default_rng(seed)
    weights, costs = random.integers(10**6, 10**8, 40), random.lognormal(0, 2, 40)
    kinds = (2.6, 3.4, 4.25, 4.5, 5.5, 6.6, 8.5)
    groups = [
        [Option(int(w * bits / 8), c * 4.0**-bits) for bits in kinds] for w, c in zip(weights, costs, strict=True)
    ]
    budget = int(sum(weights) * 4.9 / 8)
    chosen = [options[i] for options, i in zip(groups, allocate(groups, budget), strict=True)]
    cost = sum(option.cost for option in chosen)
    bound = max(lagrangian(groups, budget, price) for price in np.geomspace(1e-12, 1e-6, 100))
    assert sum(option.size for option in chosen) <= budget and bound <= cost < 1.02 * bound


def lagrangian(groups: list[list[Option]], budget: int, price: float) -> float:
    return sum(min(o.cost + price * o.size for o in options) for options in groups) - price * budget


def test_divergence_is_that_of_the_softmaxes() -> None:
    before, after = np.random.default_rng(1).normal(0, 3, (2, 5, 40)).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (before, after))
    np.testing.assert_allclose(kl_divergences(before, after), (p * np.log(p / q)).sum(1), rtol=1e-9)
    assert kl_divergences(before, before).tolist() == [0] * 5
    assert np.isfinite(kl_divergences(before * 1000, after)).all()
    after[1, 2], after[3] = np.nan, np.inf
    assert np.isinf(kl_divergences(before, after)).tolist() == [False, True, False, True, False]


def test_kinds_count_equally_whatever_their_number_of_positions() -> None:
    kinds = [("text", 100, 1.0), ("text", 300, 7.0), ("pictures", 2, 0.2)]
    segments = [SegmentDivergence(*kind) for kind in kinds]
    assert divergence.divergence_by_kind(segments) == {"text": 0.02, "pictures": 0.1}
    assert mean_divergence(segments) == pytest.approx(0.06)


def test_tensors_are_grouped_by_kind_and_third_of_the_layers() -> None:
    tensors = tuple(TensorInfo(f"blk.{i}.attn_q.weight", (256, 256), 1, 0, 2 * 256 * 256) for i in range(9))
    embedding = TensorInfo("token_embd.weight", (256, 512), 1, 0, 2 * 256 * 512)
    source = SourceModel(read_header(TEXT), (TEXT,), (embedding, *tensors))
    names = [tensor.name for tensor in source.tensors]
    groups = sensitivity.tensor_groups(source, names, "normal")
    assert [len(group.tensors) for group in groups] == [1, 3, 3, 3]
    assert len(sensitivity.tensor_groups(source, names, "thorough")) == 10


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder = tmp_path_factory.mktemp("search")
    write(folder / "model.gguf")
    text = folder / "text.txt"
    text.write_text("What day comes after Monday? Tuesday. How many shapes are there? Four. " * 20, encoding="utf-8")
    source = open_source(str(folder / "model.gguf"))
    selected = calibration.select_data(source, None, [text], chunk_tokens=64)
    data = replace(selected, held_out_every=divergence.HELD_OUT_EVERY)
    return data, calibration.collect(data, folder / "part")


def test_a_mixture_fits_its_budget_and_is_not_worse_than_the_scheme(calibrated: Calibrated, tmp_path: Path) -> None:
    data, matrix = calibrated
    budget = mixture.resolve_budget(data.source, matrix, None, None, "Q4_0")
    steps: list[str] = []
    result = mixture.find_mixture(data, matrix, budget, "quick", lambda name, _fraction: steps.append(name))
    variant.write(result.plan, tmp_path / "q.gguf")
    assert result.plan.size <= budget.size and (tmp_path / "q.gguf").stat().st_size <= budget.size + 4096
    assert result.plan.recipe.types or result.uses_stock
    assert result.uses_stock == (mean_divergence(result.stock_measured) < mean_divergence(result.measured))
    assert result.stock == "Q4_0" and result.predicted is not None and result.predicted > 0
    singles = [name for name in steps if " as " in name]
    groups = sensitivity.tensor_groups(data.source, quantizable_names(data.source), "quick")
    assert len(singles) == len(set(singles)) >= len(groups)

    more_steps: list[str] = []
    more = mixture.MixtureBudget(budget.size + 20_000)
    other = mixture.find_mixture(data, matrix, more, "quick", lambda name, _fraction: more_steps.append(name))
    assert not set(more_steps) & set(singles)  # cached measurements are reused
    assert other.predicted is not None
    assert other.plan.size > result.plan.size and other.predicted <= result.predicted


def test_the_chosen_mixture_relies_on_measured_costs(calibrated: Calibrated) -> None:
    """Every choice is measured in the end, even if few types were measured at first."""
    data, matrix = calibrated
    budget = mixture.resolve_budget(data.source, matrix, None, None, "Q5_0")
    result = mixture.find_mixture(data, matrix, budget, "quick")
    for group in sensitivity.tensor_groups(data.source, quantizable_names(data.source), "quick"):
        types = {result.plan.recipe.types[tensor.name] for tensor in group.tensors}
        name = types.pop()
        assert not types and (name == group.current_type or is_cached(data, matrix, f"{group.name} as {name}"))


def is_cached(data: calibration.CalibrationData, matrix: imatrix.ImportanceMatrix, name: str) -> bool:
    """Whether a measurement is cached: measuring it again then reports no progress."""
    groups = sensitivity.tensor_groups(data.source, quantizable_names(data.source), "quick")
    steps: list[str] = []
    meter = divergence.DivergenceMeter(data, matrix, mixture._MAX_CHUNKS["quick"])
    costs = sensitivity.TypeCosts(groups, {}, meter, lambda step, _fraction: steps.append(step))
    costs.measure_single((group, each) for group in groups for each in group.types if name == f"{group.name} as {each}")
    return not steps


def quantizable_names(source: SourceModel) -> list[str]:
    plan = variant.plan(source, variant.Recipe(find("Q4_0")))
    return [name for name, type_name in plan.types.items() if BLOCKS[type_name][0] > 1]


def test_a_budget_that_is_too_small_is_refused(calibrated: Calibrated) -> None:
    data, matrix = calibrated
    with pytest.raises(ConfigError, match="bytes too small for the smallest variant"):
        mixture.find_mixture(data, matrix, mixture.MixtureBudget(1000), "quick")


def test_bits_per_weight_are_those_of_the_whole_model(calibrated: Calibrated) -> None:
    data, matrix = calibrated
    budget = mixture.resolve_budget(data.source, matrix, None, 5.0, None).size
    plan = variant.plan(data.source, variant.Recipe(find("Q8_0")))
    assert budget - (plan.size - sum(plan.nbytes.values())) == pytest.approx(data.source.parameters * 5 / 8, rel=0.02)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "give exactly one of"),
        (["--bits", "4", "--scheme", "Q8_0"], "give exactly one of"),
        (["--scheme", "Q8_0", "--speed", "4"], "cannot be combined with --speed"),
        (["--speed", "1e6"], "are impossible"),
        (["--bits", "4", "--for", "builtin"], "only for quantizing a projector"),
        (["--scheme", "Q8_0", "--drop-layers", "6"], "1 to 5 of the 6 layers can be dropped"),
        (["--bits", "4", "--effort", "great"], "no effort great"),
        (["--bits", "4", "--no-calibration"], "needs calibration"),
    ],
)
def test_contradictory_options_are_refused(
    tmp_path: Path, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(TEXT), "-o", str(tmp_path / "q.gguf"), *extra]) == 1
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_damaged_caches_are_measured_again(tmp_path: Path) -> None:
    for text in ("", "[]", "{", json.dumps({"a": 1}), json.dumps({"a": [["text", "x"]]})):
        (tmp_path / "r.json").write_text(text, encoding="utf-8")
        assert divergence._cache_file(tmp_path / "r.json").read() == {}


def test_a_required_speed_is_reached_with_the_least_loss(calibrated: Calibrated) -> None:
    """On a CPU that reads Q4_0 twice as fast as other types, some weights become Q4_0, and no more than necessary."""
    data, matrix = calibrated
    rates = {
        kind: WeightTypeSpeed(2e8 if kind == "Q4_0" else 1e8, 1e9, 0.0) for kind in (*sensitivity.TYPES, "F16", "F32")
    }
    benchmark = MachineBenchmark(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, rates)
    all_q8 = dict.fromkeys(quantizable_names(data.source), "Q8_0")
    usual = 1 / latency.latency_target(data.source, 1.0, benchmark).seconds(all_q8)

    def fastest(tokens_per_second: float) -> mixture.MixtureResult:
        target = latency.latency_target(data.source, tokens_per_second, benchmark)
        budget = mixture.resolve_budget(data.source, matrix, None, None, None, target)
        return mixture.find_mixture(data, matrix, budget, "quick")

    slow, quick = fastest(usual * 0.9), fastest(usual * 1.3)
    seconds = latency.latency_target(data.source, 1.0, benchmark).seconds(quick.plan.types)
    assert 1 / (usual * 1.4) < seconds <= 1 / (usual * 1.3)
    assert slow.predicted is not None and quick.predicted is not None and slow.predicted < quick.predicted
    with pytest.raises(ConfigError, match="the fastest mixture"):
        fastest(usual * 2)


def test_a_projector_is_measured_by_what_its_model_answers(tmp_path: Path) -> None:
    """Chats without images or audio are not read for it."""
    with_image = [
        {"type": "text", "text": "How many shapes are there?"},
        {"type": "image", "file": str(builtin_folder() / "samples" / "shapes.png")},
    ]
    questions = [with_image, "What day comes after Monday?"]
    lines = [{"messages": [{"role": "user", "content": questions[i // 4]}, {"role": "assistant", "content": "Six."}]}
             for i in range(8)]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    model, projector = open_source("builtin"), open_source(str(builtin_folder() / "mmproj-F16.gguf"))
    data = calibration.select_data(model, projector.path, [tmp_path / "chats.jsonl"])
    plans = {name: variant.plan(projector, variant.Recipe(find(name))) for name in ("Q8_0", "Q4_0")}
    meter = divergence.DivergenceMeter(data, None, 8, vary_projector=True)
    measured = meter.measure({name: mixture.plan_spec(plan) for name, plan in plans.items()})
    assert [[each.kind for each in segments] for segments in measured.values()] == [["pictures"], ["pictures"]]
    assert 0 < mean_divergence(measured["Q8_0"]) < mean_divergence(measured["Q4_0"])
    groups = sensitivity.tensor_groups(projector, plans["Q4_0"].recipe.types, "normal")
    names = {group.name for group in groups}
    assert {"v.ffn_up.weight of the first layers", "a.ffn_up.weight of the last layers"} <= names


@pytest.mark.parametrize("extra", [[], ["--for", "builtin"], ["--for", "builtin", "--speed", "20"]])
def test_a_projectors_mixture_needs_its_model_and_data(
    tmp_path: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    projector, out = str(builtin_folder() / "mmproj-F16.gguf"), tmp_path / "q.gguf"
    assert main(["quantize", projector, "--bits", "5", "-o", str(out), *extra]) == 1
    error = capsys.readouterr().err
    assert ("does not generate tokens" if "--speed" in extra else "give the model with --for") in error
    assert not list(tmp_path.iterdir())
