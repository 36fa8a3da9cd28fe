"""The project passes `scripts/check names`, and the check finds what it should."""

from __future__ import annotations

import ast

import pytest

from checks import names


def trees(**sources: str) -> dict[str, ast.Module]:
    """Syntax trees of modules named `models/NAME.py`."""
    return {f"models/{name}.py": ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize("part", names.PARTS_OF_CHECK)
def test_the_project_passes(part: str) -> None:
    assert names.PARTS_OF_CHECK[part](names.read()) == []


def test_classes_and_aliases_that_two_modules_define_are_listed() -> None:
    problems = names.duplicates(
        trees(
            a="class Report: ...\nclass _Own: ...\nLIMIT = 3", b="Report = dict[str, int]\nclass _Own: ...\nLIMIT = 4"
        )
    )
    assert problems == ["Report: defined in models/a.py, models/b.py"]


def test_imported_names_are_no_definitions() -> None:
    assert names.duplicates(trees(a="class Report: ...", b="from a import Report")) == []


def test_a_reason_allows_a_duplicate_and_must_be_needed() -> None:
    modules = trees(a="class Report: ...", b="Report = int | str")
    assert names.duplicates(modules, {"Report": "two APIs"}) == []
    assert names.duplicates(modules, {"Report": "two APIs", "Plan": "none"}) == [
        "Plan: REASONS explains a name that is defined once"
    ]


def test_an_api_schema_may_repeat_a_name_of_the_project() -> None:
    source = ast.parse("class Message: ...")
    schemas = {f"runtime/server/{api}/schema.py": source for api in ("openai", "ollama")}
    assert names.duplicates({"runtime/types/messages.py": source, **schemas}) == []
    assert names.duplicates({"runtime/types/messages.py": source, "runtime/cli/run.py": source, **schemas}) != []


@pytest.mark.parametrize(
    "source",
    [
        "class Seat: ...",
        "def read_ledger(): ...",
        "def f(told): ...",
        "def f():\n    found = 1",
        "class A:\n    eyes: int",
        "self.made = 1",
        "import x as shelf",
        "for about in (): ...",
        "RETREAD = 16",
        "class SeatOutlook: ...",
    ],
)
def test_home_made_words_are_listed(source: str) -> None:
    assert len(names.words(trees(a=source))) == 1


@pytest.mark.parametrize("source", ["class NotFound: ...", "def f(row, raw): ...", "made_by.found()", "'told'"])
def test_good_names_and_uses_are_not_listed(source: str) -> None:
    assert names.words(trees(a=source)) == []


def test_a_module_named_with_a_home_made_word_is_listed() -> None:
    assert names.words(trees(films="")) == ["models/films.py: the module's name films"]


def test_the_real_folders_are_read() -> None:
    assert {path.split("/")[0] for path in names.read()} == set(names.PARTS)
