"""What requests hold is bounded, in each of them and together, and stored files are read once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from galago.models.errors import GalagoError, NotReady
from galago.runtime.config import ServerConfig
from galago.runtime.pool.pool import ModelPool
from galago.runtime.server import app
from galago.runtime.server.http import request_context, request_io
from galago.runtime.server.http.request_context import MemoryBudget
from galago.runtime.server.storage.file_store import FileStore
from galago.runtime.types.warnings import Warnings

SIZE = 100_000
"""Of a stored file."""


class NoModel(ModelPool):
    """Fails every request, and keeps it."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def model_for(self, name: str | None, warnings: Warnings) -> str:
        return "none"

    def generate(self, model: str | None, request: Any, cancelled: Any = None) -> Any:
        self.requests.append(request)
        raise GalagoError("answered")

    def model(self, name: str | None) -> Any:
        raise GalagoError("answered")

    run_task: Any = generate


class Api:
    """An application with a store, one stored file, and its requests."""

    def __init__(self, folder: Path) -> None:
        self.service = NoModel()
        self.app = app.build(self.service, ServerConfig(store=folder))
        form: dict[str, Any] = {"files": {"file": bytes(SIZE)}, "data": {"purpose": "user_data"}}
        self.file_id = str(self.request("POST", "/v1/files", **form).json()["id"])

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def bodies(self, times: int) -> dict[str, dict[str, Any]]:
        """Requests of each API that name the file so many times, by path."""
        sound = {"type": "input_audio", "input_audio": {"file_id": self.file_id}}
        chat = {"messages": [{"role": "user", "content": [sound] * times}]}
        item = {"type": "input_file", "file_id": self.file_id}
        return {
            "/v1/chat/completions": chat,
            "/v1/plan": chat,
            "/v1/tokenize": chat,
            "/v1/responses": {"input": [{"role": "user", "content": [item] * times}]},
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def api(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    """Makes an application with limits."""
    made: list[Api] = []

    def make(**limits: int) -> Api:
        for name, value in limits.items():
            monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", str(value))
        made.append(Api(folder / str(len(list(folder.iterdir())))))
        return made[-1]

    yield make
    for one in made:
        asyncio.run(_shut_down(one))


async def _shut_down(api: Api) -> None:
    async with api.app.router.lifespan_context(api.app):
        pass


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/plan", "/v1/tokenize", "/v1/responses"])
def test_a_request_may_name_files_up_to_the_limit(path: str, api: Callable[..., Api]) -> None:
    server = api(held_bytes=3 * SIZE)
    fits, too_large = (server.request("POST", path, json=server.bodies(times)[path]) for times in (3, 4))
    assert fits.json()["error"]["message"] == "answered"
    assert too_large.status_code == 413 and "held_bytes" in too_large.json()["error"]["message"]


def test_a_file_is_read_once_however_often_a_request_names_it(
    api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, opened, open_file = api(), [], FileStore.open

    def opening(store: FileStore, file_id: str, field: str) -> Any:
        opened.append(file_id)
        return open_file(store, file_id, field)

    monkeypatch.setattr(FileStore, "open", opening)
    server.request("POST", "/v1/chat/completions", json=server.bodies(5)["/v1/chat/completions"])
    (request,) = server.service.requests
    assert len(opened) == 1 and len({id(part.data) for part in request.messages[0].parts}) == 1


def test_a_file_that_is_too_large_is_not_read(api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    server = api(held_bytes=SIZE - 1)
    monkeypatch.setattr(MemoryBudget, "add", lambda *_: pytest.fail("the file was read"))
    answer = server.request("POST", "/v1/chat/completions", json=server.bodies(1)["/v1/chat/completions"])
    assert answer.status_code == 413


def test_a_request_that_finds_no_room_is_refused_for_now(
    api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_context, "MAX_WAIT_SECONDS", 0)
    server = api(total_held_bytes=3 * SIZE)
    with server_budget(server).request() as other:
        server_budget(server).add(other, SIZE)
        body = server.bodies(1)["/v1/chat/completions"]
        refused = server.request("POST", "/v1/chat/completions", json=body)
        long = server.request("POST", "/v1/chat/completions", json={"messages": [], "user": "x" * SIZE})
        short = server.request("POST", "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
    for answer in (refused, long):
        assert answer.status_code == 503 and answer.headers["retry-after"]
    assert short.json()["error"]["message"] == "answered"
    assert server.request("POST", "/v1/chat/completions", json=body).json()["error"]["message"] == "answered"


def server_budget(server: Api) -> MemoryBudget:
    budget = next(one.kwargs["budget"] for one in server.app.user_middleware if "budget" in one.kwargs)
    assert isinstance(budget, MemoryBudget)
    return budget


def test_a_request_waits_until_others_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_TOTAL_HELD_BYTES", "1000")
    budget = MemoryBudget()

    async def wait() -> None:
        with budget.request() as first, budget.request() as second:
            await budget.add_body(first, 400)
            waiting = asyncio.create_task(budget.add_body(second, 400))
            await asyncio.sleep(0)
            assert not waiting.done()
            budget.release(first)
            await waiting

    asyncio.run(wait())


def test_half_bodies_never_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest one goes on although the others' parts leave no room."""
    monkeypatch.setenv("GALAGO_LIMIT_TOTAL_HELD_BYTES", "1000")
    budget, ended = MemoryBudget(), []

    async def receive(name: int) -> None:
        with budget.request() as context:
            for _ in range(4):
                await budget.add_body(context, 100)
                await asyncio.sleep(0)
        ended.append(name)

    async def all_at_once() -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*map(receive, range(4)))

    asyncio.run(all_at_once())
    assert ended[0] == 0 and len(ended) == 4


def test_what_is_kept_for_long_and_what_goes_on_stay_within_the_limit_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_TOTAL_HELD_BYTES", "1000")
    budget = MemoryBudget()
    with budget.request() as kept, budget.request() as older, budget.request() as younger:
        assert budget.try_add(kept, 200)
        kept.is_kept = True
        assert budget.try_add(older, 100) and budget.try_add(younger, 200)
        assert not budget.try_add(younger, 50) and budget.try_add(older, 200)
        assert not budget.try_add(older, 50)


def test_a_request_alone_may_hold_more_than_the_limit_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_TOTAL_HELD_BYTES", "1")
    budget = MemoryBudget()
    with budget.request() as first:
        budget.add(first, SIZE)
        budget.add(first, SIZE)


def test_what_a_thread_still_prepares_is_held_after_the_end_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_context, "MAX_WAIT_SECONDS", 0)
    monkeypatch.setenv("GALAGO_LIMIT_TOTAL_HELD_BYTES", "1000")
    budget = MemoryBudget()

    async def leave() -> None:
        done = asyncio.get_running_loop().create_future()
        with budget.request() as left:
            budget.add(left, SIZE)
            request_io.count(done)
        with budget.request() as other:
            with pytest.raises(NotReady):
                budget.add(other, 1)
            done.set_result(None)
            await asyncio.sleep(0)
            budget.add(other, 1)

    asyncio.run(leave())
