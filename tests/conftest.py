"""One server over real HTTP and one loaded model, shared by all tests that need them.

Every test runs in folders of its own, without the user's models or token, and fails where it opens a socket to anything
but this machine. Child processes have the folders from the environment, and the guard from `tests/guard`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_HOME = tempfile.TemporaryDirectory(prefix="galago-tests-")
for _name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(_name, None)
_FOLDERS = {"HF_HOME": "hf", "XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache"}
for _name, _folder in _FOLDERS.items():
    os.environ[_name] = str(Path(_HOME.name) / _folder)
os.environ.pop("HF_HUB_DISABLE_TELEMETRY", None)
_GUARD = Path(__file__).parent / "guard"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_GUARD), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(_GUARD))

import openai  # noqa: E402
import pytest  # noqa: E402

import loopback_only  # noqa: E402
from fakes.server import Server, serving  # noqa: E402
from galago.runtime import LocalModel, load  # noqa: E402

loopback_only.watch()


@pytest.fixture(autouse=True)
def _no_other_machine() -> Iterator[None]:
    """Fails a test in whose course this process or a child of it has tried to reach another machine."""
    loopback_only.tried()
    yield
    tried = loopback_only.tried()
    assert not tried, f"tried to reach {', '.join(tried)}"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """On one thread: how many there are decides the last digits, and so now and then a sampled token."""
    with serving("--threads", "1") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def model() -> Iterator[LocalModel]:
    with load("builtin", threads=1) as loaded:
        yield loaded
