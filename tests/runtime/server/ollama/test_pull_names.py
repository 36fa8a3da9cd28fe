"""`/api/pull` takes the names that Ollama has for repositories on the Hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fakes.hub import running
from fakes.layouts import tiny_file
from galago.models.registry import installed
from galago.models.registry.name import parse_ref
from galago.runtime.server.ollama.manage import pull_model

NAMES = ["hf.co/acme/tiny:Q8_0", "hf.co/Acme/Tiny", "huggingface.co/acme/tiny:latest", "acme/tiny:Q8_0", "hf:acme/tiny"]


async def statuses(name: str) -> list[str]:
    return [line.status async for line in pull_model(name)]


def test_a_repository_is_pulled_by_any_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with running() as hub:
        hub.put("acme/tiny", {"tiny-Q8_0.gguf": tiny_file("tiny-Q8_0.gguf")})
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for name in NAMES:
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / str(NAMES.index(name))))
            assert asyncio.run(statuses(name))[-1] == "success"
            assert installed.find(parse_ref(name)).names == ("tiny-Q8_0.gguf",)
