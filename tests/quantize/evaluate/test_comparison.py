"""Comparing two evaluations: significant changes, and what cannot be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.evaluations import BASE, GOOD, SMALL, task
from galago.models.errors import ConfigError
from galago.quantize.evaluate.evaluation import FORM
from galago.quantize.evaluate.questions import Score
from galago.quantize.evaluate.report.comparison import compare, read, table
from galago.runtime.cli.main import main


def results(*variants: dict[str, Any], **changed: Any) -> dict[str, Any]:
    device = {"processor": "P", "cores": 2, "memory": 8e9, "system": "Linux"}
    result: dict[str, Any] = {
        "form": FORM,
        "galago": "1",
        "llama_cpp": "2",
        "device": device,
        "threads": None,
        "set": "s",
    }
    result["variants"] = [copy.deepcopy(variant) | {"key": variant["name"]} for variant in variants]
    for variant in result["variants"]:
        for one in variant["tasks"].values():
            one["low"], one["high"] = Score(round(one["accuracy"] * one["n"]), one["n"]).interval
    return result | {"recommended": {"variant": "Q8_0", "reason": "Q8_0: half the bytes"}} | changed


def test_an_evaluation_does_not_differ_from_itself() -> None:
    one = results(BASE, GOOD, SMALL)
    compared = compare(one, one)
    assert [variant["name"] for variant in compared["variants"]] == ["F16", "Q8_0", "Q4_K_M"]
    assert not compared["only_before"] and not compared["only_after"]
    assert compared["notes"] == ["both recommend Q8_0"]
    for variant in compared["variants"]:
        assert variant["bytes"]["ratio"] == 1 == variant["decode_tokens_per_second"]["ratio"]
        for change in (*variant["accuracy"].values(), *variant["kl_mean"].values()):
            assert change["change"] == 0 and change["low"] <= 0 <= change["high"]
    assert not any("!" in cell for row in table(compared).rows for cell in row)


def test_significant_changes_are_marked() -> None:
    worse = GOOD | {"tasks": {"text": task(0.5), "image": task(0.77)}, "speed": {"decode_tokens_per_second": 160.0}}
    compared = compare(results(BASE, GOOD), results(BASE, worse))
    row = dict(zip(table(compared).columns, table(compared).rows[1], strict=True))
    assert row["accuracy text"] == "-30.0% !" and row["accuracy images"] == "-3.0%" and row["tokens/s"] == "x2.00"


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_of_a_difference_contains_it(n: int, before: float, after: float) -> None:
    pair = [results(BASE | {"tasks": {"text": task(round(share * n) / n) | {"n": n}}}) for share in (before, after)]
    one = compare(*pair)["variants"][0]["accuracy"]["text"]
    assert -1.001 <= one["low"] <= one["change"] <= one["high"] <= 1.001


def test_results_on_other_questions_or_baselines_are_not_compared() -> None:
    compared = compare(results(BASE, GOOD), results(BASE, SMALL, set="other", llama_cpp="3"))
    assert compared["only_before"] == ["Q8_0"] and compared["only_after"] == ["Q4_K_M"]
    assert compared["variants"][0]["accuracy"] == {} == compared["variants"][0]["kl_mean"]
    assert "llama.cpp changed from 2 to 3" in compared["notes"]
    assert any("questions or texts differ" in note for note in compared["notes"])
    compared = compare(results(BASE, GOOD), results(SMALL, GOOD))
    assert compared["variants"][0]["kl_mean"] == {} != compared["variants"][0]["accuracy"]


def test_different_recommendations_are_both_quoted() -> None:
    other = {"variant": "Q4_K_M", "reason": "Q4_K_M: a third"}
    notes = compare(results(BASE, GOOD), results(BASE, GOOD, recommended=other))["notes"]
    assert notes == ["recommended before: Q8_0: half the bytes", "recommended after: Q4_K_M: a third"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read as JSON"), ("[]", "was not written by"), ("{}", "was not written by"),
     (json.dumps({"form": 1, "galago": "0.1", "variants": []}), "another version of Galago")],
)  # fmt: skip
def test_other_files_are_refused(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, right = tmp_path / "wrong.json", tmp_path / "right.json"
    wrong.write_text(text)
    right.write_text(json.dumps(results(BASE)))
    with pytest.raises(ConfigError, match=message):
        read(wrong)
    assert main(["compare", str(right), str(wrong)]) == 1 and "wrong.json" in capsys.readouterr().err
    assert main(["compare", str(right), str(tmp_path / "gone.json")]) == 1


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "AB":
        (tmp_path / f"{name}.json").write_text(json.dumps(results(BASE, GOOD)))
    files = [str(tmp_path / "A.json"), str(tmp_path / "B.json")]
    assert main(["compare", *files]) == 0 and "both recommend Q8_0" in capsys.readouterr().out
    assert main(["compare", *files, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["variants"]) == 2
