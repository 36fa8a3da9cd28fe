"""Which variant to run: what is dominated, what has stopped seeing or hearing, and what fits a user's constraints.

Pure functions over the results' JSON values, which `evaluation.py` documents. Knows no files and no printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...models.errors import ConfigError
from .intervals import wilson

Variant = Mapping[str, Any]

USUAL_LOSS = 2.0
"""Points of accuracy that a sense may lose where the user has not said otherwise."""
LEAST_AGREEMENT = 0.9
"""Share of tokens on which a variant must agree with the baseline, in each sense."""
LOOKING = 0.5
"""A variant still looks where its picture tells it at least this share of what the baseline's tells."""
_MARGIN = 0.1
"""Nats a token that the baseline must gain from a picture or sound before others are blamed for gaining less."""

SENSES = {"text": "text", "vision": "image", "image": "image", "hearing": "audio", "audio": "audio", "both": "both"}
NAMES = {"text": "text", "image": "pictures", "audio": "sounds", "both": "pictures with sounds"}


@dataclass(frozen=True, slots=True)
class Constraints:
    """`memory` in bytes, `speed` in tokens a second, `loss` in points of accuracy by sense."""

    memory: int | None = None
    speed: float | None = None
    loss: Mapping[str, float] = field(default_factory=dict)


_ANY = Constraints()


def losses(text: str) -> dict[str, float]:
    """`vision=1,text=0.5` as points by sense. Raises `ConfigError`."""
    found = {}
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        try:
            found[SENSES[name.strip()]] = float(number)
        except (KeyError, ValueError):
            raise ConfigError(f"{item!r} is no limit; write vision=1, text=0.5 or hearing=2", "max-loss") from None
    return found


def lost(variant: Variant, baseline: Variant, sense: str) -> float | None:
    """Points of accuracy fewer than the baseline's; where nothing was asked, `None`."""
    here, there = variant["tasks"].get(sense), baseline["tasks"].get(sense)
    return None if here is None or there is None else 100 * (there["accuracy"] - here["accuracy"])


def warnings(variant: Variant, baseline: Variant, wanted: Constraints = _ANY) -> list[str]:
    """What a look at text alone would miss."""
    found = [
        f"cannot take {one['share']:.0%} of the questions on {NAMES[sense]}: {one['reason']}"
        for sense, one in variant["failed"].items()
    ]
    return found + _senses_lost(variant, baseline, wanted) + _odd_answers(variant, baseline)


def _senses_lost(variant: Variant, baseline: Variant, wanted: Constraints) -> list[str]:
    found = []
    text = variant["fidelity"].get("text")
    healthy = text is None or text["top1"] >= LEAST_AGREEMENT
    beside = " though its text is fine" if text is not None and healthy else ""
    for sense, gone, worse in (("image", "stopped seeing", "sees"), ("audio", "stopped hearing", "hears")):
        before, now = baseline["looks"].get(sense), variant["looks"].get(sense)
        looks = before is not None and before["low"] >= _MARGIN and variant is not baseline
        one = variant["fidelity"].get(sense)
        if looks and now is None:
            found += [] if sense in variant["failed"] else [f"has {gone}: it has no projector for it"]
        elif looks and now["high"] < LOOKING * before["mean"]:
            told = f"{now['mean']:.2f} nats a token where the baseline's tell {before['mean']:.2f}"
            found.append(f"has {gone}{beside}: {NAMES[sense]} tell it {told}")
        elif beside and one is not None and one["top1"] < LEAST_AGREEMENT:
            found.append(f"{worse} worse{beside}: it says the same on {NAMES[sense]} {one['top1']:.0%} of the time")
        elif beside and (points := _surely_lost(variant, baseline, sense)) > wanted.loss.get(sense, USUAL_LOSS):
            found.append(f"{worse} worse{beside}: {points:.1f} points fewer right on {NAMES[sense]}")
    return found


def _surely_lost(variant: Variant, baseline: Variant, sense: str) -> float:
    """Points of accuracy, 0 where they may be chance."""
    change = variant["tasks"].get(sense, {}).get("change")
    return (lost(variant, baseline, sense) or 0.0) if change is not None and change["high"] < 0 else 0.0


def _odd_answers(variant: Variant, baseline: Variant) -> list[str]:
    """Shares of answers of a kind that are, beyond chance, so much larger than the baseline's."""
    found = []
    kinds = (("no answer at all", "empty", 0.05), ("the same again and again within an answer", "repeats", 0.05))
    for name, share, margin in (*kinds, ("one and the same answer", "same", 0.25)):
        for sense, task in variant["tasks"].items():
            if sense in variant["failed"]:
                continue
            usual = baseline["tasks"].get(sense, task)[share]
            if wilson(task[share], task["n"])[0] > usual + margin:
                found.append(f"says {name} to {task[share]:.0%} of questions on {NAMES[sense]}, {usual:.0%} before")
    return found


def front(variants: Sequence[Variant]) -> list[str]:
    """Names of those that no other beats in one of bytes, divergence and speed without being worse in another."""
    points = {v["name"]: (v["bytes"], worst_divergence(v), -(speed(v) or 0.0)) for v in variants}
    return [
        name
        for name, own in points.items()
        if not any(other != own and all(o <= p for o, p in zip(other, own, strict=True)) for other in points.values())
    ]


def worst_divergence(variant: Variant) -> float:
    return max((one["kl_mean"] for one in variant["fidelity"].values()), default=0.0)


def speed(variant: Variant) -> float | None:
    found = variant["speed"].get("decode_tokens_per_second")
    return None if found is None else float(found)


def recommend(variants: Sequence[Variant], baseline: Variant, wanted: Constraints) -> dict[str, str | None]:
    """The smallest that loses no more than allowed and fits: `variant`, its name or `None`, and the `reason`.

    Bytes decide, not speed, which is another with each run; speed only has to suffice.
    """
    fitting = [v for v in variants if _fits(v, wanted)]
    if not fitting:
        least = min(variants, key=lambda v: v["memory_bytes"] or v["bytes"])
        return {"variant": None, "reason": f"no variant fits: {least['name']} takes the least, {told(least, baseline)}"}
    sound = [v for v in fitting if _keeps(v, baseline, wanted) and not v["warnings"]]
    if not sound:
        best = min(fitting, key=lambda v: (len(v["warnings"]), worst_divergence(v)))
        reason = f"{best['name']}, though it loses more than allowed; no other that fits loses less: "
        return {"variant": best["name"], "reason": reason + told(best, baseline)}
    best = min(sound, key=lambda v: v["bytes"])
    if len(variants) == 1:
        return {"variant": best["name"], "reason": f"{best['name']}; there is no other to compare it with"}
    return {"variant": best["name"], "reason": f"{best['name']}: {told(best, baseline)}"}


def _fits(variant: Variant, wanted: Constraints) -> bool:
    memory, rate = variant["memory_bytes"] or variant["bytes"], speed(variant)
    if wanted.memory is not None and memory > wanted.memory:
        return False
    return wanted.speed is None or (rate is not None and rate >= wanted.speed)


def _keeps(variant: Variant, baseline: Variant, wanted: Constraints) -> bool:
    for sense in baseline["fidelity"] | baseline["tasks"]:
        points = lost(variant, baseline, sense)
        if points is not None and points > wanted.loss.get(sense, USUAL_LOSS):
            return False
        fidelity = variant["fidelity"].get(sense)
        if fidelity is not None and fidelity["top1"] < LEAST_AGREEMENT:
            return False
    return True


def told(variant: Variant, baseline: Variant) -> str:
    """What a variant costs and gains beside the baseline, as part of a sentence."""
    if variant["name"] == baseline["name"]:
        return "the baseline itself, which nothing smaller comes close enough to"
    parts = [f"{variant['bytes'] / baseline['bytes']:.0%} of the bytes"]
    now, before = speed(variant), speed(baseline)
    if now and before:
        parts.append(f"{now / before:.1f} times the speed")
    noise = []
    for sense, task in variant["tasks"].items():
        points, change = lost(variant, baseline, sense), task.get("change")
        if points is None or change is None:
            continue
        if change["low"] <= 0 <= change["high"]:
            noise.append(NAMES[sense])
        else:
            parts.append(f"{abs(points):.1f} points {'lost' if points > 0 else 'gained'} on {NAMES[sense]}")
    parts += [f"within the noise on {', '.join(noise)}"] if noise else []
    if not variant["tasks"] and variant["fidelity"]:
        agreement = min(one["top1"] for one in variant["fidelity"].values())
        parts.append(f"the same token {agreement:.1%} of the time")
    return ", ".join(parts)
