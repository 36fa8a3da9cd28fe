"""Four writers and four readers, each a process, on one kind of file; `scripts/check kept_files` runs all kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks import kept_files

WRITES = 5


def test_nothing_is_lost_or_half_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = Path(kept_files.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{scripts}:{scripts.parent / 'tests'}")
    outcome = kept_files.run("records of evaluations", tmp_path / "kept", seconds=300, writes=WRITES)
    assert outcome.ok, outcome
    assert outcome.writes == kept_files.WRITERS * WRITES and outcome.reads > 0
