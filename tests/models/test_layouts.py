"""Repositories as they are on the Hub: what pulling takes, and what is listed, found and deleted afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub import LocalHub, running
from fakes.layouts import LAYOUTS, Layout, tiny_file
from galago.models.errors import GalagoError, ModelError
from galago.models.gguf.file_name import quant_of
from galago.models.hub import client
from galago.models.hub.cache import HubCache
from galago.models.hub.pull import plan, pull
from galago.models.registry import installed, removal
from galago.models.registry.name import parse_ref


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with running() as server:
        server.page_files = 100
        for layout in LAYOUTS:
            server.put(layout.repository, layout.content())
        yield server


@pytest.fixture
def cache(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return HubCache(tmp_path)


def chosen(name: str) -> list[str]:
    return [file.name for file in plan(parse_ref(name)).files]


REQUESTS = [(layout, tail) for layout in LAYOUTS for tail in layout.pulls]


@pytest.mark.parametrize(("layout", "tail"), REQUESTS, ids=[f"{x.repository}{tail}" for x, tail in REQUESTS])
def test_a_name_takes_the_files_that_a_person_expects(cache: HubCache, layout: Layout, tail: str) -> None:
    expected = layout.pulls[tail]
    if expected.split()[0] in layout.names:
        name = f"hf.co/{layout.repository.lower()}" if not tail else layout.repository + tail
        assert chosen(name) == expected.split()
    else:
        with pytest.raises(GalagoError, match=re.escape(expected)):
            plan(parse_ref(layout.repository + tail))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.repository)
def test_a_repository_is_searched_pulled_listed_and_deleted(cache: HubCache, hub: LocalHub, layout: Layout) -> None:
    assert layout.repository in [row.name for row in client.search_models(layout.repository)]
    tail = next((tail for tail, files in layout.pulls.items() if files.split()[0] in layout.names), None)
    if tail is None:
        return
    expected = layout.pulls[tail].split()
    model = pull(plan(parse_ref(layout.repository + tail)), lambda _file, _done: None)
    requests = len(hub.log)
    assert list(model.names) == expected and all(path.is_file() for path in model.paths)
    (listed,) = installed.all_models()
    for name in (str(listed.ref), layout.repository + tail, layout.repository.lower()):
        assert installed.find(parse_ref(name)).names == model.names
    summary = installed.summarize(listed)
    assert summary.quant == (quant_of(expected[0]) or "f32")
    assert summary.vision == ("projector" in map(layout.kind, expected))
    assert removal.remove(parse_ref(layout.repository)).model.names == model.names
    assert not [*installed.all_models()] and not list(cache.root.rglob("*.gguf")) and len(hub.log) == requests
    assert not list((cache.root / f"models--{layout.repository.replace('/', '--')}").rglob("*"))


def test_a_file_that_only_its_whole_header_tells_apart_is_not_installed(hub: LocalHub, cache: HubCache) -> None:
    """The start of the file does not name the tensors, which are only those of a multi-token prediction head."""
    head = tiny_file("head-Q8_0.gguf", "head")
    hub.put("acme/head-GGUF", {"head-Q8_0.gguf": head, "README.md": b"x"})
    planned = plan(parse_ref("acme/head-GGUF"))
    with pytest.raises(ModelError, match="head-Q8_0.gguf is a draft model or multi-token prediction head, not a"):
        pull(planned, lambda _file, _done: None)
    assert not [*cache.root.rglob("*.gguf")] and not [*cache.root.rglob("blobs/*")]


def test_every_offered_choice_works_when_it_is_typed(cache: HubCache) -> None:
    for layout in LAYOUTS:
        for tail, expected in layout.pulls.items():
            for choice in re.split(", ", expected.partition("it has ")[2] or expected.partition("instead: ")[2]):
                if choice:
                    assert chosen(f"{layout.repository}:{choice}"), (tail, choice)


def test_the_table_is_large() -> None:
    assert len(LAYOUTS) >= 40 and len({layout.repository for layout in LAYOUTS}) == len(LAYOUTS)
