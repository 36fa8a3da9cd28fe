"""Defines fuzz targets, finds them, and runs one for a time or for a number of inputs."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import SearchStrategy

_FOLDER = Path(__file__).parent / "targets"
_DATABASE = Path(__file__).parents[2] / "build/fuzz"
_INPUTS_PER_ROUND = 200


@dataclass(frozen=True)
class Target:
    """Code that reads untrusted input.

    - `inputs`: the strategy that generates input.
    - `check`: reads one input. It returns if the input is read or refused as documented, and raises otherwise.
    - `seeds`: inputs that once went wrong. Each is checked first, in every run.
    - `suite_inputs`: how many generated inputs the test suite checks.
    """

    inputs: SearchStrategy[Any]
    check: Callable[[Any], None]
    seeds: tuple[Any, ...] = ()
    suite_inputs: int = 100


def names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Target:
    target: Target = importlib.import_module(f"fuzzing.targets.{name}").TARGET
    return target


def run_for(name: str, seconds: float, before: Callable[[Any], None] = lambda _: None) -> int:
    """Checks new inputs for a time, and returns how many. Failing inputs are kept in build/fuzz and tried again.

    `before` is called with each input before it is checked.
    """
    target, end, count = load(name), time.monotonic() + seconds, 0

    def check(value: Any) -> None:
        nonlocal count
        before(value)
        target.check(value)
        count += 1

    for value in target.seeds:
        check(value)
    start = time.time_ns()
    while time.monotonic() < end:
        _run(target.inputs, lambda value: check(value) if time.monotonic() < end else None, start + count, name)
    return count


def run_in_suite(name: str) -> None:
    """Checks the seeds and the same number of generated inputs in every run."""
    target = load(name)
    for value in target.seeds:
        target.check(value)
    settings(
        max_examples=target.suite_inputs,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )(given(target.inputs)(target.check))()


def _run(inputs: SearchStrategy[Any], check: Callable[[Any], None], number: int, name: str) -> None:
    @seed(number)
    @settings(
        max_examples=_INPUTS_PER_ROUND,
        deadline=None,
        database=DirectoryBasedExampleDatabase(_DATABASE / name),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(inputs)
    def trial(value: Any) -> None:
        check(value)

    trial()
