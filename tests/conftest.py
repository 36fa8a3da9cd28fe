"""Fixtures that all tests share: a running server and a loaded model, one of each per test process.

Tests use temporary folders instead of the user's models, caches and token; a benchmark of the machine is kept there.
A test fails if it, or a child process of it, connects to another machine. Child processes get the
folders from the environment and the guard from `tests/guard`.
"""

from __future__ import annotations

import functools
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def _take_share_of_processors() -> None:
    """Gives each of several test processes, with its children, processors of its own.

    llama.cpp's threads wait for each other by spinning: two processes that each start a thread per processor are up to
    ten times as slow as one. Threads and children inherit the processors, and Galago starts a thread for each.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1 and hasattr(os, "sched_setaffinity"):
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[number % len(allowed) :: count])


_take_share_of_processors()  # before any library starts threads
_HOME = tempfile.TemporaryDirectory(prefix="galago-tests-")
for _name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(_name, None)
for _name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.lower(), None)
_FOLDERS = {"HF_HOME": "hf", "XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache"}
for _name, _folder in _FOLDERS.items():
    os.environ[_name] = str(Path(_HOME.name) / _folder)
os.environ.pop("HF_HUB_DISABLE_TELEMETRY", None)
os.environ.pop("GALAGO_TEST_CONNECTIONS", None)  # each test process has its own list, with its children
_GUARD = Path(__file__).parent / "guard"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_GUARD), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(_GUARD))

import openai  # noqa: E402
import pytest  # noqa: E402

import loopback_only  # noqa: E402
from fakes.benchmark import keep_benchmark  # noqa: E402
from fakes.server import Server, serving  # noqa: E402
from galago.runtime import LocalModel, load  # noqa: E402

# httpx makes a context for each request without a client, and each takes 40 ms; the tests' servers have no TLS
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]

loopback_only.watch()
keep_benchmark(Path(os.environ["XDG_CACHE_HOME"]))

SLOWEST_FILES = (
    "docs/test_guides.py",
    "runtime/worker/test_worker.py",
    "quantize/evaluate/test_evaluate.py",
    "quantize/evaluate/test_planted_faults.py",
    "runtime/server/test_serve.py",
    "runtime/server/test_openapi.py",
    "quantize/search/test_search.py",
    "runtime/cli/test_cli.py",
    "runtime/engine/test_engine.py",
)
"""In descending order of their time."""


@pytest.fixture(autouse=True)
def _no_other_machine() -> Iterator[None]:
    """Fails a test during which this process or a child of it tried to connect to another machine."""
    loopback_only.take_attempts()
    yield
    attempts = loopback_only.take_attempts()
    assert not attempts, f"tried to connect to {', '.join(attempts)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the slowest files to the front, so that several test processes finish at about the same time."""
    items.sort(key=lambda item: _rank(item.nodeid.partition("::")[0]))


def _rank(path: str) -> int:
    name = path.removeprefix("tests/")
    return SLOWEST_FILES.index(name) if name in SLOWEST_FILES else len(SLOWEST_FILES)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with one thread: the number of threads changes the last digits of logits, and so sampled tokens."""
    with serving("--threads", "1") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def strict_server() -> Iterator[Server]:
    """A server that refuses what others answer with a warning, and whose model has two further names."""
    with serving("--threads", "1", "--strict", "--alias", "friend", "--alias", "second/friend") as running:
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
