"""Evaluation results of invented variants."""

from __future__ import annotations

from typing import Any


def task(accuracy: float) -> dict[str, Any]:
    gained = accuracy - 0.8
    return {
        "accuracy": accuracy,
        "n": 100,
        "same": 0.2,
        "empty": 0.0,
        "repeats": 0.0,
        "cut": 0.0,
        "change": {"mean": gained, "low": gained - 0.01, "high": gained + 0.01},
    }


def variant(name: str, size: int, kl: float = 0.0, speed: float = 50.0, **changed: Any) -> dict[str, Any]:
    one = {"kl_mean": kl, "kl_low": kl, "kl_high": kl, "top1": 0.97 if kl else 1.0}
    look = {"mean": 2.0, "low": 1.8, "high": 2.2}
    results = {
        "name": name,
        "bytes": size,
        "memory_bytes": 2 * size,
        "speed": {"decode_tokens_per_second": speed},
        "memory": None,
        "model_name": name,
        "mmproj_name": None,
        "failed": {},
        "fidelity": {sense: dict(one) for sense in ("text", "image")},
        "looks": {"image": look},
        "tasks": {sense: task(0.8) for sense in ("text", "image")},
        "warnings": [],
    }
    return results | changed


BASE = variant("F16", 1000)


GOOD = variant("Q8_0", 500, 0.001, 80)


SMALL = variant("Q4_K_M", 300, 0.01, 100)
