"""The cache folder: found again after a restart, never believed when damaged, nobody else's to read."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from fakes.server import DATA
from galago.models.errors import ConfigError
from galago.models.registry.resolve import builtin_folder
from galago.runtime import load
from galago.runtime.cache.disk_cache import DAYS, DiskCache, clear, entries, trim

STORY = "Sam has a red ball in the park. Where is the ball? Who has the ball? What color is it?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def filled(folder: Path, key: str = "k", warned: list[str] | None = None) -> DiskCache:
    return DiskCache(folder, key, 1_000_000, (warned if warned is not None else []).append)


def put(folder: Path, name: str, data: bytes = b"data", key: str = "k") -> Path:
    store = filled(folder, key)
    store.put("state", name, {"items": [1]}, data)
    store.close()
    return store.path("state", name)


def test_what_is_put_is_found_again_by_the_same_key_alone(folder: Path) -> None:
    path = put(folder, "a")
    assert [e.about["items"] for e in filled(folder).entries("state")] == [[1]]
    assert filled(folder).read(path) == b"data"
    assert not list(filled(folder, "other").entries("state")) and filled(folder, "other").read(path) is None
    assert not list(filled(folder).entries("media"))


def test_nobody_else_may_read_it(folder: Path) -> None:
    path = put(folder, "a")
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (0o700, 0o600)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        filled(folder)


@pytest.mark.parametrize("at", [0, 16, 22, 60, -40, -1])
def test_a_damaged_file_is_left_alone_with_a_warning(folder: Path, at: int) -> None:
    path = put(folder, "a", b"d" * 100)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    warned: list[str] = []
    store = filled(folder, warned=warned)
    list(store.entries("state"))
    assert store.read(path) is None
    assert any(path.name in line for line in warned) or at in (16, 22)


def test_a_truncated_file_is_left_alone(folder: Path) -> None:
    path = put(folder, "a", b"d" * 100)
    whole = path.read_bytes()
    for size in (0, 5, 18, 30, len(whole) - 1):
        path.write_bytes(whole[:size])
        store = filled(folder)
        list(store.entries("state"))
        assert store.read(path) is None


def test_the_oldest_go_beyond_the_size_and_all_beyond_the_age(folder: Path) -> None:
    paths = [put(folder, str(i), b"d" * 10_000) for i in range(4)]
    now = time.time()
    for i, path in enumerate(paths):
        os.utime(path, (now - 100 + i, now - 100 + i))
    trim(folder, 25_000)
    assert [path.exists() for path in paths] == [False, False, True, True]
    os.utime(paths[3], (now - (DAYS + 1) * 86_400,) * 2)
    trim(folder, 25_000)
    assert [path.exists() for path in paths] == [False, False, True, False]


def test_clearing_deletes_the_cache_and_nothing_else(folder: Path) -> None:
    path = put(folder, "a")
    other = folder / "notes.txt"
    other.write_text("mine")
    assert clear(folder) == 1 and not path.exists() and other.exists() and not list(entries(folder))


def test_the_folder_stays_about_as_large_as_it_may(folder: Path) -> None:
    store = DiskCache(folder, ["k"], 100_000, lambda _: None)
    for i in range(30):
        store.put("state", str(i), {}, b"d" * 10_000)
        while not store.path("state", str(i)).exists():
            time.sleep(0.001)
    store.close()
    assert 80_000 < sum(entry.size for entry in entries(folder)) < 110_000


def test_a_picture_encoded_for_one_model_is_there_for_another_with_the_same_projector(folder: Path) -> None:
    pictures = []
    for weights in ("text-Q8_0.gguf", "text-F16.gguf"):
        with load(builtin_folder() / weights, mmproj=builtin_folder() / "mmproj-Q8_0.gguf", cache_dir=folder) as model:
            model.chat("Count the shapes.", image=DATA / "picture-5.png")
        pictures.append([entry.path for entry in entries(folder) if entry.about["kind"] == "media"])
    assert pictures[0] == pictures[1] and len(pictures[0]) == 1


def test_a_conversation_goes_on_after_a_restart(folder: Path) -> None:
    picture = DATA / "picture-5.png"
    with load("builtin", cache_dir=folder) as model:
        first = model.chat(STORY, image=picture)
    with load("builtin", cache_dir=folder) as model:
        again = model.chat(STORY, image=picture)
        elsewhere = model.chat("Count the shapes.", image=[picture], system="Be brief.")
    assert again.text == first.text and first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert {e.about["kind"] for e in entries(folder)} == {"state", "media"} and elsewhere
    assert STORY.encode() not in b"".join(p.read_bytes() for p in folder.iterdir())


def test_what_asks_for_no_cache_leaves_nothing_on_disk(folder: Path) -> None:
    with load("builtin", cache_dir=folder) as model:
        model.chat(STORY, cache=False)
    assert not [e for e in entries(folder) if e.about["kind"] == "state"]


def test_a_damaged_state_is_computed_again(folder: Path) -> None:
    with load("builtin", cache_dir=folder) as model:
        first = model.chat(STORY)
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[-50] ^= 0xFF
        path.write_bytes(content)
    with load("builtin", cache_dir=folder) as model:
        again = model.chat(STORY)
    assert again.text == first.text and again.usage.cached_tokens == 0


def test_another_projector_is_another_model(folder: Path) -> None:
    from galago.models.registry.resolve import builtin_folder

    text = builtin_folder() / "text-Q8_0.gguf"
    with load(text, mmproj=builtin_folder() / "mmproj-Q8_0.gguf", cache_dir=folder) as model:
        model.chat(STORY)
    with load(text, mmproj=builtin_folder() / "mmproj-F16.gguf", cache_dir=folder) as model:
        assert model.chat(STORY).usage.cached_tokens == 0
