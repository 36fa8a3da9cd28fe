"""One server over real HTTP and one loaded model, shared by all tests that need them."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from galago.runtime import LocalModel, load
from served import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def model() -> Iterator[LocalModel]:
    with load("builtin") as loaded:
        yield loaded
