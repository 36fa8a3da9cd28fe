"""`galago evaluate` measures real variants of the built-in model and recommends one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import bert
from fakes.benchmark import keep_benchmark
from fakes.heldout import part_of_heldout
from galago.models.errors import ConfigError, GalagoError
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate import passages, runtime_cost, saved_results
from galago.quantize.evaluate.evaluation import EvaluationPlan, _baseline_warnings, _measure_costs, measure_quality
from galago.quantize.evaluate.progress_estimate import ProgressEstimator
from galago.quantize.evaluate.report.page import render
from galago.quantize.evaluate.variant_grid import ModelVariant, VariantFile, quantized_file, variant_grid
from galago.quantize.variants.schemes import find
from galago.runtime.cache.disk_cache import entries
from galago.runtime.cli.main import main
from galago.runtime.types.messages import Audio, Image

MODEL, PROJECTOR = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part_of_heldout(tmp_path_factory.mktemp("sets") / "few.zip", 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder in which only the benchmark of this machine is kept."""
    folder = tmp_path_factory.mktemp("cache")
    keep_benchmark(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def results(questions: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("results") / "results.json"
    arguments = [str(MODEL), "--mmproj", str(PROJECTOR), "--variants", "Q4_0", "--tasks", str(questions)]
    arguments += [
        "--requantize",
        "--quick",
        "--threads",
        "1",
        "--json",
        str(file),
        "--markdown",
        str(file.with_suffix(".md")),
    ]
    arguments += ["--html", str(file.with_suffix(".html"))]
    assert main(["evaluate", *arguments]) == 0
    return dict(json.loads(file.read_text("utf-8"))) | {"file": file}


def test_every_variant_is_measured_in_every_modality(results: dict[str, Any]) -> None:
    base, small = results["variants"]
    assert results["baseline"] == base["name"] == "text-Q8_0 + mmproj-Q8_0" and small["model_name"] == "Q4_0"
    assert set(base["fidelity"]) == set(small["fidelity"]) == {"text", "image", "audio", "both"}
    for modality, own in base["fidelity"].items():
        assert own["kl_mean"] == 0 and own["top1"] == 1 == own["perplexity_ratio"]
        assert own["positions"] == small["fidelity"][modality]["positions"] and own["perplexity"] > 1
    for entry in small["fidelity"].values():
        assert 0 < entry["kl_low"] <= entry["kl_mean"] <= entry["kl_high"] and entry["kl_mean"] <= entry["kl_max"] < 5
        assert 0.3 < entry["top1"] <= 1 < entry["perplexity"] and entry["positions"] > entry["passages"] >= 3
    for variant in (base, small):
        assert {modality: task["n"] for modality, task in variant["tasks"].items()} == {
            "text": 6, "image": 3, "audio": 6, "both": 3,
        }  # fmt: skip
        assert set(variant["looks"]) == {"image", "audio", "both"}


def test_media_are_encoded_once_per_projector(results: dict[str, Any], cache: Path) -> None:
    """Both text models share them, for their probabilities and for their answers."""
    folder = next(cache.rglob("media"))
    assert len({entry.metadata["key"] for entry in entries(folder)}) == 1 == len(results["variants"]) - 1


def test_costs_are_measured_in_the_same_run(results: dict[str, Any]) -> None:
    base, small = results["variants"]
    assert small["bytes"] < base["bytes"] < small["memory"]["steady"] <= small["memory_bytes"] < 2**30
    for variant in (base, small):
        speed = variant["speed"]
        positive = ["decode_tokens_per_second", "prefill_tokens_per_second", "first_token_seconds", "load_seconds"]
        positive += ["decode_tokens_per_second_4", "prefill_tokens_per_second_4"]
        assert all(speed[name] > 0 for name in positive)
        assert {"image_seconds", "audio_seconds", "joules_per_answer"} <= set(speed)


def test_results_name_the_pareto_front_and_the_reason(results: dict[str, Any]) -> None:
    assert results["recommended"]["reason"] and set(results["front"]) <= {v["name"] for v in results["variants"]}


def test_the_html_page_is_self_contained_and_shows_changed_answers(results: dict[str, Any], questions: Path) -> None:
    page = results["file"].with_suffix(".html").read_text("utf-8")
    assert "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page and "<script" not in page
    assert page.count("<svg") >= 5
    for part in ("Size and KL divergence", "Text model and projector", "Speed", "Fidelity to the baseline", "joules/"):
        assert part in page
    selected = passages.select_questions([questions], 100)
    with_image = next(i for i, question in enumerate(selected) if question.needs(Image))
    with_audio = next(i for i, question in enumerate(selected) if question.needs(Audio))
    answer = {"text": "<b>", "right": False}
    changed = [{"question": i, "asked": "Which?", "right_answer": "Two.", "before": answer,
                "after": [{"variant": "Q4_0"} | answer]} for i in (with_image, with_audio)]  # fmt: skip
    rows = [{"tensor": name, "type": "Q4_K", "bytes": 9, "kl": kl} for name, kl in (("token_embd.weight", 0.1),
            ("blk.0.attn_q.weight", 0.0), ("blk.1.attn_q.weight", 0.2))]  # fmt: skip
    shown = render(results | {"examples": changed, "sensitivity": rows}, selected)
    assert shown.count("<img") == 1 == shown.count("<audio") and "&lt;b&gt;" in shown
    assert shown.count("<rect") == len(results["variants"]) + len(rows) and "the darkest is 0.2" in shown


def test_the_markdown_tables_have_every_figure(results: dict[str, Any]) -> None:
    text = results["file"].with_suffix(".md").read_text("utf-8")
    rows = [line.count("|") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 * 2 + 2 + 2 + 2 * 2 * 4 and "recommended" in text


def test_results_are_saved_for_this_device_and_quoted(results: dict[str, Any], cache: Path, capsys: Any) -> None:
    found = saved_results.find_latest(MODEL, PROJECTOR)
    assert found is not None and found["variant"] == results["variants"][0]
    assert saved_results.find_latest(MODEL, None) is None
    assert re.search(r"measured here by .*tokens per second, .*accuracy .*on text", saved_results.describe(found))
    other = {"variant": "Q4_0", "reason": "Q4_0: half the bytes"}
    assert saved_results.describe(found | {"recommended": other}).endswith("; it recommended Q4_0: half the bytes")
    (saved_results.folder() / "damaged.json").write_text("{")
    assert main(["fit", str(MODEL), "--mmproj", str(PROJECTOR)]) == 0
    assert "measured here by galago evaluate" in capsys.readouterr().out


def test_costs_measured_before_an_interruption_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [ModelVariant(VariantFile(path.stem, path), None) for path in (MODEL, builtin_folder() / "text-F16.gguf")]
    plan, measured = EvaluationPlan(pair, [], tmp_path, rounds=2), list[str]()
    plan.work_folder.mkdir()

    def measure(variant: ModelVariant, *_given: object) -> runtime_cost.CostFigures:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(variant.name)
        return {"load_seconds": float(len(measured))}

    monkeypatch.setattr(runtime_cost, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        _measure_costs(plan, ProgressEstimator(plan.steps, lambda *_: None))
    monkeypatch.setattr(runtime_cost, "measure", lambda *_: {"load_seconds": 9.0})
    found = _measure_costs(plan, ProgressEstimator(plan.steps, lambda *_: None))
    assert {name: one["load_seconds"] for name, one in found.items()} == {measured[0]: 1.0, measured[1]: 2.0}
    assert _measure_costs(plan, ProgressEstimator(plan.steps, lambda *_: None))[measured[0]]["load_seconds"] == 9.0


def test_saved_measurements_are_reused(
    results: dict[str, Any], questions: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def no_measurement(*_given: object) -> runtime_cost.CostFigures:
        return {"decode_tokens_per_second": 9.0}

    monkeypatch.setattr(runtime_cost, "measure", no_measurement)  # costs are measured every time
    monkeypatch.setattr("galago.quantize.evaluate.fidelity_job.command", lambda job: ["false"])
    arguments = [str(MODEL), "--mmproj", str(PROJECTOR), "--variants", "Q4_0", "--tasks", str(questions), "--quick"]
    assert main(["evaluate", *arguments, "--requantize", "--threads", "1", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [v["fidelity"] for v in again["variants"]] == [v["fidelity"] for v in results["variants"]]
    assert [v["tasks"] for v in again["variants"]] == [v["tasks"] for v in results["variants"]]


def test_rounds_alternate_and_the_best_counts() -> None:
    slow = {"decode_tokens_per_second": 5.0, "load_seconds": 9.0, "memory_peak": 3.0}
    fast = {"decode_tokens_per_second": 50.0, "load_seconds": 1.0, "memory_peak": 1.0, "image_seconds": 2.0}
    assert runtime_cost.best([slow, fast, slow]) == {**fast, "memory_peak": 3.0}
    pair = [ModelVariant(VariantFile(name, MODEL), None) for name in "AB"]
    order: list[str] = []

    def measure(variant: ModelVariant, _round: int) -> dict[str, float]:
        order.append(variant.name)
        return {}

    runtime_cost.alternate_rounds(pair, 3, measure)
    assert "".join(order) == "ABBAAB"


def test_the_largest_pair_of_a_grid_comes_first(tmp_path: Path) -> None:
    made = variant_grid("builtin", None, ["Q4_0", "Q8_0"], [], tmp_path)
    sizes = [combination.bytes for combination in made]
    assert len(made) == 3 and max(sizes) == sizes[0]
    assert {c.name for c in made} == {f"{text} + mmproj-Q8_0" for text in ("text-F16", "text-Q8_0", "Q4_0")}
    both = variant_grid("builtin", None, ["Q8_0"], ["Q8_0"], tmp_path)
    assert len(both) == 4 and both[0].name == "text-F16 + mmproj-F16"
    seen = variant_grid("builtin", None, [], ["Q8_0"], tmp_path)
    assert [c.name for c in seen] == ["text-Q8_0 + mmproj-F16", "text-Q8_0 + mmproj-Q8_0"]
    alone = variant_grid(str(MODEL), None, [], [], tmp_path)
    assert [(c.name, c.projector) for c in alone] == [("text-Q8_0", None)]
    assert EvaluationPlan(alone, [], tmp_path).steps == {"fidelity": 1, "tasks": 1, "cost": 3}


def test_a_damaged_variant_is_quantized_again(tmp_path: Path) -> None:
    def made_path() -> Path:
        return quantized_file(builtin_folder() / "text-F16.gguf", find("Q4_0"), tmp_path)

    path = made_path()
    whole, made = path.read_bytes(), path.stat().st_ino
    assert made_path().stat().st_ino == made
    path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    assert made_path().read_bytes() == whole


def test_files_with_the_same_name_get_unique_names(tmp_path: Path) -> None:
    for folder, name in (("a", "text-F16.gguf"), ("b", "text-Q8_0.gguf")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.gguf").symlink_to(builtin_folder() / name)
    files = [str(tmp_path / folder / "same.gguf") for folder in "ab"]
    assert [f"{c.name}.gguf" for c in variant_grid(files[0], None, files[1:], [], tmp_path)] == files


@pytest.mark.parametrize(
    ("variants", "projectors", "message"),
    [
        (["Q9_9"], [], "Q9_9 is neither a file"),
        ([], ["Q8_0"], "no projector"),
        (["gone.gguf"], [], "gone.gguf is neither a file"),
        ([str(PROJECTOR)], [], "projector"),
        (["Q4_0"], [], r"text-Q8_0.gguf is already quantized \(Q8_0\).*--requantize"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(
    variants: list[str], projectors: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(GalagoError, match=message):
        variant_grid(str(MODEL), None, variants, projectors, tmp_path)


@pytest.mark.parametrize(("pooling", "use"), [("mean", "computes embeddings"), ("rank", "scores documents")])
def test_models_that_answer_no_questions_are_refused(pooling: str, use: str, tmp_path: Path) -> None:
    """Before any variant is made."""
    path = str(bert.write(tmp_path / "bert.gguf", pooling))
    for model, variant in ((path, "Q8_0"), (str(MODEL), path)):
        with pytest.raises(ConfigError, match=rf"bert\.gguf {use}; galago evaluate compares models that answer"):
            variant_grid(model, None, [variant], [], tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_file_in_several_parts_counts_as_a_whole(tmp_path: Path) -> None:
    parts = [tmp_path / f"model-0000{number}-of-00002.gguf" for number in (1, 2)]
    for path, size in zip(parts, (10, 20), strict=True):
        path.write_bytes(bytes(size))
    assert VariantFile("model", parts[0]).bytes == 30


def test_schemes_are_made_of_a_quantized_file_if_that_is_asked_for(tmp_path: Path) -> None:
    made = variant_grid(str(MODEL), None, ["Q4_0"], [], tmp_path, requantize=True)
    assert [variant.name for variant in made] == ["text-Q8_0", "Q4_0"]


def test_the_sensitivity_of_a_quantized_baseline_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(MODEL), "--sensitivity"]) == 1
    assert "text-Q8_0.gguf is already quantized (Q8_0)" in (error := capsys.readouterr().err)
    assert "--requantize" in error


def test_the_built_in_models_sensitivity_is_that_of_its_16_bit_file(tmp_path: Path) -> None:
    made = variant_grid("builtin", None, [], [], tmp_path, with_original=True)
    assert made[0].name == "text-F16 + mmproj-F16"


@pytest.mark.parametrize(
    ("models", "projectors", "warnings"),
    [
        (["text-F16", "text-Q8_0"], [], []),
        (["text-Q8_0"], [], []),
        (["text-Q8_0", "text-F16"], [], ["text-Q8_0, the baseline, is quantized itself (Q8_0)"]),
        (["text-F16"], ["mmproj-Q8_0", "mmproj-F16"], ["mmproj-Q8_0, the baseline, is quantized itself (Q8_0)"]),
        (["text-Q8_0"], ["mmproj-F16", "mmproj-Q8_0"], []),
    ],
)
def test_a_baseline_that_is_quantized_is_named(models: list[str], projectors: list[str], warnings: list[str]) -> None:
    def file(name: str) -> VariantFile:
        return VariantFile(name, builtin_folder() / f"{name}.gguf")

    variants = [
        ModelVariant(file(model), file(name) if name else None) for model in models for name in projectors or [""]
    ]
    found = _baseline_warnings(variants)
    assert [warning.partition(":")[0] for warning in found] == warnings


def test_unreadable_files_are_reported_before_quantizing(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "own.jsonl").write_text('{"question": "Spell ehn."}')
    (tmp_path / "raw.txt").write_bytes(b"\xff")
    wrong = {"gone": "no questions at", "own.jsonl": "'answer' is missing"}
    for name, message in wrong.items():
        arguments = ["--variants", "Q4_0", "--tasks", str(tmp_path / name)]
        assert main(["evaluate", str(MODEL), *arguments]) == 1 and message in capsys.readouterr().err
    assert main(["evaluate", str(MODEL), "--text", str(tmp_path / "raw.txt")]) == 1
    assert "UTF-8" in capsys.readouterr().err
    assert main(["evaluate", str(MODEL), "--html", str(tmp_path / "gone" / "x.html")]) == 1
    assert "no folder" in capsys.readouterr().err and not (tmp_path / "galago").exists()


def test_a_model_that_supports_no_question_is_refused(tmp_path: Path) -> None:
    selected = part_of_heldout(tmp_path / "seen.zip", 2, "image")
    plan = EvaluationPlan([ModelVariant(VariantFile("text", MODEL), None)], [selected], tmp_path / "work", threads=1)
    with pytest.raises(ConfigError, match="can process none of these questions"):
        measure_quality(plan, lambda *_: None)


def test_the_built_in_model_is_as_accurate_as_its_card_says(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each group, except for the few answers that the rounding of another CPU may change."""
    file = tmp_path / "results.json"
    monkeypatch.setattr("galago.quantize.evaluate.evaluation._score_passages", lambda *_given: [])
    monkeypatch.setattr(runtime_cost, "measure", lambda *_given: {})
    assert main(["evaluate", "builtin", "--threads", "1", "--json", str(file)]) == 0
    card = (builtin_folder() / "README.md").read_text("utf-8")
    rows = re.findall(r"\| \*\*(.+?)\*\* \| (\d+) \| (\d+) \|", card)
    expected = {name: (int(right), int(of)) for name, right, of in rows}
    groups = json.loads(file.read_text("utf-8"))["variants"][0]["groups"]
    assert set(groups) == set(expected)
    for name, (right, of) in expected.items():
        assert groups[name]["of"] == of and abs(groups[name]["right"] - right) <= 3, name
