"""The cache folder: it survives a restart, damaged files are ignored, and only the owner can read it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fakes.server import DATA
from galago.models.errors import ConfigError
from galago.models.registry.resolve import builtin_folder
from galago.runtime import load
from galago.runtime.cache.disk_cache import MAX_AGE_DAYS, DiskCache, clear, entries, trim
from galago.runtime.cache.prefix_cache import PrefixCache

STORY = "Sam has a red ball in the park. Where is the ball? Who has the ball? What color is it?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def open_cache(folder: Path, key: str = "k", warnings: list[str] | None = None) -> DiskCache:
    return DiskCache(folder, key, 1_000_000, (warnings if warnings is not None else []).append)


def put(folder: Path, name: str, data: bytes = b"data", key: str = "k") -> Path:
    cache = open_cache(folder, key)
    cache.put("state", name, {"items": [1]}, data)
    cache.close()
    return cache.path("state", name)


def test_entries_are_found_only_under_the_same_key(folder: Path) -> None:
    path = put(folder, "a")
    assert [e.metadata["items"] for e in open_cache(folder).entries("state")] == [[1]]
    assert open_cache(folder).read(path) == b"data"
    assert not list(open_cache(folder, "other").entries("state")) and open_cache(folder, "other").read(path) is None
    assert not list(open_cache(folder).entries("media"))


def test_only_the_owner_can_read_the_folder(folder: Path) -> None:
    path = put(folder, "a")
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (0o700, 0o600)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        open_cache(folder)


def test_a_changed_bit_anywhere_is_detected_with_a_warning(folder: Path) -> None:
    path = put(folder, "a", b"data")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        warnings: list[str] = []
        cache = open_cache(folder, warnings=warnings)
        assert cache.read(path) is None
        assert [entry.metadata["items"] for entry in cache.entries("state")] in ([], [[1]])
        assert len(warnings) == 1 and path.name in warnings[0]
        PrefixCache(0, cache)
        cache.close()


def test_a_truncated_or_empty_file_is_ignored(folder: Path) -> None:
    path = put(folder, "a", b"data")
    whole = path.read_bytes()
    for data in [whole[:size] for size in range(len(whole))] + [bytes(len(whole))]:
        path.write_bytes(data)
        cache = open_cache(folder)
        PrefixCache(0, cache)
        assert cache.read(path) is None
        cache.close()


def test_a_file_under_the_name_of_another_is_ignored(folder: Path) -> None:
    one, other = put(folder, "a"), put(folder, "b", b"other")
    other.replace(one)
    assert open_cache(folder).read(one) is None and not list(open_cache(folder).entries("state"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "missing target"])
def test_what_is_no_file_is_ignored_with_one_warning(folder: Path, kind: str) -> None:
    path, warnings = put(folder, "a"), list[str]()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else folder / "nothing")
    cache = open_cache(folder, warnings=warnings)
    PrefixCache(0, cache)
    assert cache.read(path) is None and cache.read(path) is None
    assert len(warnings) == (0 if kind == "missing target" else 1)
    assert put(folder, "a") == path
    assert (open_cache(folder).read(path) == b"data") == (kind != "folder")


def test_an_entry_of_another_shape_is_skipped(folder: Path) -> None:
    shapes: list[Any] = [{}, {"items": 3, "adapters": []}, {"items": [["image"]], "adapters": []},
                         {"items": [["image", 1, 1, "not hex"]], "adapters": []}, {"items": [None], "adapters": []},
                         {"items": [1], "adapters": 3}]  # fmt: skip
    cache, warnings = open_cache(folder), list[str]()
    for i, shape in enumerate(shapes):
        cache.put("state", str(i), shape, b"data")
    cache.close()
    assert PrefixCache(0, open_cache(folder, warnings=warnings)).find([1], ()) == (None, 0)
    assert len(warnings) == len(shapes)


def test_a_folder_that_cannot_be_changed_is_used_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, warnings = [put(folder, name) for name in "ab"], list[str]()

    def read_only(*_given: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "utime", "replace", "link"):  # root may write anywhere, so permissions prove nothing
        monkeypatch.setattr(f"os.{name}", read_only)
    trim(folder, 0)
    cache = DiskCache(folder, "k", 1, warnings.append)
    assert [cache.read(path) for path in paths] == [b"data", b"data"]
    cache._limit = 1000
    for name in "cd":
        cache.put("state", name, {}, b"data")
    cache.close()
    assert len(warnings) == 1 and "could not be written: Read-only" in warnings[0]
    with pytest.raises(ConfigError, match="cannot be deleted: Read-only"):
        clear(folder)


def test_nothing_is_left_by_a_process_killed_while_it_writes(folder: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from galago.runtime.cache import disk_cache
cache = disk_cache.DiskCache(Path(sys.argv[1]), ["k"], 1 << 30, print)
os.replace = lambda *paths: os.kill(os.getpid(), 9)
cache.put("state", "a", {}, b"what a person wrote")
cache.close()
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == -9
    left = list(folder.iterdir())
    assert len(left) <= 1  # the complete file, between its two names
    (folder / ".abc.part").write_text("what a person wrote to Galago 0.1")
    assert clear(folder) == len(left) + 1 and not list(folder.iterdir())


def test_the_oldest_files_beyond_the_limit_and_all_beyond_the_age_are_deleted(folder: Path) -> None:
    paths = [put(folder, str(i), b"d" * 10_000) for i in range(4)]
    now = time.time()
    for i, path in enumerate(paths):
        os.utime(path, (now - 100 + i, now - 100 + i))
    trim(folder, 25_000)
    assert [path.exists() for path in paths] == [False, False, True, True]
    os.utime(paths[3], (now - (MAX_AGE_DAYS + 1) * 86_400,) * 2)
    trim(folder, 25_000)
    assert [path.exists() for path in paths] == [False, False, True, False]


def test_clearing_deletes_only_cache_files(folder: Path) -> None:
    path = put(folder, "a")
    other = folder / "notes.txt"
    other.write_text("mine")
    assert clear(folder) == 1 and not path.exists() and other.exists() and not list(entries(folder))


def test_the_folder_stays_near_its_limit(folder: Path) -> None:
    cache = DiskCache(folder, ["k"], 100_000, lambda _: None)
    for i in range(30):
        cache.put("state", str(i), {}, b"d" * 10_000)
        while not cache.path("state", str(i)).exists():
            time.sleep(0.001)
    cache.close()
    assert 80_000 < sum(entry.size for entry in entries(folder)) < 110_000


def test_an_encoded_image_is_shared_by_models_with_the_same_projector(folder: Path) -> None:
    pictures = []
    for weights in ("text-Q8_0.gguf", "text-F16.gguf"):
        with load(builtin_folder() / weights, mmproj=builtin_folder() / "mmproj-Q8_0.gguf", cache_dir=folder) as model:
            model.chat("Count the shapes.", image=DATA / "picture-5.png")
        pictures.append([entry.path for entry in entries(folder) if entry.metadata["kind"] == "media"])
    assert pictures[0] == pictures[1] and len(pictures[0]) == 1


def test_a_conversation_continues_after_a_restart(folder: Path) -> None:
    picture = DATA / "picture-5.png"
    with load("builtin", cache_dir=folder) as model:
        first = model.chat(STORY, image=picture)
    with load("builtin", cache_dir=folder) as model:
        again = model.chat(STORY, image=picture)
        elsewhere = model.chat("Count the shapes.", image=[picture], system="Be brief.")
    assert again.text == first.text and first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert {e.metadata["kind"] for e in entries(folder)} == {"state", "media"} and elsewhere
    assert STORY.encode() not in b"".join(p.read_bytes() for p in folder.iterdir())


def test_requests_without_cache_leave_nothing_on_disk(folder: Path) -> None:
    with load("builtin", cache_dir=folder) as model:
        model.chat(STORY, cache=False)
    assert not [e for e in entries(folder) if e.metadata["kind"] == "state"]


def test_a_damaged_prefix_is_computed_again(folder: Path) -> None:
    with load("builtin", cache_dir=folder) as model:
        first = model.chat(STORY)
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[-50] ^= 0xFF
        path.write_bytes(content)
    with load("builtin", cache_dir=folder) as model:
        again = model.chat(STORY)
    assert again.text == first.text and again.usage.cached_tokens == 0


def test_another_projector_has_its_own_entries(folder: Path) -> None:
    from galago.models.registry.resolve import builtin_folder

    text = builtin_folder() / "text-Q8_0.gguf"
    with load(text, mmproj=builtin_folder() / "mmproj-Q8_0.gguf", cache_dir=folder) as model:
        model.chat(STORY)
    with load(text, mmproj=builtin_folder() / "mmproj-F16.gguf", cache_dir=folder) as model:
        assert model.chat(STORY).usage.cached_tokens == 0
