"""The request traced in docs/architecture.md is what a real server and its worker run."""

from __future__ import annotations

from checks.request_trace import trace
from documentation.pages import traced_files
from fakes.pages import ROOT

MAX_FILES = 25
MAX_THREAD_CROSSINGS = 5


def test_a_chat_request_enters_the_files_that_the_page_names() -> None:
    found = trace()
    assert set(found.files) == traced_files((ROOT / "docs/architecture.md").read_text("utf-8")), "run scripts/docs"
    assert len(found.files) <= MAX_FILES
    assert found.thread_crossings <= MAX_THREAD_CROSSINGS
