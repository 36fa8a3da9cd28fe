"""The generated pages are what the code says, and pages name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from checks.__main__ import summaries
from documentation.pages import generated
from fakes.pages import ROOT
from galago.runtime.cli.ui.help_pages import PAGES, PARAM_PAGES

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def test_the_generated_pages_are_up_to_date() -> None:
    stale = [name for name, text in generated().items() if (ROOT / name).read_text("utf-8") != text]
    assert not stale, "run scripts/docs"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    assert set(re.findall(r"`scripts/bench ([a-z_]+)", text)) <= set(BENCHMARKS)
    assert set(re.findall(r"`scripts/check ([a-z_]+)", text)) <= set(summaries())
    paths = re.findall(r"`(scripts/[\w/.]+)", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_errors_lead_to_pages_that_exist() -> None:
    assert not [page for page in {*PAGES.values(), *PARAM_PAGES.values()} if not (ROOT / page).exists()]
