"""Decides which variant to use: the Pareto front, warnings about lost modalities, and the recommendation.

Pure functions on the JSON results that `evaluation.py` documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...models.errors import ConfigError
from .intervals import wilson
from .questions import MAX_ANSWER_TOKENS

EvaluationResults: TypeAlias = Mapping[str, Any]
VariantResults: TypeAlias = Mapping[str, Any]

DEFAULT_MAX_LOSS = 2.0
"""Percentage points of accuracy that a modality may lose by default."""
MIN_TOP1_AGREEMENT = 0.9
"""A variant must agree with the baseline on at least this share of tokens, in each modality."""
MIN_MEDIA_GAIN_RATIO = 0.5
"""A variant still uses a modality if its media contribute at least this share of the baseline's contribution."""
MAX_CUT_SHARE = 0.5
"""If more than this share of answers reach the maximum length, the model's end token may never come."""
_MIN_BASELINE_GAIN_NATS = 0.1
"""If media contribute less than this per token in the baseline, variants are not blamed for a smaller contribution."""

MODALITY_OPTIONS = {
    "text": "text", "vision": "image", "image": "image", "hearing": "audio", "audio": "audio", "both": "both",
}  # fmt: skip
MODALITY_NAMES = {"text": "text", "image": "images", "audio": "audio", "both": "images with audio"}


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the recommended variant must satisfy. `max_loss` is in percentage points of accuracy by modality."""

    max_memory_bytes: int | None = None
    min_tokens_per_second: float | None = None
    max_loss: Mapping[str, float] = field(default_factory=dict)


_NO_CONSTRAINTS = Constraints()


def parse_max_loss(text: str) -> dict[str, float]:
    """Parses `vision=1,text=0.5` into percentage points by modality. Raises `ConfigError`."""
    limits = {}
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        try:
            limits[MODALITY_OPTIONS[name.strip()]] = float(number)
        except (KeyError, ValueError):
            raise ConfigError(
                f"{item!r} is not a limit; write for example vision=1, text=0.5 or hearing=2", "max-loss"
            ) from None
    return limits


def accuracy_loss(variant: VariantResults, baseline: VariantResults, modality: str) -> float | None:
    """Returns how many percentage points of accuracy the variant loses, or `None` if no questions were asked."""
    own, base = variant["tasks"].get(modality), baseline["tasks"].get(modality)
    return None if own is None or base is None else 100 * (base["accuracy"] - own["accuracy"])


def warnings(
    variant: VariantResults, baseline: VariantResults, constraints: Constraints = _NO_CONSTRAINTS
) -> list[str]:
    """Returns the faults that measuring text alone would miss."""
    failures = [
        f"fails on {entry['share']:.0%} of the questions on {MODALITY_NAMES[modality]}: {entry['reason']}"
        for modality, entry in variant["failed"].items()
    ]
    messages = failures + _modality_warnings(variant, baseline, constraints) + _answer_warnings(variant, baseline)
    return messages + _length_warnings(variant)


def _modality_warnings(variant: VariantResults, baseline: VariantResults, constraints: Constraints) -> list[str]:
    messages = []
    text = variant["fidelity"].get("text")
    text_is_good = text is None or text["top1"] >= MIN_TOP1_AGREEMENT
    although = " although its text is good" if text is not None and text_is_good else ""
    for modality in ("image", "audio"):
        name = MODALITY_NAMES[modality]
        before, now = baseline["looks"].get(modality), variant["looks"].get(modality)
        is_used = before is not None and before["low"] >= _MIN_BASELINE_GAIN_NATS and variant is not baseline
        fidelity = variant["fidelity"].get(modality)
        if is_used and now is None:
            messages += (
                [] if modality in variant["failed"] else [f"cannot process {name}: it has no projector for them"]
            )
        elif is_used and now["high"] < MIN_MEDIA_GAIN_RATIO * before["mean"]:
            gains = f"they contribute {now['mean']:.2f} nats per token, {before['mean']:.2f} in the baseline"
            messages.append(f"ignores {name}{although}: {gains}")
        elif although and fidelity is not None and fidelity["top1"] < MIN_TOP1_AGREEMENT:
            messages.append(
                f"is worse on {name}{although}: it predicts the same token {fidelity['top1']:.0%} of the time"
            )
        elif although and (points := _significant_loss(variant, baseline, modality)) > constraints.max_loss.get(
            modality, DEFAULT_MAX_LOSS
        ):
            messages.append(f"is worse on {name}{although}: its accuracy is {points:.1f} points lower")
    return messages


def _significant_loss(variant: VariantResults, baseline: VariantResults, modality: str) -> float:
    """Returns percentage points of accuracy lost, 0 if they may be chance."""
    change = variant["tasks"].get(modality, {}).get("change")
    significant = change is not None and change["high"] < 0
    return (accuracy_loss(variant, baseline, modality) or 0.0) if significant else 0.0


def _answer_warnings(variant: VariantResults, baseline: VariantResults) -> list[str]:
    """Reports kinds of answers that are significantly more frequent than in the baseline."""
    messages = []
    kinds = (
        ("gives an empty answer", "empty", 0.05),
        ("repeats itself within an answer", "repeats", 0.05),
        ("gives one and the same answer", "same", 0.25),
    )
    for description, share, margin in kinds:
        for modality, task in variant["tasks"].items():
            if modality in variant["failed"]:
                continue
            usual = baseline["tasks"].get(modality, task)[share]
            if wilson(task[share], task["n"])[0] > usual + margin:
                name = MODALITY_NAMES[modality]
                messages.append(f"{description} to {task[share]:.0%} of questions on {name} (baseline: {usual:.0%})")
    return messages


def _length_warnings(variant: VariantResults) -> list[str]:
    """Reports answers that do not end by themselves, including those of the baseline."""
    cut = {modality: task for modality, task in variant["tasks"].items() if modality not in variant["failed"]}
    return [
        f"does not end {task['cut']:.0%} of its answers on {MODALITY_NAMES[modality]} within {MAX_ANSWER_TOKENS} "
        "tokens, as if its end token never came"
        for modality, task in cut.items()
        if wilson(task["cut"], task["n"])[0] > MAX_CUT_SHARE
    ]


def pareto_front(variants: Sequence[VariantResults]) -> list[str]:
    """Returns the variants that no other beats in size, divergence or speed without being worse in another."""
    points = {v["name"]: (v["bytes"], worst_divergence(v), -(decode_speed(v) or 0.0)) for v in variants}
    return [
        name
        for name, own in points.items()
        if not any(other != own and all(o <= p for o, p in zip(other, own, strict=True)) for other in points.values())
    ]


def worst_divergence(variant: VariantResults) -> float:
    return max((entry["kl_mean"] for entry in variant["fidelity"].values()), default=0.0)


def decode_speed(variant: VariantResults) -> float | None:
    """Returns tokens per second of one answer."""
    speed = variant["speed"].get("decode_tokens_per_second")
    return None if speed is None else float(speed)


def recommend(
    variants: Sequence[VariantResults], baseline: VariantResults, constraints: Constraints
) -> dict[str, str | None]:
    """Returns the smallest variant that satisfies the constraints: `variant`, its name or `None`, and the `reason`.

    Size decides, not speed, which varies between runs; speed only has to suffice.
    """
    fitting = [v for v in variants if _fits(v, constraints)]
    if not fitting:
        least = min(variants, key=lambda v: v["memory_bytes"] or v["bytes"])
        tradeoff = describe_tradeoff(least, baseline)
        return {
            "variant": None,
            "reason": f"no variant satisfies the limits: {least['name']} needs the least memory, {tradeoff}",
        }
    good = [v for v in fitting if _is_good(v, baseline, constraints) and not v["warnings"]]
    if not good:
        best = min(fitting, key=lambda v: (len(v["warnings"]), worst_divergence(v)))
        reason = f"{best['name']}, although it loses more than allowed; no other variant that fits loses less: "
        return {"variant": best["name"], "reason": reason + describe_tradeoff(best, baseline)}
    best = min(good, key=lambda v: v["bytes"])
    if len(variants) == 1:
        return {"variant": best["name"], "reason": f"{best['name']}; there is no other variant to compare it with"}
    return {"variant": best["name"], "reason": f"{best['name']}: {describe_tradeoff(best, baseline)}"}


def _fits(variant: VariantResults, constraints: Constraints) -> bool:
    memory_bytes, speed = variant["memory_bytes"] or variant["bytes"], decode_speed(variant)
    if constraints.max_memory_bytes is not None and memory_bytes > constraints.max_memory_bytes:
        return False
    required = constraints.min_tokens_per_second
    return required is None or (speed is not None and speed >= required)


def _is_good(variant: VariantResults, baseline: VariantResults, constraints: Constraints) -> bool:
    for modality in baseline["fidelity"] | baseline["tasks"]:
        points = accuracy_loss(variant, baseline, modality)
        if points is not None and points > constraints.max_loss.get(modality, DEFAULT_MAX_LOSS):
            return False
        fidelity = variant["fidelity"].get(modality)
        if fidelity is not None and fidelity["top1"] < MIN_TOP1_AGREEMENT:
            return False
    return True


def describe_tradeoff(variant: VariantResults, baseline: VariantResults) -> str:
    """Describes what a variant costs and gains compared with the baseline, as part of a sentence."""
    if variant["name"] == baseline["name"]:
        return "the baseline itself, because no smaller variant comes close enough"
    parts = [f"{variant['bytes'] / baseline['bytes']:.0%} of the size"]
    speed, base_speed = decode_speed(variant), decode_speed(baseline)
    if speed and base_speed:
        parts.append(f"{speed / base_speed:.1f} times the speed")
    insignificant = []
    for modality, task in variant["tasks"].items():
        points, change = accuracy_loss(variant, baseline, modality), task.get("change")
        if points is None or change is None:
            continue
        name = MODALITY_NAMES[modality]
        if change["low"] <= 0 <= change["high"]:
            insignificant.append(name)
        else:
            parts.append(f"accuracy on {name} {abs(points):.1f} points {'lower' if points > 0 else 'higher'}")
    parts += [f"no significant change on {', '.join(insignificant)}"] if insignificant else []
    if not variant["tasks"] and variant["fidelity"]:
        agreement = min(entry["top1"] for entry in variant["fidelity"].values())
        parts.append(f"the same token {agreement:.1%} of the time")
    return ", ".join(parts)
