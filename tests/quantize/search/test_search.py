"""Budgets of bytes: the best choice, what is measured for it, and that nothing is measured twice."""

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
from galago.quantize.search import divergence as measuring
from galago.quantize.search import latency, mixture, type_costs
from galago.quantize.search.allocation import Option, allocate
from galago.quantize.search.divergence_job import divergences
from galago.quantize.variants import plan as variant
from galago.quantize.variants.schemes import BLOCKS, find
from galago.runtime.cli.main import main

TEXT = builtin_folder() / "text-F16.gguf"

options = st.builds(Option, st.integers(0, 2000), st.floats(0, 10))
problems = st.lists(st.lists(options, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(problems, st.integers(0, 10_000))
def test_no_other_choice_in_the_budget_costs_less(groups: list[list[Option]], budget: int) -> None:
    possible = [c for c in itertools.product(*groups) if sum(option.size for option in c) <= budget]
    if not possible:
        with pytest.raises(ConfigError, match="do not suffice"):
            allocate(groups, budget)
        return
    chosen = [options[i] for options, i in zip(groups, allocate(groups, budget), strict=True)]
    assert sum(option.size for option in chosen) <= budget
    assert sum(option.cost for option in chosen) == pytest.approx(min(sum(o.cost for o in c) for c in possible))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_a_budget_of_many_bytes_is_nearly_used_up(seed: int) -> None:
    """Costs that fall as bytes grow, as of types of more bits: the lower bound is that of the relaxed problem."""
    random = np.random.default_rng(seed)
    weights, hurt = random.integers(10**6, 10**8, 40), random.lognormal(0, 2, 40)
    kinds = (2.6, 3.4, 4.25, 4.5, 5.5, 6.6, 8.5)
    groups = [[Option(int(w * bits / 8), h * 4.0**-bits) for bits in kinds] for w, h in zip(weights, hurt, strict=True)]
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
    np.testing.assert_allclose(divergences(before, after), (p * np.log(p / q)).sum(1), rtol=1e-9)
    assert divergences(before, before).tolist() == [0] * 5
    assert np.isfinite(divergences(before * 1000, after)).all()


def test_kinds_count_alike_however_many_positions_they_have() -> None:
    units: measuring.Units = [("text", 100, 1.0), ("text", 300, 7.0), ("pictures", 2, 0.2)]
    assert measuring.by_kind(units) == {"text": 0.02, "pictures": 0.1} and measuring.mean(units) == pytest.approx(0.06)


def test_tensors_of_a_kind_go_together_by_thirds_of_the_layers() -> None:
    tensors = tuple(TensorInfo(f"blk.{i}.attn_q.weight", (256, 256), 1, 0, 2 * 256 * 256) for i in range(9))
    embedding = TensorInfo("token_embd.weight", (256, 512), 1, 0, 2 * 256 * 512)
    source = variant.Source(read_header(TEXT), (TEXT,), (embedding, *tensors))
    names = [tensor.name for tensor in source.tensors]
    found = type_costs.groups(source, names, "normal")
    assert [len(group.tensors) for group in found] == [1, 3, 3, 3]
    assert len(type_costs.groups(source, names, "thorough")) == 10


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[calibration.Data, imatrix.ImportanceMatrix, Path]:
    folder = tmp_path_factory.mktemp("search")
    write(folder / "model.gguf")
    text = folder / "text.txt"
    text.write_text("What day comes after Monday? Tuesday. How many shapes are there? Four. " * 20, encoding="utf-8")
    source = variant.open_source(str(folder / "model.gguf"))
    data = replace(calibration.data(source, None, [text], chunk=64), every=measuring.EVERY)
    return data, calibration.collect(data, folder / "part"), folder


def test_a_mixture_fits_its_budget_and_is_not_worse_than_the_scheme(
    searched: tuple[calibration.Data, imatrix.ImportanceMatrix, Path], tmp_path: Path
) -> None:
    data, matrix, _ = searched
    budget = mixture.budget_of(data.source, matrix, None, None, "Q4_0")
    told: list[tuple[int, int, str]] = []
    found = mixture.search(data, matrix, budget, "quick", lambda *step: told.append(step))
    variant.make(found.plan, tmp_path / "q.gguf")
    assert found.plan.size <= budget.size and (tmp_path / "q.gguf").stat().st_size <= budget.size + 4096
    assert found.plan.recipe.types or found.beaten
    assert found.beaten == (measuring.mean(found.stock_measured) < measuring.mean(found.mixture))
    assert found.stock == "Q4_0" and found.predicted > 0
    singles = [name for _, _, name in told if " as " in name]
    assert len(singles) == len(set(singles)) >= len(type_costs.groups(data.source, narrowed(data.source), "quick"))

    again: list[str] = []
    more = mixture.Budget(budget.size + 20_000)
    other = mixture.search(data, matrix, more, "quick", lambda _i, _n, name: again.append(name))
    assert not set(again) & set(singles)  # what was measured before is not measured again
    assert other.plan.size > found.plan.size and other.predicted <= found.predicted


def test_a_choice_rests_on_measured_costs(searched: tuple[calibration.Data, imatrix.ImportanceMatrix, Path]) -> None:
    """However little was measured of all groups, all of what is chosen was measured in the end."""
    data, matrix, _ = searched
    told: list[str] = []
    budget = mixture.budget_of(data.source, matrix, None, None, "Q5_0")
    found = mixture.search(data, matrix, budget, "quick", lambda _i, _n, name: told.append(name))
    for group in type_costs.groups(data.source, narrowed(data.source), "quick"):
        kinds = {found.plan.recipe.types[tensor.name] for tensor in group.tensors}
        kind = kinds.pop()
        assert not kinds and (kind == group.own or measured_before(data, matrix, f"{group.name} as {kind}"))


def measured_before(data: calibration.Data, matrix: imatrix.ImportanceMatrix, name: str) -> bool:
    """Whether it is in the record of measurements: asking again tells of no progress."""
    found = type_costs.groups(data.source, narrowed(data.source), "quick")
    told: list[str] = []
    measure = measuring.Measure(data, matrix, mixture._UNITS["quick"])
    known = type_costs.TypeCosts(found, {}, measure, lambda _i, _n, name: told.append(name))
    known.learn((group, kind) for group in found for kind in group.types if name == f"{group.name} as {kind}")
    return not told


def narrowed(source: variant.Source) -> list[str]:
    plan = variant.plan(source, variant.Recipe(find("Q4_0")))
    return [name for name, kind in plan.types.items() if BLOCKS[kind][0] > 1]


def test_a_budget_that_is_too_small_is_told_with_the_least(
    searched: tuple[calibration.Data, imatrix.ImportanceMatrix, Path],
) -> None:
    data, matrix, _ = searched
    with pytest.raises(ConfigError, match="less than the smallest variant takes"):
        mixture.search(data, matrix, mixture.Budget(1000), "quick")


def test_bits_are_those_of_the_whole_model(searched: tuple[calibration.Data, imatrix.ImportanceMatrix, Path]) -> None:
    data, matrix, _ = searched
    budget = mixture.budget_of(data.source, matrix, None, 5.0, None).size
    plan = variant.plan(data.source, variant.Recipe(find("Q8_0")))
    assert budget - (plan.size - sum(plan.nbytes.values())) == pytest.approx(data.source.parameters * 5 / 8, rel=0.02)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ([], "say what to make"),
        (["--bits", "4", "--scheme", "Q8_0"], "say what to make"),
        (["--scheme", "Q8_0", "--speed", "4"], "its own speed"),
        (["--speed", "1e6"], "not possible"),
        (["--bits", "4", "--for", "builtin"], "goes with a projector"),
        (["--scheme", "Q8_0", "--drop-layers", "6"], "1 to 5 can be dropped"),
        (["--bits", "4", "--effort", "great"], "no effort great"),
        (["--bits", "4", "--no-calibration"], "needs calibration"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, extra: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(TEXT), "-o", str(tmp_path / "q.gguf"), *extra]) == 1
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_damaged_record_of_measurements_is_measured_again(tmp_path: Path) -> None:
    for text in ("", "[]", "{", json.dumps({"a": 1}), json.dumps({"a": [["text", "x"]]})):
        (tmp_path / "r.json").write_text(text, encoding="utf-8")
        assert measuring._measured(tmp_path / "r.json").read() == {}


def test_a_wanted_speed_is_kept_at_the_least_loss(
    searched: tuple[calibration.Data, imatrix.ImportanceMatrix, Path],
) -> None:
    """On a CPU that reads Q4_0 twice as fast as the rest, some weights become that, and no more than must."""
    data, matrix, _ = searched
    rates = {
        kind: WeightTypeSpeed(2e8 if kind == "Q4_0" else 1e8, 1e9, 0.0) for kind in (*type_costs.TYPES, "F16", "F32")
    }
    benchmark = MachineBenchmark(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, rates)
    whole = dict.fromkeys(narrowed(data.source), "Q8_0")
    usual = 1 / latency.pace(data.source, 1.0, benchmark).seconds(whole)

    def chosen(wanted: float) -> mixture.Found:
        clock = latency.pace(data.source, wanted, benchmark)
        return mixture.search(data, matrix, mixture.budget_of(data.source, matrix, None, None, None, clock), "quick")

    slow, quick = chosen(usual * 0.9), chosen(usual * 1.3)
    seconds = latency.pace(data.source, 1.0, benchmark).seconds(quick.plan.types)
    assert 1 / (usual * 1.4) < seconds <= 1 / (usual * 1.3) and slow.predicted < quick.predicted
    with pytest.raises(ConfigError, match="the fastest mixture"):
        chosen(usual * 2)


def test_a_projector_loses_by_what_its_model_says_of_what_it_sees(tmp_path: Path) -> None:
    """Chats without pictures or sounds are not read for it."""
    pictures = [
        {"type": "text", "text": "How many shapes are there?"},
        {"type": "image", "file": str(builtin_folder() / "samples" / "shapes.png")},
    ]
    asked = [pictures, "What day comes after Monday?"]
    lines = [{"messages": [{"role": "user", "content": asked[i // 4]}, {"role": "assistant", "content": "Six."}]}
             for i in range(8)]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    model, eyes = variant.open_source("builtin"), variant.open_source(str(builtin_folder() / "mmproj-F16.gguf"))
    data = calibration.data(model, eyes.path, [tmp_path / "chats.jsonl"])
    plans = {name: variant.plan(eyes, variant.Recipe(find(name))) for name in ("Q8_0", "Q4_0")}
    measure = measuring.Measure(data, None, 8, projector=True)
    found = measure({name: mixture._made(plan) for name, plan in plans.items()})
    assert [[kind for kind, _, _ in units] for units in found.values()] == [["pictures"], ["pictures"]]
    assert 0 < measuring.mean(found["Q8_0"]) < measuring.mean(found["Q4_0"])
    names = {group.name for group in type_costs.groups(eyes, plans["Q4_0"].recipe.types, "normal")}
    assert {"v.ffn_up.weight of the first layers", "a.ffn_up.weight of the last layers"} <= names


@pytest.mark.parametrize("extra", [[], ["--for", "builtin"], ["--for", "builtin", "--speed", "20"]])
def test_a_projectors_mixture_needs_its_model_and_data(
    tmp_path: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    eyes, out = str(builtin_folder() / "mmproj-F16.gguf"), tmp_path / "q.gguf"
    assert main(["quantize", eyes, "--bits", "5", "-o", str(out), *extra]) == 1
    told = capsys.readouterr().err
    assert ("which a projector does not make" if "--speed" in extra else "name the model by --for") in told
    assert not list(tmp_path.iterdir())
