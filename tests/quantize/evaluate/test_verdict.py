"""Which variant is recommended, and what is said of those that have stopped seeing or hearing."""

from __future__ import annotations

import pytest

from fakes.evaluations import BASE, GOOD, SMALL, task, variant
from galago.models.errors import ConfigError
from galago.quantize.evaluate.report import tables
from galago.quantize.evaluate.verdict import Constraints, front, losses, recommend, warnings
from galago.quantize.progress import Progress, duration


def test_the_smallest_that_keeps_its_senses_is_recommended() -> None:
    found = recommend([BASE, GOOD, SMALL], BASE, Constraints())
    assert found["variant"] == "Q4_K_M" and "30% of the bytes, 2.0 times the speed" in str(found["reason"])
    assert "within the noise on text, pictures" in str(found["reason"])


def test_a_model_alone_is_compared_with_nothing() -> None:
    assert recommend([BASE], BASE, Constraints())["reason"] == "F16; there is no other to compare it with"


def test_speed_decides_nothing_but_what_is_too_slow() -> None:
    for busy in (10.0, 60.0, 300.0):
        slow = SMALL | {"speed": {"decode_tokens_per_second": busy}}
        assert recommend([BASE, GOOD, slow], BASE, Constraints())["variant"] == "Q4_K_M"
    slow = SMALL | {"speed": {"decode_tokens_per_second": 60.0}}
    assert recommend([BASE, GOOD, slow], BASE, Constraints(speed=70))["variant"] == "Q8_0"


def test_a_limit_on_one_sense_holds_for_it_alone() -> None:
    worse = SMALL | {"tasks": {"text": task(0.8), "image": task(0.785)}}
    assert recommend([BASE, GOOD, worse], BASE, Constraints())["variant"] == "Q4_K_M"
    assert recommend([BASE, GOOD, worse], BASE, Constraints(loss={"image": 1.0}))["variant"] == "Q8_0"
    assert recommend([BASE, GOOD, worse], BASE, Constraints(loss={"text": 1.0}))["variant"] == "Q4_K_M"


def test_what_does_not_fit_is_not_recommended() -> None:
    assert recommend([BASE, GOOD, SMALL], BASE, Constraints(memory=700))["variant"] == "Q4_K_M"
    found = recommend([BASE, GOOD], BASE, Constraints(memory=700))
    assert found["variant"] is None and "no variant fits" in str(found["reason"])
    lossy = SMALL | {"tasks": {"text": task(0.5), "image": task(0.5)}}
    found = recommend([BASE, lossy], BASE, Constraints(memory=700))
    assert found["variant"] == "Q4_K_M" and "loses more than allowed" in str(found["reason"])
    assert "30.0 points lost on text" in str(found["reason"])


def test_a_variant_that_stopped_seeing_is_named_and_not_taken() -> None:
    blind = SMALL | {"looks": {"image": {"mean": 0.1, "low": 0.0, "high": 0.2}}}
    said = warnings(blind, BASE)
    assert len(said) == 1 and said[0].startswith("has stopped seeing though its text is fine")
    assert recommend([BASE, GOOD, blind | {"warnings": said}], BASE, Constraints())["variant"] == "Q8_0"
    assert warnings(SMALL | {"looks": {}}, BASE) == ["has stopped seeing: it has no projector for it"]
    assert not warnings(SMALL, BASE) and not warnings(BASE, BASE)


def test_a_baseline_that_does_not_look_blames_nobody() -> None:
    unsure = BASE | {"looks": {"image": {"mean": 0.3, "low": -0.1, "high": 0.7}}}
    assert not warnings(SMALL | {"looks": {"image": {"mean": 0.0, "low": 0.0, "high": 0.0}}}, unsure)


@pytest.mark.parametrize(
    ("share", "says"),
    [("empty", "says no answer at all to 40%"), ("repeats", "says the same again and again within an answer to 40%"),
     ("same", "says one and the same answer to 90%")],
)  # fmt: skip
def test_odd_answers_are_told_where_they_are_no_chance(share: str, says: str) -> None:
    size = 0.9 if share == "same" else 0.4
    odd = SMALL | {"tasks": {"text": task(0.8), "image": task(0.8) | {share: size}}}
    assert [line.split(" of ")[0] for line in warnings(odd, BASE)] == [says]
    few = SMALL | {"tasks": {"text": task(0.8), "image": task(0.8) | {share: size / 4, "n": 10}}}
    assert not warnings(few, BASE)


def test_what_a_variant_cannot_take_is_told() -> None:
    broken = SMALL | {"failed": {"image": {"share": 0.5, "reason": "no place for them"}}, "looks": {}}
    assert warnings(broken, BASE) == ["cannot take 50% of the questions on pictures: no place for them"]


def test_a_variant_that_sees_worse_is_told_apart_from_one_that_is_worse() -> None:
    worse = {"kl_mean": 0.3, "top1": 0.7}
    near = SMALL | {"fidelity": SMALL["fidelity"] | {"image": worse}}
    assert warnings(near, BASE) == ["sees worse though its text is fine: it says the same on pictures 70% of the time"]
    assert not warnings(SMALL | {"fidelity": {"text": worse, "image": worse}}, BASE)


def test_fewer_right_answers_in_one_sense_are_told_where_they_are_no_chance() -> None:
    hurt = SMALL | {"tasks": {"text": task(0.8), "image": task(0.72)}}
    assert warnings(hurt, BASE) == ["sees worse though its text is fine: 8.0 points fewer right on pictures"]
    assert not warnings(hurt, BASE, Constraints(loss={"image": 10.0}))
    chance = task(0.72) | {"change": {"mean": -0.08, "low": -0.2, "high": 0.05}}
    assert not warnings(SMALL | {"tasks": {"text": task(0.8), "image": chance}}, BASE)


def test_the_front_leaves_out_what_another_beats() -> None:
    beaten = variant("Q5_0", 600, 0.002, 70)
    assert front([BASE, GOOD, SMALL, beaten]) == ["F16", "Q8_0", "Q4_K_M"]


def test_limits_are_read_by_sense() -> None:
    assert losses("vision=1,text=0.5") == {"image": 1.0, "text": 0.5} and losses("") == {}
    for wrong in ("smell=1", "vision", "vision=x"):
        with pytest.raises(ConfigError, match="is no limit"):
            losses(wrong)


def test_the_overview_has_a_row_for_each_variant_and_marks_the_recommended_one_and_the_front() -> None:
    variants = [BASE, variant("Q5_0", 600, 0.002, 40), GOOD, SMALL]
    results = {"variants": variants, "recommended": recommend(variants, BASE, Constraints()), "front": front(variants)}
    table = tables.overview(results)
    assert [row[0] for row in table.rows] == ["F16 +", "Q5_0", "Q8_0 +", "Q4_K_M *"]
    for made in (table, tables.costs(results), tables.answers(results | {"variants": []})):
        assert {len(row) for row in made.rows} <= {len(made.columns)}
    assert tables.costs(results).rows[0][-1] == "unknown"


def test_remaining_time_is_that_of_steps_like_those_done() -> None:
    now, told = [0.0], list[str]()
    progress = Progress({"read": 2, "write": 2}, lambda line, share: told.append(line), lambda: now[0])
    progress.begin("read")
    now[0] = 10.0
    progress.advance("read", "A", 0.5)
    assert progress.remaining == 70 and told == ["read of A: 12%, 70 s left"]
    now[0] = 20.0
    progress.advance("read", "A", 1.0)
    progress.begin("read")
    now[0] = 40.0
    progress.advance("read", "B", 1.0)
    progress.begin("write")
    now[0] = 42.0
    progress.advance("write", "A", 1.0)
    assert progress.remaining == 2
    progress.skip("write")
    assert progress.remaining == 0
    assert [duration(seconds) for seconds in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]


def test_steps_known_to_be_short_are_reckoned_so_before_one_was_done() -> None:
    now = [0.0]
    progress = Progress({"read": 2, "write": 2}, lambda *_: None, lambda: now[0], {"write": 0.5})
    progress.begin("read")
    now[0] = 10.0
    progress.advance("read", "A", 0.5)
    assert progress.remaining == 30 + 20
