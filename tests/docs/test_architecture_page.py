"""docs/architecture.md names what exists, and the request traced in it is what a real server and its worker run."""

from __future__ import annotations

import re

from checks.request_trace import trace
from documentation.pages import traced_files
from fakes.pages import ROOT

PAGE = ROOT / "docs/architecture.md"
CODE = ("models", "quantize", "runtime", "scripts", "tests")
MAX_FILES = 25
MAX_THREAD_CROSSINGS = 5


def test_a_chat_request_enters_the_files_that_the_page_names() -> None:
    found = trace()
    assert set(found.files) == traced_files(PAGE.read_text("utf-8")), "run scripts/docs"
    assert len(found.files) <= MAX_FILES
    assert found.thread_crossings <= MAX_THREAD_CROSSINGS


def test_every_name_on_the_page_is_in_the_file_that_it_is_said_to_be_in() -> None:
    named = re.findall(r"`([A-Za-z_.]+)`(?: and `[a-z_]+`)? (?:in|of) `([a-z_/]+\.py)`", PAGE.read_text("utf-8"))
    assert len(named) > 60
    for name, file in named:
        files = [ROOT / file] if "/" in file else [path for part in CODE for path in (ROOT / part).rglob(file)]
        code = "\n".join(path.read_text("utf-8") for path in files)
        missing = [word for word in name.split(".") if not re.search(rf"\b{word}\b", code)]
        assert not missing, f"{file} has no {name}"


def test_every_file_on_the_page_exists() -> None:
    paths = set(re.findall(r"`((?:models|runtime|quantize|scripts|tests)/[a-z_/]+\.py)`", PAGE.read_text("utf-8")))
    assert len(paths) > 100
    assert [path for path in paths if not (ROOT / path).is_file()] == []
