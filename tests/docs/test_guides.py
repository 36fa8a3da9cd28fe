"""Every command and snippet in the guides runs, and prints what the guide shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.pages import ROOT, blocks, run_page

GUIDES = sorted((ROOT / "docs/guide").glob("*.md"))
NOT_RUN = 11
"""Blocks that the pages leave out, each with its reason next to it. Raise this only with a reason as good."""


@pytest.mark.parametrize("page", [ROOT / "README.md", *GUIDES], ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_few_blocks_are_left_out() -> None:
    left_out = [block for page in (ROOT / "README.md", *GUIDES) for block in blocks(page) if block.reason is not None]
    assert len(left_out) <= NOT_RUN


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 160
