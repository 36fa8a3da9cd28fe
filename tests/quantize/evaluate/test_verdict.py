"""Which variant is recommended, and warnings about variants that ignore images or audio."""

from __future__ import annotations

import pytest

from fakes.evaluations import BASE, GOOD, SMALL, task, variant
from galago.models.errors import ConfigError
from galago.quantize.evaluate.progress_estimate import ProgressEstimator, format_duration
from galago.quantize.evaluate.report import tables
from galago.quantize.evaluate.verdict import Constraints, pareto_front, parse_max_loss, recommend, warnings
from galago.runtime.cli.ui import report


def test_the_smallest_good_variant_is_recommended() -> None:
    recommendation = recommend([BASE, GOOD, SMALL], BASE, Constraints())
    assert recommendation["variant"] == "Q4_K_M"
    assert "30% of the size, 2.0 times the speed" in str(recommendation["reason"])
    assert "no significant change on text, images" in str(recommendation["reason"])


def test_a_single_variant_is_compared_with_nothing() -> None:
    assert recommend([BASE], BASE, Constraints())["reason"] == "F16; there is no other variant to compare it with"


def test_speed_only_excludes_variants_that_are_too_slow() -> None:
    for busy in (10.0, 60.0, 300.0):
        slow = SMALL | {"speed": {"decode_tokens_per_second": busy}}
        assert recommend([BASE, GOOD, slow], BASE, Constraints())["variant"] == "Q4_K_M"
    slow = SMALL | {"speed": {"decode_tokens_per_second": 60.0}}
    assert recommend([BASE, GOOD, slow], BASE, Constraints(min_tokens_per_second=70))["variant"] == "Q8_0"


def test_a_limit_on_one_modality_applies_to_it_alone() -> None:
    worse = SMALL | {"tasks": {"text": task(0.8), "image": task(0.785)}}
    assert recommend([BASE, GOOD, worse], BASE, Constraints())["variant"] == "Q4_K_M"
    assert recommend([BASE, GOOD, worse], BASE, Constraints(max_loss={"image": 1.0}))["variant"] == "Q8_0"
    assert recommend([BASE, GOOD, worse], BASE, Constraints(max_loss={"text": 1.0}))["variant"] == "Q4_K_M"


def test_variants_that_do_not_fit_are_not_recommended() -> None:
    assert recommend([BASE, GOOD, SMALL], BASE, Constraints(max_memory_bytes=700))["variant"] == "Q4_K_M"
    recommendation = recommend([BASE, GOOD], BASE, Constraints(max_memory_bytes=700))
    assert recommendation["variant"] is None and "no variant satisfies the limits" in str(recommendation["reason"])
    lossy = SMALL | {"tasks": {"text": task(0.5), "image": task(0.5)}}
    recommendation = recommend([BASE, lossy], BASE, Constraints(max_memory_bytes=700))
    assert recommendation["variant"] == "Q4_K_M" and "loses more than allowed" in str(recommendation["reason"])
    assert "accuracy on text 30.0 points lower" in str(recommendation["reason"])


def test_a_variant_that_ignores_images_is_not_recommended() -> None:
    blind = SMALL | {"looks": {"image": {"mean": 0.1, "low": 0.0, "high": 0.2}}}
    messages = warnings(blind, BASE)
    assert len(messages) == 1 and messages[0].startswith("ignores images although its text is good")
    assert recommend([BASE, GOOD, blind | {"warnings": messages}], BASE, Constraints())["variant"] == "Q8_0"
    assert warnings(SMALL | {"looks": {}}, BASE) == ["cannot process images: it has no projector for them"]
    assert not warnings(SMALL, BASE) and not warnings(BASE, BASE)


def test_variants_are_not_blamed_if_the_baseline_ignores_images() -> None:
    unsure = BASE | {"looks": {"image": {"mean": 0.3, "low": -0.1, "high": 0.7}}}
    assert not warnings(SMALL | {"looks": {"image": {"mean": 0.0, "low": 0.0, "high": 0.0}}}, unsure)


@pytest.mark.parametrize(
    ("share", "message"),
    [("empty", "gives an empty answer to 40%"), ("repeats", "repeats itself within an answer to 40%"),
     ("same", "gives one and the same answer to 90%")],
)  # fmt: skip
def test_significantly_odd_answers_are_reported(share: str, message: str) -> None:
    size = 0.9 if share == "same" else 0.4
    odd = SMALL | {"tasks": {"text": task(0.8), "image": task(0.8) | {share: size}}}
    assert [line.split(" of ")[0] for line in warnings(odd, BASE)] == [message]
    few = SMALL | {"tasks": {"text": task(0.8), "image": task(0.8) | {share: size / 4, "n": 10}}}
    assert not warnings(few, BASE)


@pytest.mark.parametrize(
    ("cut", "questions", "is_told"), [(1.0, 100, True), (0.7, 100, True), (0.5, 100, False), (1.0, 3, False)]
)
def test_answers_that_do_not_end_are_reported_for_the_baseline_too(cut: float, questions: int, is_told: bool) -> None:
    endless = BASE | {"tasks": {"text": task(0.8) | {"cut": cut, "n": questions}}}
    told = [f"does not end {cut:.0%} of its answers on text within 128 tokens, as if its end token never came"]
    assert warnings(endless, endless) == (told if is_told else [])


def test_failures_of_a_variant_are_reported() -> None:
    broken = SMALL | {"failed": {"image": {"share": 0.5, "reason": "no place for them"}}, "looks": {}}
    assert warnings(broken, BASE) == ["fails on 50% of the questions on images: no place for them"]


def test_a_variant_worse_on_images_is_distinguished_from_one_worse_in_general() -> None:
    worse = {"kl_mean": 0.3, "top1": 0.7}
    near = SMALL | {"fidelity": SMALL["fidelity"] | {"image": worse}}
    assert warnings(near, BASE) == [
        "is worse on images although its text is good: it predicts the same token 70% of the time"
    ]
    assert not warnings(SMALL | {"fidelity": {"text": worse, "image": worse}}, BASE)


def test_significantly_lower_accuracy_in_one_modality_is_reported() -> None:
    hurt = SMALL | {"tasks": {"text": task(0.8), "image": task(0.72)}}
    assert warnings(hurt, BASE) == ["is worse on images although its text is good: its accuracy is 8.0 points lower"]
    assert not warnings(hurt, BASE, Constraints(max_loss={"image": 10.0}))
    chance = task(0.72) | {"change": {"mean": -0.08, "low": -0.2, "high": 0.05}}
    assert not warnings(SMALL | {"tasks": {"text": task(0.8), "image": chance}}, BASE)


def test_the_pareto_front_excludes_dominated_variants() -> None:
    beaten = variant("Q5_0", 600, 0.002, 70)
    assert pareto_front([BASE, GOOD, SMALL, beaten]) == ["F16", "Q8_0", "Q4_K_M"]


def test_limits_are_parsed_by_modality() -> None:
    assert parse_max_loss("vision=1,text=0.5") == {"image": 1.0, "text": 0.5} and parse_max_loss("") == {}
    for wrong in ("smell=1", "vision", "vision=x"):
        with pytest.raises(ConfigError, match="is not a limit"):
            parse_max_loss(wrong)


def test_the_overview_marks_the_recommended_variant_and_the_pareto_front() -> None:
    variants = [BASE, variant("Q5_0", 600, 0.002, 40), GOOD, SMALL]
    results = {
        "variants": variants,
        "recommended": recommend(variants, BASE, Constraints()),
        "front": pareto_front(variants),
    }
    table = tables.overview(results)
    assert [row[0] for row in table.rows] == ["F16 +", "Q5_0", "Q8_0 +", "Q4_K_M *"]
    for each in (table, tables.costs(results), tables.answers(results | {"variants": []})):
        assert {len(row) for row in each.rows} <= {len(each.columns)}
    assert tables.costs(results).rows[0][-1] == "unknown"


def test_wide_tables_are_split_to_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["variant", *(f"column {i}" for i in range(20))]
    text = report.wide_table(columns, [["text-F16 + mmproj-F16", *map(str, range(20))]])
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(f"column {i}" in text for i in range(20)) and text.count("text-F16 + mmproj-F16") > 1


def test_remaining_time_is_extrapolated_from_completed_steps() -> None:
    now, lines = [0.0], list[str]()
    progress = ProgressEstimator({"read": 2, "write": 2}, lambda line, share: lines.append(line), lambda: now[0])
    progress.begin("read")
    now[0] = 10.0
    progress.advance("read", "A", 0.5)
    assert progress.remaining_seconds == 70 and lines == ["read of A: 12%, 70 s left"]
    now[0] = 20.0
    progress.advance("read", "A", 1.0)
    progress.begin("read")
    now[0] = 40.0
    progress.advance("read", "B", 1.0)
    progress.begin("write")
    now[0] = 42.0
    progress.advance("write", "A", 1.0)
    assert progress.remaining_seconds == 2
    progress.skip("write")
    assert progress.remaining_seconds == 0
    assert [format_duration(seconds) for seconds in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]


def test_weights_estimate_steps_that_have_not_begun() -> None:
    now = [0.0]
    progress = ProgressEstimator({"read": 2, "write": 2}, lambda *_: None, lambda: now[0], {"write": 0.5})
    progress.begin("read")
    now[0] = 10.0
    progress.advance("read", "A", 0.5)
    assert progress.remaining_seconds == 30 + 20
