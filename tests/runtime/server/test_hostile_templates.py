"""A model whose chat template goes off at a word: the sender gets an error, and all others get their answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fakes.hostile_templates import sleeping_bombs
from fakes.server import Server, serving
from galago.models.registry.resolve import resolve

WORDS = ("doubled list", "repr", "power of a rounded number", "repeated text")
LIMITS = {"GALAGO_LIMIT_TEMPLATE_SECONDS": "1", "GALAGO_LIMIT_TEMPLATE_MEMORY": "64MiB"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("template") / "hostile.jinja"
    path.write_text(sleeping_bombs(resolve("builtin").header.chat_template or ""), "utf-8")
    with serving("--threads", "1", "--chat-template", str(path), **LIMITS) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("tools", [[], [{"type": "function", "function": {"name": "f"}}]], ids=["plain", "with tools"])
def test_neighbours_of_a_chat_that_sets_a_template_off_are_answered(hostile: Server, tools: list[object]) -> None:
    before, ended, answers = hostile.worker(), threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            answers.append(hostile.ask("What day comes after Wednesday?", max_tokens=12))

    neighbour = threading.Thread(target=ask)
    neighbour.start()
    refusals = [hostile.ask(word, tools=tools) for word in WORDS]
    ended.set()
    neighbour.join()
    assert [(refused.status_code, refused.json()["error"]["code"]) for refused in refusals] == [
        (400, "chat_template_error")
    ] * len(WORDS)
    assert all("--limit template_" in refused.json()["error"]["message"] for refused in refusals)
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {"Thursday."}
    assert hostile.worker() == before
