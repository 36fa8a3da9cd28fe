"""Uploaded files with OpenAI's client: stored in a private folder, and used in chats by their ids."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.server import DATA, Server, audio_part, image_part, serving, text_part
from galago.models.errors import ConfigError, NotFound, RequestTooLarge
from galago.runtime.server.storage import file_store
from galago.runtime.server.storage.database import Database
from galago.runtime.server.storage.file_store import FileStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "store"


@pytest.fixture(scope="module")
def storing(folder: Path) -> Iterator[Server]:
    with serving("--threads", "1", "--store", str(folder)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def api(storing: Server) -> Iterator[openai.OpenAI]:
    with storing.client() as client:
        yield client


def answer(client: openai.OpenAI, part: dict[str, Any], question: str) -> str | None:
    content: Any = [part, text_part(question)]
    messages: Any = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="builtin", messages=messages).choices[0].message.content


def test_a_file_can_be_downloaded_unchanged(api: openai.OpenAI) -> None:
    data = (DATA / "picture-5.png").read_bytes()
    file = api.files.create(file=("Bild é.png", data), purpose="vision")
    assert (file.bytes, file.filename, file.purpose, file.object) == (len(data), "Bild é.png", "vision", "file")
    assert api.files.retrieve(file.id) == file
    assert api.files.content(file.id).read() == data
    assert file.id in [listed.id for listed in api.files.list()]


def test_a_file_that_was_damaged_on_the_disk_is_refused_when_it_is_used(api: openai.OpenAI, folder: Path) -> None:
    file = api.files.create(file=b"a long text of a person", purpose="user_data")
    batch = api.files.create(file=b'{"custom_id": "a"}', purpose="batch")
    for one in (file, batch):
        blob = folder / "galago-files" / one.id
        content = bytearray(blob.read_bytes())
        content[5] ^= 1
        blob.write_bytes(content)
    part: Any = {"type": "input_audio", "input_audio": {"file_id": file.id}}
    uses: tuple[Callable[[], object], ...] = (
        lambda: api.files.content(file.id),
        lambda: answer(api, part, "What was said?"),
        lambda: api.batches.create(input_file_id=batch.id, endpoint="/v1/chat/completions", completion_window="24h"),
    )
    for use in uses:
        with pytest.raises(openai.APIStatusError, match="damaged on the disk"):
            use()
    for one in (file, batch):
        assert api.files.delete(one.id).deleted


def test_a_deleted_file_is_gone(api: openai.OpenAI, folder: Path) -> None:
    file = api.files.create(file=b"SECRETWORD" * 100, purpose="user_data")
    blob = folder / "galago-files" / file.id
    assert blob.read_bytes() == b"SECRETWORD" * 100
    assert api.files.delete(file.id).deleted
    assert not blob.exists()
    for ask in (api.files.retrieve, api.files.content, api.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)


def test_files_are_listed_by_purpose_and_in_pages(api: openai.OpenAI) -> None:
    made = [api.files.create(file=f"{i}".encode(), purpose="evals").id for i in range(5)]
    assert [f.id for f in api.files.list(purpose="evals", order="asc")] == made
    page = api.files.list(purpose="evals", limit=2)
    assert [f.id for f in page.data] == made[:-3:-1] and page.has_more
    assert [f.id for f in page] == made[::-1]


def test_stored_files_are_readable_only_by_their_owner(api: openai.OpenAI, folder: Path) -> None:
    api.files.create(file=b"x", purpose="user_data")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.mark.parametrize("name", ["picture-5.png", "sound-1.wav"])
def test_an_uploaded_file_is_read_like_one_in_the_request(api: openai.OpenAI, name: str) -> None:
    picture = name.endswith(".png")
    file_id = api.files.create(file=DATA / name, purpose="user_data").id
    question = "Count the shapes." if picture else "What was said?"
    expected = answer(api, image_part(DATA / name) if picture else audio_part(DATA / name), question)
    named = {"type": "image_url", "image_url": {"file_id": file_id}}
    if not picture:
        named = {"type": "input_audio", "input_audio": {"file_id": file_id}}
    assert answer(api, named, question) == expected
    assert answer(api, {"type": "file", "file": {"file_id": file_id}}, question) == expected


def test_a_file_part_may_contain_its_data(api: openai.OpenAI) -> None:
    sent = image_part(DATA / "picture-5.png")
    part = {"type": "file", "file": {"file_data": sent["image_url"]["url"], "filename": "shapes.png"}}
    assert answer(api, part, "Count the shapes.") == answer(api, sent, "Count the shapes.")


PARTS = ["image_url", "input_audio", "input_video", "file"]


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", ["file-00", "../galago.sqlite", "", "x" * 5000, "%00"])
def test_an_unknown_file_is_refused_with_the_field_that_names_it(storing: Server, kind: str, name: str) -> None:
    answer = storing.ask([text_part("Look:"), {"type": kind, kind: {"file_id": name}}])
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, f"messages[0].content[1].{kind}.file_id")
    assert len(answer.text) < 500


@pytest.mark.parametrize("path", ["/v1/files/..%2fgalago.sqlite", "/v1/files/x/content", "/v1/files/%2e%2e/content"])
def test_only_file_ids_can_be_downloaded(storing: Server, path: str) -> None:
    assert httpx.get(f"{storing.url}{path}").status_code == 404


def test_a_picture_of_a_format_that_cannot_be_read_is_refused(api: openai.OpenAI) -> None:
    file_id = api.files.create(file=b"8BPS\0\1", purpose="user_data").id
    with pytest.raises(openai.BadRequestError, match="a Photoshop file") as refused:
        answer(api, {"type": "file", "file": {"file_id": file_id}}, "What is this?")
    assert refused.value.param == "messages[0].content[0].file.file_id"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"json": {}}, "file"),
    ({"data": {"purpose": "vision"}}, "file"),
    ({"data": {"purpose": "vision", "file": "not a file"}}, "file"),
    ({"files": {"file": b"x"}}, "purpose"),
    ({"files": {"file": b"x"}, "data": {"purpose": "crime"}}, "purpose"),
    ({"files": {"file": b"x"}, "data": {"purpose": "vision", "expires_after[anchor]": "never"}}, "expires_after"),
    (
        {"files": {"file": b"x"}, "data": {"purpose": "vision", "expires_after[anchor]": "created_at"}},
        "expires_after",
    ),
    ({"files": [("file", b"x"), ("file", b"y")], "data": {"purpose": "vision"}}, "file"),
    ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=y"}}, "file"),
    ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, "file"),
]


@pytest.mark.parametrize(("form", "param"), BAD)
def test_a_bad_upload_is_refused_with_the_field_at_fault(storing: Server, form: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{storing.url}/v1/files", **form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_too_large_upload_is_refused_and_leaves_nothing(storing: Server, folder: Path) -> None:
    before = sorted((folder / "galago-files").iterdir())
    files = {"file": bytes(64 * 2**20)}
    answer = httpx.post(f"{storing.url}/v1/files", files=files, data={"purpose": "vision"}, timeout=60)
    assert answer.status_code == 413 and "64 MiB" in answer.json()["error"]["message"]
    assert sorted((folder / "galago-files").iterdir()) == before


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=-1", "order=up", "after=file-0"])
def test_invalid_pagination_is_refused(storing: Server, query: str) -> None:
    answer = httpx.get(f"{storing.url}/v1/files?{query}")
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == query.split("=")[0]


def test_without_a_store_every_endpoint_names_the_option(server: Server, client: openai.OpenAI) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.files.create(file=b"x", purpose="vision"),
        lambda: client.files.list(),
        lambda: client.files.retrieve("file-1"),
        lambda: client.files.content("file-1"),
        lambda: client.files.delete("file-1"),
        lambda: answer(client, {"type": "file", "file": {"file_id": "file-1"}}, "What is this?"),
    ]
    for ask in calls:
        with pytest.raises(openai.BadRequestError, match="galago serve --store FOLDER"):
            ask()


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        Database(tmp_path)


def test_a_file_that_is_not_a_database_is_kept_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "galago.sqlite").write_bytes(b"no database " * 100)
    tmp_path.chmod(0o700)
    Database(tmp_path).close()
    assert (tmp_path / "galago.sqlite.damaged-1").read_bytes() == b"no database " * 100


def test_two_servers_cannot_share_a_folder(tmp_path: Path) -> None:
    first = Database(tmp_path / "store")
    with pytest.raises(ConfigError, match="a server is using it; stop that server first"):
        Database(tmp_path / "store")
    first.close()
    Database(tmp_path / "store").close()


def test_deleted_files_leave_no_bytes_on_disk(tmp_path: Path) -> None:
    database = Database(tmp_path / "store")
    store = FileStore(database)
    file = store.add([b"x"], "SECRETWORD", "vision")
    assert b"SECRETWORD" in (tmp_path / "store" / "galago.sqlite").read_bytes()
    store.delete(file.id)
    database.close()
    left = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert left and not any(b"SECRETWORD" in data for data in left)


def test_all_files_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_store, "MAX_TOTAL_BYTES", 100)
    store = FileStore(Database(tmp_path / "store"))
    store.add([b"x" * 60], "one", "vision")
    with pytest.raises(RequestTooLarge, match="limit of 100"):
        store.add([b"x" * 41], "two", "vision")
    assert [file.filename for file in store.page(None, None, 9, True)[0]] == ["one"]
    assert len(list((tmp_path / "store" / "galago-files").iterdir())) == 1


def test_a_file_is_deleted_when_it_expires(tmp_path: Path) -> None:
    database = Database(tmp_path / "store")
    store = FileStore(database)
    current, expired = store.add([b"x"], "kept", "vision", 2**40), store.add([b"x"], "gone", "vision", 5)
    with pytest.raises(NotFound):
        store.get(expired.id)
    assert store.page(None, None, 9, True)[0] == [current]
    assert [path.name for path in (tmp_path / "store" / "galago-files").iterdir()] == [current.id]


def test_a_file_can_be_deleted_although_the_disk_is_full(tmp_path: Path) -> None:
    """Its bytes make room. Its row goes when there is room again."""
    database = Database(tmp_path / "store")
    store = FileStore(database)
    file, kept = (store.add([b"x" * 9999], name, "vision") for name in ("gone", "kept"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # every write fails, as on a full disk
    try:
        with pytest.raises(ConfigError, match="check the free disk space"):
            store.add([b"x"], "more", "vision")
        store.delete(file.id)
        with pytest.raises(NotFound):
            store.get(file.id)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "store" / "galago-files").iterdir()] == [kept.id]
    assert store.page(None, None, 9, True)[0] == [kept]


def test_incomplete_files_of_a_killed_server_are_deleted(tmp_path: Path) -> None:
    database = Database(tmp_path / "store")
    FileStore(database).write([b"half"], "half", "vision", None)
    own = tmp_path / "store" / "galago-files" / "mine.txt"
    own.write_text("not ours")
    database.close()
    FileStore(Database(tmp_path / "store"))
    assert [path.name for path in (tmp_path / "store" / "galago-files").iterdir()] == ["mine.txt"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "galago.runtime.cli.main", "store", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_the_store_command_shows_and_deletes_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    database = Database(folder)
    FileStore(database).add([b"x" * 2**20], "one", "vision")
    assert "a server is using it; stop that server first" in command("status", str(folder)).stderr
    database.close()
    assert command("status", str(folder)).stdout == "files: 1\ntotal: 1.0 MiB\n"
    assert command("clear", str(folder)).returncode == 0
    assert list(folder.iterdir()) == []
    again = command("clear", str(folder))
    assert again.returncode == 1 and "holds no data" in again.stderr


def test_the_store_command_refuses_other_folders(tmp_path: Path) -> None:
    (tmp_path / "galago-files").mkdir()
    (tmp_path / "galago-files" / "file-1").write_text("mine")
    assert command("clear", str(tmp_path)).returncode == 1
    assert (tmp_path / "galago-files" / "file-1").exists() and os.listdir(tmp_path) == ["galago-files"]


def test_files_have_the_format_of_openais_api(storing: Server) -> None:
    form: dict[str, Any] = {"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "vision"}}
    made = httpx.post(f"{storing.url}/v1/files", **form).json()
    assert made["object"] == "file" and made["status"] == "processed"
    listed = json.loads(httpx.get(f"{storing.url}/v1/files?limit=1").text)
    assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", made["id"], made["id"])
