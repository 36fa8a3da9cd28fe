"""`galago evaluate` from the command line: real variants of the built-in model, measured, told and recommended."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest

from galago.models.errors import ConfigError
from galago.models.ref import builtin_folder
from galago.quantize import cost
from galago.quantize.combinations import Combination, File, grid
from galago.quantize.evaluation import Plan, looks
from galago.quantize.records import Records, alone
from galago.quantize.scoring import Job, command
from galago.quantize.verdict import warnings
from galago.runtime.cli.main import main
from galago.runtime.config import worker_environment

MODEL, EYES = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"


def part_of_heldout(path: Path, count: int, groups: str = "") -> Path:
    """So many of the held-out questions of each group whose name begins so."""
    kept: dict[str, list[str]] = {}
    with zipfile.ZipFile(builtin_folder() / "heldout.zip") as whole, zipfile.ZipFile(path, "w") as few:
        for line in whole.read("questions.jsonl").decode().splitlines():
            kept.setdefault(json.loads(line)["group"], []).append(line)
        lines = [line for name, group in kept.items() for line in group[:count] if name.startswith(groups)]
        few.writestr("questions.jsonl", "\n".join(lines))
        for name in whole.namelist():
            if any(f'"{name}"' in line for line in lines):
                few.writestr(name, whole.read(name))
    return path


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
    page = file.with_suffix(".html").read_text("utf-8")
    assert "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page
    assert "Q4_0" in file.with_suffix(".md").read_text("utf-8") and "Q4_0" in page
    return dict(json.loads(file.read_text("utf-8")))


def test_every_variant_is_measured_in_every_sense(results: dict[str, Any]) -> None:
    base, small = results["variants"]
    assert results["baseline"] == base["name"] == "text-Q8_0 + mmproj-Q8_0" and small["model_name"] == "Q4_0"
    assert base["fidelity"] == {} and set(small["fidelity"]) == {"text", "image", "audio", "both"}
    for one in small["fidelity"].values():
        assert 0 < one["kl_low"] <= one["kl_mean"] <= one["kl_high"] and one["kl_mean"] <= one["kl_max"] < 5
        assert 0.3 < one["top1"] <= 1 < one["perplexity"] and one["positions"] > one["passages"] >= 3
    for variant in (base, small):
        assert {sense: task["n"] for sense, task in variant["tasks"].items()} == {
            "text": 6, "image": 3, "audio": 6, "both": 3,
        }  # fmt: skip
        assert set(variant["looks"]) == {"image", "audio", "both"}


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


def test_what_was_measured_is_not_measured_again(
    results: dict[str, Any], questions: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def spared(*_given: object) -> cost.Round:
        return {"decode_tokens_per_second": 9.0}

    monkeypatch.setattr(cost, "measure", spared)  # costs are measured anew each time, as the machine changes
    monkeypatch.setattr("galago.quantize.scoring.command", lambda job: ["false"])
    given = [str(MODEL), "--mmproj", str(EYES), "--variants", "Q4_0", "--tasks", str(questions), "--quick"]
    assert main(["evaluate", *given, "--threads", "1", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [v["fidelity"] for v in again["variants"]] == [v["fidelity"] for v in results["variants"]]
    assert [v["tasks"] for v in again["variants"]] == [v["tasks"] for v in results["variants"]]


def test_a_variant_that_has_become_deaf_is_found(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf.gguf"
    shutil.copy(EYES, deaf)
    for tensor in gguf.GGUFReader(deaf, "r+").tensors:
        if tensor.name.startswith("a."):
            tensor.data[:] = 0
    asked = str(part_of_heldout(tmp_path / "spoken.zip", 10, "speech"))
    found = {}
    for name, eyes, base in (("base", EYES, ""), ("deaf", deaf, str(tmp_path / "base"))):
        records = tmp_path / name
        job = Job(str(MODEL), str(eyes), (asked,), (), 10, str(tmp_path / "rows"), base, str(records), threads=1)
        done = subprocess.run(command(job), capture_output=True, text=True, env=worker_environment(), timeout=300)
        assert done.returncode == 0, done.stderr
        found[name] = {"looks": looks(Records(records).found), "fidelity": {}, "tasks": {}}
    assert found["base"]["looks"]["audio"]["low"] > 0.1
    assert [line.split(":")[0] for line in warnings(found["deaf"], found["base"])] == ["has stopped hearing"]


def test_the_best_of_the_rounds_counts_and_they_take_turns() -> None:
    slow = {"decode_tokens_per_second": 5.0, "load_seconds": 9.0, "memory_peak": 3.0}
    fast = {"decode_tokens_per_second": 50.0, "load_seconds": 1.0, "memory_peak": 1.0, "image_seconds": 2.0}
    assert cost.best([slow, fast, slow]) == {**fast, "memory_peak": 3.0}
    pair = [Combination(File(name, MODEL), None) for name in "AB"]
    order: list[str] = []
    cost.rounds(pair, 3, lambda c, number: order.append(c.name) or {})
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
    assert Plan(alone, [], tmp_path).steps == {"tasks": 1, "cost": 3}


@pytest.mark.parametrize(
    ("variants", "projectors", "says"),
    [(["Q9_9"], [], "no file Q9_9"), ([], ["Q8_0"], "no projector"), (["gone.gguf"], [], "no file gone.gguf")],
)
def test_what_cannot_be_compared_is_said(variants: list[str], projectors: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        grid(str(MODEL), None, variants, projectors, tmp_path)


def test_the_built_in_model_is_as_good_as_its_card_says(cache: Path, tmp_path: Path) -> None:
    """Of each group, but for the answers that another processor's rounding may change."""
    file = tmp_path / "results.json"
    assert main(["evaluate", "builtin", "--threads", "1", "--json", str(file)]) == 0
    card = (builtin_folder() / "README.md").read_text("utf-8")
    rows = re.findall(r"\| \*\*(.+?)\*\* \| (\d+) \| (\d+) \|", card)
    told = {name: (int(right), int(of)) for name, right, of in rows}
    groups = json.loads(file.read_text("utf-8"))["variants"][0]["groups"]
    assert set(groups) == set(told)
    for name, (right, of) in told.items():
        assert groups[name]["of"] == of and abs(groups[name]["right"] - right) <= 3, name
