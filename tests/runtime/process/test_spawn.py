"""Child processes get their whole input, however slowly they read it."""

from __future__ import annotations

import json

import pytest

from galago.runtime.process import spawn


def test_a_child_that_starts_slowly_gets_input_larger_than_a_pipe_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "_POLL_SECONDS", 0.001)  # the child is looked at before it has started
    given = json.dumps("x" * 1_000_000).encode()
    done = spawn.run_module("json.tool", "--compact", stdin=given, timeout_seconds=60)
    assert done.ok and done.stdout.strip() == given


def test_a_child_that_reads_nothing_ends_as_usual() -> None:
    done = spawn.run_module("this", stdin=b"x" * 1_000_000, timeout_seconds=60)
    assert done.ok and b"Zen of Python" in done.stdout
