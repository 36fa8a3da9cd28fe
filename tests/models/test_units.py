"""Formatting of sizes."""

from __future__ import annotations

import pytest

from galago.models import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4_412_345, "4.41 MB"),
        (98_640_000, "98.6 MB"),
        (407e6, "407 MB"),
        (999_499_999, "999 MB"),
        (999_999_999, "1000 MB"),
        (1e9, "1 GB"),
        (19_731_000_000, "19.7 GB"),
        (2_345e9, "2345 GB"),
    ],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert units.format_bytes(count) == text
