"""The environment in which `scripts/check` and `scripts/bench` run their modules."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def scripts_environment() -> dict[str, str]:
    """This process's environment, with scripts/ and tests/ on Python's path."""
    folders = [str(ROOT / "scripts"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
