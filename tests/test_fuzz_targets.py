"""Each fuzz target holds for the inputs that once failed and for a fixed number of generated ones."""

from __future__ import annotations

import pytest
from fuzzing import target


@pytest.mark.parametrize("name", target.names())
def test_a_target_holds(name: str) -> None:
    target.run_in_suite(name)
