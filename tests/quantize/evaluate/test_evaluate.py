"""`galago evaluate` from the command line: real variants of the built-in model, measured, told and recommended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.heldout import part_of_heldout
from galago.models.errors import ConfigError, GalagoError
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate import history as kept
from galago.quantize.evaluate import passages, runtime_cost
from galago.quantize.evaluate.combinations import Combination, File, grid
from galago.quantize.evaluate.evaluation import EvaluationPlan, _costs, measured
from galago.quantize.evaluate.report.page import render
from galago.quantize.progress import Progress
from galago.quantize.records import alone
from galago.runtime.cache.disk_cache import entries
from galago.runtime.cli.main import main
from galago.runtime.types.messages import Audio, Image

MODEL, EYES = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part_of_heldout(tmp_path_factory.mktemp("sets") / "few.zip", 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder that starts empty."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def results(questions: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("results") / "results.json"
    given = [str(MODEL), "--mmproj", str(EYES), "--variants", "Q4_0", "--tasks", str(questions)]
    given += ["--quick", "--threads", "1", "--json", str(file), "--markdown", str(file.with_suffix(".md"))]
    given += ["--html", str(file.with_suffix(".html"))]
    assert main(["evaluate", *given]) == 0
    return dict(json.loads(file.read_text("utf-8"))) | {"file": file}


def test_every_variant_is_measured_in_every_sense(results: dict[str, Any]) -> None:
    base, small = results["variants"]
    assert results["baseline"] == base["name"] == "text-Q8_0 + mmproj-Q8_0" and small["model_name"] == "Q4_0"
    assert set(base["fidelity"]) == set(small["fidelity"]) == {"text", "image", "audio", "both"}
    for sense, itself in base["fidelity"].items():
        assert itself["kl_mean"] == 0 and itself["top1"] == 1 == itself["perplexity_ratio"]
        assert itself["positions"] == small["fidelity"][sense]["positions"] and itself["perplexity"] > 1
    for one in small["fidelity"].values():
        assert 0 < one["kl_low"] <= one["kl_mean"] <= one["kl_high"] and one["kl_mean"] <= one["kl_max"] < 5
        assert 0.3 < one["top1"] <= 1 < one["perplexity"] and one["positions"] > one["passages"] >= 3
    for variant in (base, small):
        assert {sense: task["n"] for sense, task in variant["tasks"].items()} == {
            "text": 6, "image": 3, "audio": 6, "both": 3,
        }  # fmt: skip
        assert set(variant["looks"]) == {"image", "audio", "both"}


def test_media_are_encoded_once_for_a_projector(results: dict[str, Any], cache: Path) -> None:
    """By whatever reads them: both text models, for their probabilities and for their answers."""
    folder = next(cache.rglob("media"))
    assert len({entry.about["key"] for entry in entries(folder)}) == 1 == len(results["variants"]) - 1


def test_costs_are_measured_in_the_same_run(results: dict[str, Any]) -> None:
    base, small = results["variants"]
    assert small["bytes"] < base["bytes"] < small["memory"]["steady"] <= small["memory_bytes"] < 2**30
    for variant in (base, small):
        speed = variant["speed"]
        positive = ["decode_tokens_per_second", "prefill_tokens_per_second", "first_token_seconds", "load_seconds"]
        positive += ["decode_tokens_per_second_4", "prefill_tokens_per_second_4"]
        assert all(speed[name] > 0 for name in positive)
        assert {"image_seconds", "audio_seconds", "joules_per_answer"} <= set(speed)


def test_a_reason_is_given_and_the_front_named(results: dict[str, Any]) -> None:
    assert results["recommended"]["reason"] and set(results["front"]) <= {v["name"] for v in results["variants"]}


def test_the_page_needs_nothing_beside_it_and_shows_what_changed(results: dict[str, Any], questions: Path) -> None:
    page = results["file"].with_suffix(".html").read_text("utf-8")
    assert "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page and "<script" not in page
    assert page.count("<svg") >= 5
    for part in ("Size against loss", "Text model and projector", "Speed", "Fidelity to the baseline", "joules an"):
        assert part in page
    asked = passages.asked([questions], 100)
    pictured = next(i for i, question in enumerate(asked) if question.needs(Image))
    spoken = next(i for i, question in enumerate(asked) if question.needs(Audio))
    said = {"text": "<b>", "right": False}
    changed = [{"question": i, "asked": "Which?", "right_answer": "Two.", "before": said,
                "after": [{"variant": "Q4_0"} | said]} for i in (pictured, spoken)]  # fmt: skip
    rows = [{"tensor": name, "type": "Q4_K", "bytes": 9, "kl": kl} for name, kl in (("token_embd.weight", 0.1),
            ("blk.0.attn_q.weight", 0.0), ("blk.1.attn_q.weight", 0.2))]  # fmt: skip
    shown = render(results | {"examples": changed, "sensitivity": rows}, asked)
    assert shown.count("<img") == 1 == shown.count("<audio") and "&lt;b&gt;" in shown
    assert shown.count("<rect") == len(results["variants"]) + len(rows) and "the darkest loses 0.2" in shown


def test_the_table_in_markdown_has_every_figure(results: dict[str, Any]) -> None:
    text = results["file"].with_suffix(".md").read_text("utf-8")
    rows = [line.count("|") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 * 2 + 2 + 2 + 2 * 2 * 4 and "recommended" in text


def test_results_are_kept_for_this_device_and_quoted(results: dict[str, Any], cache: Path, capsys: Any) -> None:
    found = kept.find(MODEL, EYES)
    assert found is not None and found["variant"] == results["variants"][0] and kept.find(MODEL, None) is None
    assert re.search(r"measured here on .*tokens a second, .*right answers .*in text", kept.told(found))
    other = {"variant": "Q4_0", "reason": "Q4_0: half the bytes"}
    assert kept.told(found | {"recommended": other}).endswith("; it recommended Q4_0: half the bytes")
    (kept.folder() / "damaged.json").write_text("{")
    assert main(["fit", str(MODEL), "--mmproj", str(EYES)]) == 0
    assert "galago evaluate measured here" in capsys.readouterr().out


def test_costs_measured_before_an_end_count_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [Combination(File(path.stem, path), None) for path in (MODEL, builtin_folder() / "text-F16.gguf")]
    plan, measured = EvaluationPlan(pair, [], tmp_path, rounds=2), list[str]()
    plan.work.mkdir()

    def measure(combination: Combination, *_given: object) -> runtime_cost.Round:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(combination.name)
        return {"load_seconds": float(len(measured))}

    monkeypatch.setattr(runtime_cost, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        _costs(plan, Progress(plan.steps, lambda *_: None))
    monkeypatch.setattr(runtime_cost, "measure", lambda *_: {"load_seconds": 9.0})
    found = _costs(plan, Progress(plan.steps, lambda *_: None))
    assert {name: one["load_seconds"] for name, one in found.items()} == {measured[0]: 1.0, measured[1]: 2.0}
    assert _costs(plan, Progress(plan.steps, lambda *_: None))[measured[0]]["load_seconds"] == 9.0


def test_joules_are_read_from_the_processor_or_a_battery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: str, **files: object) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (tmp_path / folder / name).write_text(f"{value}\n")

    monkeypatch.setattr(runtime_cost, "_POWER", tmp_path / "power")
    monkeypatch.setattr(runtime_cost, "_BATTERIES", tmp_path / "supply")
    assert runtime_cost.sensor() is None
    write("supply/AC", type="Mains")
    write("supply/BAT0", type="Battery", status="Charging", power_now=7_000_000)
    assert runtime_cost.sensor() is None
    write("supply/BAT0", status="Discharging")
    write("supply/BAT1", type="Battery", status="Discharging", current_now=500_000, voltage_now=12_000_000)
    assert runtime_cost.sensor() == "battery" and runtime_cost.power() == 7 + 6
    write("power/intel-rapl:0", name="package-0", energy_uj=3_000_000)
    write("power/intel-rapl:1", name="psys", energy_uj=9_000_000)
    assert runtime_cost.sensor() == "processor" and runtime_cost.energy() == 3


def test_what_was_measured_is_not_measured_again(
    results: dict[str, Any], questions: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def spared(*_given: object) -> runtime_cost.Round:
        return {"decode_tokens_per_second": 9.0}

    monkeypatch.setattr(runtime_cost, "measure", spared)  # costs are measured anew each time, as the machine changes
    monkeypatch.setattr("galago.quantize.evaluate.fidelity_job.command", lambda job: ["false"])
    given = [str(MODEL), "--mmproj", str(EYES), "--variants", "Q4_0", "--tasks", str(questions), "--quick"]
    assert main(["evaluate", *given, "--threads", "1", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [v["fidelity"] for v in again["variants"]] == [v["fidelity"] for v in results["variants"]]
    assert [v["tasks"] for v in again["variants"]] == [v["tasks"] for v in results["variants"]]


def test_the_best_of_the_rounds_counts_and_they_take_turns() -> None:
    slow = {"decode_tokens_per_second": 5.0, "load_seconds": 9.0, "memory_peak": 3.0}
    fast = {"decode_tokens_per_second": 50.0, "load_seconds": 1.0, "memory_peak": 1.0, "image_seconds": 2.0}
    assert runtime_cost.best([slow, fast, slow]) == {**fast, "memory_peak": 3.0}
    pair = [Combination(File(name, MODEL), None) for name in "AB"]
    order: list[str] = []
    runtime_cost.rounds(pair, 3, lambda c, number: order.append(c.name) or {})
    assert "".join(order) == "ABBAAB"


def test_two_do_not_write_the_same_records(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ConfigError, match="running already"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_grid_has_the_largest_first(tmp_path: Path) -> None:
    made = grid("builtin", None, ["Q4_0", "Q8_0"], [], tmp_path)
    sizes = [combination.bytes for combination in made]
    assert len(made) == 6 and max(sizes) == sizes[0]
    assert {c.model.name for c in made} == {"text-F16", "text-Q8_0", "Q4_0"}
    alone = grid(str(MODEL), None, [], [], tmp_path)
    assert [(c.name, c.projector) for c in alone] == [("text-Q8_0", None)]
    assert EvaluationPlan(alone, [], tmp_path).steps == {"fidelity": 1, "tasks": 1, "cost": 3}


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder, name in (("a", "text-F16.gguf"), ("b", "text-Q8_0.gguf")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.gguf").symlink_to(builtin_folder() / name)
    files = [str(tmp_path / folder / "same.gguf") for folder in "ab"]
    assert [f"{c.name}.gguf" for c in grid(files[0], None, files[1:], [], tmp_path)] == files


@pytest.mark.parametrize(
    ("variants", "projectors", "says"),
    [
        (["Q9_9"], [], "no file Q9_9"),
        ([], ["Q8_0"], "no projector"),
        (["gone.gguf"], [], "no file gone.gguf"),
        ([str(EYES)], [], "projector"),
    ],
)
def test_what_cannot_be_compared_is_said(variants: list[str], projectors: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(GalagoError, match=says):
        grid(str(MODEL), None, variants, projectors, tmp_path)


def test_what_cannot_be_read_is_told_before_variants_are_made(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "own.jsonl").write_text('{"question": "Spell ehn."}')
    (tmp_path / "raw.txt").write_bytes(b"\xff")
    wrong = {"gone": "no questions at", "own.jsonl": "'answer' is missing"}
    for name, says in wrong.items():
        given = ["--variants", "Q4_0", "--tasks", str(tmp_path / name)]
        assert main(["evaluate", str(MODEL), *given]) == 1 and says in capsys.readouterr().err
    assert main(["evaluate", str(MODEL), "--text", str(tmp_path / "raw.txt")]) == 1
    assert "UTF-8" in capsys.readouterr().err
    assert main(["evaluate", str(MODEL), "--html", str(tmp_path / "gone" / "x.html")]) == 1
    assert "no folder" in capsys.readouterr().err and not (tmp_path / "galago").exists()


def test_a_model_that_can_take_no_question_is_told(tmp_path: Path) -> None:
    asked = part_of_heldout(tmp_path / "seen.zip", 2, "image")
    plan = EvaluationPlan([Combination(File("text", MODEL), None)], [asked], tmp_path / "work", threads=1)
    with pytest.raises(ConfigError, match="can take none of these questions"):
        measured(plan, lambda *_: None)


def test_the_built_in_model_is_as_good_as_its_card_says(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each group, but for the answers that another processor's rounding may change."""
    file = tmp_path / "results.json"
    monkeypatch.setattr(
        "galago.quantize.evaluate.evaluation._scored", lambda *_given: []
    )  # right answers are what counts
    monkeypatch.setattr(runtime_cost, "measure", lambda *_given: {})
    assert main(["evaluate", "builtin", "--threads", "1", "--json", str(file)]) == 0
    card = (builtin_folder() / "README.md").read_text("utf-8")
    rows = re.findall(r"\| \*\*(.+?)\*\* \| (\d+) \| (\d+) \|", card)
    told = {name: (int(right), int(of)) for name, right, of in rows}
    groups = json.loads(file.read_text("utf-8"))["variants"][0]["groups"]
    assert set(groups) == set(told)
    for name, (right, of) in told.items():
        assert groups[name]["of"] == of and abs(groups[name]["right"] - right) <= 3, name
