"""Results of evaluations as they are kept on this device, and what the last one says of a model. Measures nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models import units
from ...models.device import Machine, this_machine
from ...models.fingerprint import of_pair
from ...models.paths import cache_folder
from .verdict import NAMES

Results = Mapping[str, Any]


def folder() -> Path:
    """Of this device: a home folder may be shared by several."""
    return cache_folder() / "evaluations" / "results" / _device(this_machine())


def _device(machine: Machine) -> str:
    facts = [machine.processor, str(machine.logical_cores), machine.system.split()[0]]
    return hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()


def keep(results: Results) -> None:
    """Replaces earlier results of the same variants and questions."""
    facts = [results["set"], *(variant["key"] for variant in results["variants"])]
    name = hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()
    folder().mkdir(parents=True, exist_ok=True)
    part = folder() / f"{name}.part"
    part.write_text(json.dumps(results), encoding="utf-8")
    part.replace(folder() / f"{name}.json")


def find(model: Path, projector: Path | None) -> dict[str, Any] | None:
    """What the last evaluation on this device found of these files: `made`, `variant` (as in the results) and
    `recommended`. `None` where there was none."""
    best: dict[str, Any] | None = None
    if not folder().is_dir():
        return None
    key = of_pair(model, projector)
    for path in folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # of another version, or damaged
            results = json.loads(path.read_text(encoding="utf-8"))
            for variant in results["variants"]:
                if variant["key"] == key and (best is None or results["made"] > best["made"]):
                    best = {"made": results["made"], "variant": variant, "recommended": results["recommended"]}
    return best


def told(found: Mapping[str, Any]) -> str:
    """What `find` gives, in a sentence."""
    variant = found["variant"]
    parts = []
    if rate := variant["speed"].get("decode_tokens_per_second"):
        parts.append(f"{rate:.0f} tokens a second")
    if variant["memory_bytes"]:
        parts.append(units.size(variant["memory_bytes"]))
    shares = [f"{task['accuracy']:.0%} in {NAMES[sense]}" for sense, task in variant["tasks"].items()]
    parts += [f"right answers {', '.join(shares)}"] if shares else []
    line = f"galago evaluate measured here on {found['made'][:10]}: {', '.join(parts)}"
    better = found["recommended"]
    if better["variant"] not in (None, variant["name"]):
        line += f"; it recommended {better['reason']}"
    return line
