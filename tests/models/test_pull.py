"""Pulls from a local Hub server: after any fault, the cache is either correct or unchanged."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from fakes.gguf_writing import write_and_close
from fakes.hub import Fault, LocalHub, digest, running, waited
from galago.models.errors import ConfigError, GalagoError, HubError, ModelError, NotFound
from galago.models.hub import client, connection, download
from galago.models.hub.cache import PARTIAL_SUFFIX, HubCache
from galago.models.hub.pull import plan, pull
from galago.models.registry import installed, removal
from galago.models.registry.installed import InstalledModel
from galago.models.registry.name import parse_ref
from galago.models.registry.resolve import builtin_folder, resolve

TEXT = (builtin_folder() / "text-Q8_0.gguf").read_bytes()
EYES = (builtin_folder() / "mmproj-Q8_0.gguf").read_bytes()
REPO = "acme/omni-GGUF"
NAME = f"hf:{REPO}"
FILES = {"README.md": b"# omni", "omni-Q8_0.gguf": TEXT, "mmproj-omni-Q8_0.gguf": EYES}
PULL = [sys.executable, "-m", "galago.runtime.cli.main", "pull"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub with one repository, an empty cache, and no delay between attempts."""
    from huggingface_hub import constants

    with running() as server:
        server.put(REPO, dict(FILES))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(connection, "retry_delay_seconds", lambda attempt, wait: wait or 0.0)
        yield server


@pytest.fixture
def store(tmp_path: Path, local: LocalHub) -> HubCache:
    return HubCache(tmp_path / "hub")


def pulled(name: str = NAME) -> InstalledModel:
    return pull(plan(parse_ref(name)), lambda _file, _done: None)


def files_in(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.lstat().st_size
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink()) and ".locks" not in path.parts
    }


def nothing_published(store: HubCache) -> bool:
    """Whether the cache has no links and no blobs, but perhaps partial files."""
    return all(name.endswith(PARTIAL_SUFFIX) for name in files_in(store.root))


def assert_complete(store: HubCache, model: InstalledModel) -> None:
    """Asserts that the cache holds the model and nothing else."""
    assert [path.read_bytes() for path in model.paths] == [TEXT, EYES]
    blobs = sorted(path.name for path in (store.folder(REPO) / "blobs").iterdir())
    assert blobs == sorted([digest(TEXT), digest(EYES)])


# Complete pulls


def test_a_model_is_pulled_with_its_projector_and_can_be_loaded(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    assert_complete(store, model)
    assert model.commit == local.repos[REPO].revisions["main"] == store.commit(REPO, "main")
    files = resolve(NAME)
    assert (files.weights, files.projector, files.id) == (*model.paths, NAME)
    assert [str(m.ref) for m in installed.all_models()] == [f"{NAME}:q8_0"]


def test_files_in_the_cache_are_not_downloaded_again(local: LocalHub) -> None:
    pulled()
    sent = dict(local.sent)
    again = plan(parse_ref(NAME))
    assert not again.missing
    pull(again, lambda _file, _done: None)
    assert local.sent == sent


def test_the_token_is_sent_to_the_hub_but_not_to_the_file_store_it_redirects_to(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", local.token)
    local.repos[REPO].private = True
    pulled()
    assert local.sent and not local.leaked


def test_a_pull_requests_only_the_model(local: LocalHub) -> None:
    subprocess.run([*PULL, NAME], check=True, capture_output=True, timeout=60)
    kinds = {re.sub(r"/[^/]*[0-9a-f]{40}.*|/revision/.*", "", path) for _, path, _ in local.log}
    assert kinds == {f"/api/models/{REPO}", f"/api/models/{REPO}/tree", f"/{REPO}/resolve", f"/cdn/{REPO}"}


def test_huggingface_hub_uses_files_that_galago_pulled(local: LocalHub, store: HubCache) -> None:
    from huggingface_hub import hf_hub_download

    model = pulled()
    sent = dict(local.sent)
    path = hf_hub_download(REPO, "omni-Q8_0.gguf", cache_dir=store.root, endpoint=local.url)
    assert Path(path).samefile(model.weights[0]) and local.sent == sent
    assert hf_hub_download(REPO, "mmproj-omni-Q8_0.gguf", cache_dir=store.root, local_files_only=True)


def test_galago_uses_files_that_huggingface_hub_downloaded(local: LocalHub, store: HubCache) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, "omni-Q8_0.gguf", cache_dir=store.root, endpoint=local.url)
    sent = local.sent[digest(TEXT)]
    assert_complete(store, pulled())
    assert local.sent[digest(TEXT)] == sent == len(TEXT)


def test_small_files_are_checked_by_their_git_blob_id(local: LocalHub) -> None:
    files = {file.name: file for file in client.fetch_repository(REPO).files}
    assert len(files["README.md"].etag) == 40 and len(files["omni-Q8_0.gguf"].etag) == 64
    repository = client.fetch_repository(REPO)
    path = download.download(repository, [files["README.md"]], HubCache(connection.cache_root()), lambda _f, _d: None)[
        0
    ]
    assert path.read_bytes() == b"# omni" and download.file_digest(path, files["README.md"].etag) == path.resolve().name


# Interruptions


def test_a_pull_resumes_from_any_byte(local: LocalHub, store: HubCache) -> None:
    chance = random.Random(40)
    for cut in [0, 1, len(TEXT) - 1, *(chance.randrange(len(TEXT)) for _ in range(37))]:
        shutil.rmtree(store.root, ignore_errors=True)
        local.sent.clear()
        part = store.blob_path(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
        part.parent.mkdir(parents=True)
        part.write_bytes(TEXT[:cut])
        assert_complete(store, pulled())
        assert local.sent[digest(TEXT)] == len(TEXT) - cut


def test_a_pull_resumes_after_its_process_was_killed(local: LocalHub, store: HubCache) -> None:
    chance = random.Random(10)
    for _ in range(10):
        shutil.rmtree(store.root, ignore_errors=True)
        here = killed(local, store, chance.randrange(1 << 17, len(TEXT) - (1 << 17)))
        assert not store.blob_path(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")
        local.faults.clear()
        local.log.clear()
        assert_complete(store, pulled())
        asked = [first for _, path, first in local.log if path == f"/cdn/{REPO}/{digest(TEXT)}"]
        assert 0 < here < len(TEXT) and asked == [0, here]  # a look at the beginning, then only the rest


def killed(local: LocalHub, store: HubCache, cut: int) -> int:
    """Kills a pull once `cut` bytes were sent; returns the bytes it left on disk."""
    part = store.blob_path(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    reached, over = threading.Event(), threading.Event()

    def pace(sent: int) -> None:
        if sent >= cut and part.exists():
            reached.set()
            over.wait(20)

    local.fault(TEXT, pace=pace)
    process = subprocess.Popen([*PULL, NAME], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert reached.wait(20)
    waited(lambda: part.stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    over.set()
    return part.stat().st_size


def test_lost_connections_transfer_no_byte_twice(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, cut=150_000)
    assert_complete(store, pulled())
    assert local.sent[digest(TEXT)] < len(TEXT) + 1


def test_a_server_without_range_requests_starts_over(local: LocalHub, store: HubCache) -> None:
    part = store.blob_path(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    part.parent.mkdir(parents=True)
    part.write_bytes(TEXT[:1_000_000])
    local.fault(TEXT, whole=True)
    assert_complete(store, pulled())


def test_a_busy_server_is_retried_after_the_delay_it_requests(
    local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    def no_wait(_attempt: int, asked: float | None) -> float:
        waits.append(asked)
        return 0.0

    monkeypatch.setattr(connection, "retry_delay_seconds", no_wait)
    limit = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    local.api_faults = [Fault(status=429, headers={"Retry-After": "7"}), Fault(status=503)]
    local.api_faults += [Fault(status=429, headers=limit)]
    local.fault(TEXT, times=3, status=500)
    assert_complete(store, pulled())
    assert waits[:3] == [7.0, None, 55.0] and len(waits) == 6


def test_an_expired_download_link_is_renewed(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, times=2, status=403)
    assert_complete(store, pulled())


def test_retry_delays_grow_up_to_a_limit() -> None:
    assert [connection.retry_delay_seconds(n, None) <= 2.0**n for n in range(5)] == [True] * 5
    assert (
        connection.retry_delay_seconds(99, None) <= 32
        and connection.retry_delay_seconds(0, 7.0) == 7.0
        and connection.retry_delay_seconds(0, 120.0) == 120.0
    )


# Wrong content


def test_wrong_content_never_becomes_visible(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, damage=True)
    with pytest.raises(HubError, match="arrived damaged"):
        pulled()
    assert digest(TEXT) not in str(files_in(store.root)) and not store.commit(REPO, "main")
    local.faults.clear()
    assert_complete(store, pulled())


def test_a_damaged_partial_file_is_discarded_and_downloaded_again(local: LocalHub, store: HubCache) -> None:
    part = store.blob_path(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    part.parent.mkdir(parents=True)
    for left in (b"x" * 1_000_000, TEXT + b"more", b"x" * len(TEXT)):
        part.write_bytes(left)
        model = pulled()
        assert_complete(store, model)
        removal.remove(parse_ref(NAME))
        part.parent.mkdir(parents=True, exist_ok=True)


def test_a_truncated_file_never_becomes_visible(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, short=0)
    pulled_part = store.blob_path(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    pulled_part.parent.mkdir(parents=True)
    pulled_part.write_bytes(TEXT[:1_500_000])
    with pytest.raises(GalagoError):
        pulled()
    assert not store.blob_path(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")


def test_a_partial_file_is_kept_for_the_next_attempt(local: LocalHub, store: HubCache) -> None:
    stops = [2_000_000]
    local.fault(TEXT, pace=lambda at: stop_at(at, stops[0]))
    with pytest.raises(HubError, match="pull again to continue"):
        pulled()
    assert not store.blob_path(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")
    local.faults.clear()
    local.sent.clear()
    assert_complete(store, pulled())
    assert local.sent[digest(TEXT)] < len(TEXT) - 1_900_000


def stop_at(at: int, stop: int) -> None:
    if at >= stop:
        raise ConnectionResetError


def test_a_file_that_is_too_long_never_becomes_visible(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, extra=b"more")
    with pytest.raises(HubError, match="is longer than"):
        pulled()
    assert not store.blob_path(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")


def test_a_published_file_that_is_not_a_model_is_rejected(local: LocalHub, store: HubCache) -> None:
    local.put(REPO, {"omni-Q8_0.gguf": b"<!DOCTYPE html><html>"})
    with pytest.raises(ModelError, match="HTML"):
        pulled()
    assert nothing_published(store)


# The disk


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 10 MiB in memory; skips the test without the right to mount one."""
    from huggingface_hub import constants

    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_reported_before_the_first_byte(local: LocalHub, small_disk: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs 8\.57 MB more, and the disk of .* has .* MB free"):
        pulled()
    assert not local.sent and not files_in(small_disk)


def test_a_disk_that_fills_up_during_the_download_is_reported(
    local: LocalHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MIN_FREE_BYTES", 0)
    store = HubCache(small_disk / "hub")

    filled = threading.Event()

    def fill(at: int) -> None:
        if at > 500_000 and list(small_disk.rglob(f"*{PARTIAL_SUFFIX}")) and not filled.is_set():
            filled.set()
            with contextlib.suppress(OSError), (small_disk / "other").open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()

    local.fault(TEXT, pace=fill)
    with pytest.raises(ConfigError, match="the disk of .* is full"):
        pulled()
    assert not store.blob_path(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")
    (small_disk / "other").unlink()
    local.faults.clear()
    assert_complete(store, pulled())


# Concurrent pulls and new revisions


def test_two_concurrent_pulls_transfer_each_byte_once(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, pace=lambda _at: time.sleep(0.01))
    both = [subprocess.Popen([*PULL, NAME], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert local.sent == {digest(TEXT): len(TEXT), digest(EYES): len(EYES)}
    assert_complete(store, installed.find(parse_ref(NAME)))


def test_a_new_revision_downloads_only_changes_and_keeps_the_old_one(local: LocalHub, store: HubCache) -> None:
    old = pulled()
    changed = TEXT + bytes(32)
    new_commit = local.put(REPO, FILES | {"omni-Q8_0.gguf": changed})
    local.sent.clear()
    assert resolve(NAME).weights == old.weights[0]  # until it is pulled, nothing changes
    new = pulled()
    assert local.sent == {digest(changed): len(changed)}
    assert (new.commit, new.weights[0].read_bytes()) == (new_commit, changed)
    assert resolve(f"{NAME}@{old.commit[:8]}").weights == old.weights[0]
    assert sorted(str(m.ref) for m in installed.all_models()) == [f"{NAME}:q8_0", f"{NAME}:q8_0@{old.commit[:12]}"]


def test_a_failed_pull_of_a_new_revision_leaves_the_old_one_in_place(local: LocalHub, store: HubCache) -> None:
    old = pulled()
    changed = TEXT + bytes(32)
    local.put(REPO, FILES | {"omni-Q8_0.gguf": changed})
    local.fault(changed, damage=True)
    with pytest.raises(HubError):
        pulled()
    assert installed.find(parse_ref(NAME)).commit == old.commit and resolve(NAME).weights == old.weights[0]


def test_a_branch_or_commit_can_be_pulled(local: LocalHub, store: HubCache) -> None:
    commit = local.put(REPO, FILES | {"omni-Q8_0.gguf": TEXT + bytes(64)}, revision="refs/pr/3")
    assert pulled(f"{NAME}@refs/pr/3").commit == commit
    assert pulled(f"{NAME}@{commit}").commit == commit
    assert store.commit(REPO, "main") is None
    with pytest.raises(NotFound, match="no revision nowhere"):
        pulled(f"{NAME}@nowhere")


# Errors of the Hub


def test_a_gated_repository_tells_how_to_get_access(
    local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.repos[REPO].gated = True
    with pytest.raises(HubError, match=f"is gated: accept its terms at {local.url}/{REPO}, then run `hf auth login`"):
        pulled()
    assert not files_in(store.root)
    monkeypatch.setenv("HF_TOKEN", local.token)
    assert_complete(store, pulled())


def test_a_private_or_missing_repository_is_reported(local: LocalHub, store: HubCache) -> None:
    local.repos[REPO].private = True
    for name in (NAME, "hf:acme/nothing"):
        with pytest.raises(NotFound, match="If it is private"):
            pulled(name)
    assert not files_in(store.root)


def test_an_unreachable_hub_is_reported(local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="http://127.0.0.1:9 does not answer"):
        pulled()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        pulled()


def test_an_installed_model_is_pulled_offline_without_asking_the_hub(
    local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    paths = pulled().paths
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked, before = len(local.log), files_in(store.root)
    offline = plan(parse_ref(NAME))
    assert not offline.is_checked and not offline.missing
    assert [file.etag for file in offline.files] == [digest(TEXT), digest(EYES)]
    assert pull(offline, lambda _file, _done: None).paths == paths
    assert len(local.log) == asked and files_in(store.root) == before
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        plan(parse_ref(f"{NAME}:f16"))


@pytest.mark.parametrize("code", [{}, {"X-Error-Code": "EntryNotFound"}])
def test_a_file_that_is_listed_but_not_there_is_named_with_the_others(local: LocalHub, code: dict[str, str]) -> None:
    local.put(REPO, FILES | {"omni-F16.gguf": TEXT + b"x"})
    local.fault(TEXT, status=404, headers=code)
    with pytest.raises(NotFound, match=r"lists omni-Q8_0.gguf in acme/omni-GGUF, but does not have it.*omni-F16.gguf"):
        plan(parse_ref(f"{NAME}:q8_0"))


def test_a_server_that_is_not_a_hub_is_reported(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"{local.url}/api/models")
    with pytest.raises(GalagoError):
        pulled()


# A hostile Hub

HOSTILE = [
    "../evil-Q8_0.gguf", "a/../../evil-Q8_0.gguf", "/etc/evil-Q8_0.gguf", "a//evil-Q8_0.gguf", "./evil-Q8_0.gguf",
    "evil\0-Q8_0.gguf", "C:evil-Q8_0.gguf", "C:\\evil-Q8_0.gguf", "..\\evil-Q8_0.gguf", "a\nb-Q8_0.gguf",
    "\x1b[2J-Q8_0.gguf", "x" * 300 + "-Q8_0.gguf", "a/" * 20 + "../" * 25 + "evil-Q8_0.gguf",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_name_changes_nothing(local: LocalHub, store: HubCache, tmp_path: Path, name: str) -> None:
    local.repos[REPO].names["omni-Q8_0.gguf"] = name
    before = files_in(tmp_path)
    with pytest.raises(HubError, match="unsafe file name"):
        pulled()
    assert files_in(tmp_path) == before and not local.sent


@pytest.mark.parametrize("etag", ["../../evil", "a" * 63, "A" * 64, "", "/etc/passwd", "a" * 63 + "\n"])
def test_a_hostile_digest_changes_nothing(local: LocalHub, store: HubCache, etag: str) -> None:
    local.repos[REPO].digests["omni-Q8_0.gguf"] = etag
    with pytest.raises(HubError, match="is not a file digest"):
        pulled()
    assert not files_in(store.root)


@pytest.mark.parametrize("commit", ["../../evil", "main", "", "0" * 39])
def test_a_hostile_commit_changes_nothing(local: LocalHub, store: HubCache, commit: str) -> None:
    repo = local.repos[REPO]
    repo.commits[commit] = repo.commits[repo.revisions["main"]]
    repo.revisions["main"] = commit
    with pytest.raises(GalagoError):
        pulled()
    assert not files_in(store.root)


@pytest.mark.parametrize("place", ["", "blobs", "snapshots", "refs"])
def test_links_out_of_the_cache_are_not_written_through(
    local: LocalHub, store: HubCache, tmp_path: Path, place: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = store.folder(REPO) / place if place else store.folder(REPO)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(ConfigError, match="is a link, which the cache does not follow"):
        pulled()
    assert not list(outside.rglob("*"))


@pytest.mark.parametrize("kind", ["link", "loop", "pipe"])
def test_what_is_no_file_in_place_of_a_partial_file_is_replaced(
    local: LocalHub, store: HubCache, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    part = store.blob_path(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    part.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(part)
    else:
        part.symlink_to(victim if kind == "link" else part)
    assert pulled()
    assert victim.read_bytes() == b"mine" and store.commit(REPO, "main")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "zeros", "empty"])
def test_an_unreadable_revision_is_as_good_as_none(local: LocalHub, store: HubCache, kind: str) -> None:
    pulled()
    ref = store.folder(REPO) / "refs" / "main"
    ref.unlink()
    if kind == "pipe":
        os.mkfifo(ref)
    elif kind == "folder":
        ref.mkdir()
    elif kind == "loop":
        ref.symlink_to(ref)
    else:
        ref.write_bytes(bytes(40) if kind == "zeros" else b"")
    assert store.commit(REPO, "main") is None and len(store.commits(REPO)) == 1


def test_the_second_of_two_equal_pulls_waits_for_the_first(
    local: LocalHub, store: HubCache, capsys: pytest.CaptureFixture[str]
) -> None:
    results = list[object]()
    second = threading.Thread(target=lambda: results.append(pulled()))
    with store.partial_file(REPO, digest(TEXT), lambda: None):
        second.start()
        said = ""
        while "another program is downloading a file of" not in said:
            said += capsys.readouterr().err
    second.join()
    assert len(results) == 1 and store.commit(REPO, "main")


# Selection of files


def made(folder: Path, architecture: str, width: int, name: str = "", **keys: str | int | bool) -> bytes:
    """Writes a small GGUF file with these keys."""
    path = folder / "made.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    if architecture == "clip":
        writer.add_string("general.type", "mmproj")
        writer.add_bool("clip.has_vision_encoder", True)
        writer.add_uint32("clip.vision.projection_dim", width)
    else:
        writer.add_embedding_length(width)
    if name:
        writer.add_string("general.basename", name)
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), str(value))
    writer.add_tensor("t", np.zeros((4, width), np.float32))
    write_and_close(writer)
    return path.read_bytes()


def test_a_projector_is_selected_by_metadata_not_by_name(local: LocalHub, tmp_path: Path) -> None:
    model, right = made(tmp_path, "llama", 64, "one"), made(tmp_path, "clip", 64, "one")
    wrong, cousin = made(tmp_path, "clip", 128), made(tmp_path, "clip", 64, "other")
    local.put(REPO, {"One-Q8_0.gguf": model, "mmproj-a-Q8_0.gguf": wrong, "mmproj-b-Q8_0.gguf": cousin,
                     "odd-mmproj.gguf": right})  # fmt: skip
    assert pulled().projector and Path(pulled().projector or "").name == "odd-mmproj.gguf"
    assert not HubCache(connection.cache_root()).blob_path(REPO, digest(wrong)).exists()


def test_an_incompatible_projector_is_rejected_before_the_download(
    local: LocalHub, store: HubCache, tmp_path: Path
) -> None:
    local.put(REPO, {"omni-Q8_0.gguf": TEXT, "mmproj.gguf": made(tmp_path, "clip", 128)})
    with pytest.raises(ModelError, match="makes vision embeddings of width 128, but the model takes 256"):
        pulled()
    assert digest(TEXT) not in local.sent and nothing_published(store)
    kind = made(tmp_path, "clip", 256, clip__projector_type="gemma3")
    local.put(REPO, {"omni-Q8_0.gguf": TEXT, "mmproj.gguf": kind})
    with pytest.raises(ModelError, match="its type, gemma3, is for gemma3 models, but the model is llama"):
        pulled()


def test_a_quantization_is_selected_or_the_available_ones_are_listed(local: LocalHub, tmp_path: Path) -> None:
    q4, f16 = made(tmp_path, "llama", 32), made(tmp_path, "llama", 64)
    local.put(REPO, {"m-Q4_K_M.gguf": q4, "m-F16.gguf": f16, "imatrix.dat": b"x"})
    assert pulled().weights[0].name == "m-Q4_K_M.gguf"
    assert pulled(f"{NAME}:F16").weights[0].name == "m-F16.gguf"
    assert pulled(f"{NAME}:m-f16").weights[0].name == "m-F16.gguf"
    with pytest.raises(NotFound, match="has no weights with quantization q2_k; it has f16, q4_k_m"):
        pulled(f"{NAME}:q2_k")
    local.put(REPO, {"README.md": b"nothing"})
    with pytest.raises(NotFound, match="has no GGUF weights"):
        pulled()


def split_model(folder: Path) -> dict[str, bytes]:
    """Writes a model split into three parts, as the gguf package does."""
    writer = gguf.GGUFWriter(folder / "big-F32.gguf", "llama", split_max_tensors=1)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    for name in ("a", "b", "c"):
        writer.add_tensor(name, np.full((8, 32), ord(name), np.float32))
    write_and_close(writer)
    return {f"sub/{path.name}": path.read_bytes() for path in sorted(folder.glob("big-F32-0*.gguf"))}


def test_all_parts_of_a_split_model_are_pulled(local: LocalHub, tmp_path: Path) -> None:
    parts = split_model(tmp_path)
    assert len(parts) == 3
    local.put(REPO, parts)
    model = pulled()
    assert [path.read_bytes() for path in model.weights] == list(parts.values())
    assert resolve(NAME).weights == model.weights[0] and installed.summarize(model).parameters == 3 * 256


def test_a_split_model_with_a_missing_part_is_rejected(local: LocalHub, tmp_path: Path) -> None:
    parts = split_model(tmp_path)
    local.put(REPO, dict(list(parts.items())[:2]))
    with pytest.raises(NotFound, match="part 3 of 3 is missing: sub/big-F32-00003-of-00003.gguf"):
        pulled()
    folder = tmp_path / "loose"
    folder.mkdir()
    for name, data in list(parts.items())[:2]:
        (folder / Path(name).name).write_bytes(data)
    with pytest.raises(ModelError, match="is one of 3 parts: part 3 of 3 is missing: big-F32-00003-of-00003.gguf"):
        resolve(folder / "big-F32-00001-of-00003.gguf")


# After a pull


def test_a_model_that_is_not_installed_tells_how_to_install_it(local: LocalHub) -> None:
    with pytest.raises(NotFound, match=f"{NAME} is not installed; install it with: galago pull {NAME}"):
        resolve(REPO)
    pulled()
    with pytest.raises(NotFound, match=r"\(installed of it: q8_0\); install it with: galago pull"):
        resolve(f"{REPO}:q4_0")
    with pytest.raises(NotFound, match="galago pull tinygemma3"):
        resolve("tinygemma3")


def test_deleting_frees_only_files_that_no_other_model_uses(local: LocalHub, store: HubCache) -> None:
    other = TEXT + bytes(32)
    local.put(REPO, FILES | {"omni-F16.gguf": other})
    pulled(f"{NAME}:q8_0")
    pulled(f"{NAME}:f16")
    assert removal.remove(parse_ref(f"{NAME}:f16")).freed == len(other)  # the projector is the other one's too
    assert resolve(f"{NAME}:q8_0").projector
    os.link(store.blob_path(REPO, digest(TEXT)), store.root / "kept")
    assert removal.remove(parse_ref(NAME)).freed == len(EYES)  # the weights have another name
    assert files_in(store.root) == {"kept": len(TEXT)}


def test_deleting_does_not_disturb_a_running_pull(local: LocalHub, store: HubCache) -> None:
    pulled()
    other = digest(TEXT + bytes(32))
    with store.partial_file(REPO, other, lambda: None) as part:
        part.write_bytes(b"on its way")
        removal.remove(parse_ref(NAME))
        assert part.read_bytes() == b"on its way"


def test_verify_detects_a_changed_byte(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    assert [check.problem for check in installed.verify(model)] == ["", ""]
    with store.blob_path(REPO, digest(TEXT)).open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\x7f\x7f")
    problems = [check.problem for check in installed.verify(model)]
    assert problems == ["its content differs from the published file", ""]
    removal.remove(parse_ref(NAME))
    assert_complete(store, pulled())


def test_two_models_of_one_quant_are_listed_and_deleted_by_their_own_names(local: LocalHub) -> None:
    local.put(REPO, {"one-Q8_0.gguf": TEXT, "two-Q8_0.gguf": TEXT + bytes(32)})
    for stem in ("one-q8_0", "two-q8_0"):
        pulled(f"{NAME}:{stem}")
    names = [str(model.ref) for model in installed.all_models()]
    assert names == [f"{NAME}:one-q8_0", f"{NAME}:two-q8_0"]
    assert [resolve(name).weights.name for name in names] == ["one-Q8_0.gguf", "two-Q8_0.gguf"]
    assert removal.remove(parse_ref(names[0])).freed == len(TEXT)
    assert [str(model.ref) for model in installed.all_models()] == [f"{NAME}:q8_0"]


def test_a_model_with_a_damaged_header_can_be_checked_and_deleted(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    model.weights[0].resolve().write_bytes(b"damaged" + TEXT[7:])
    with pytest.raises(ModelError, match="not a GGUF file"):
        resolve(NAME)
    checks = installed.verify(installed.find_unchecked(parse_ref(NAME)))
    assert checks[0].problem == "its content differs from the published file"
    assert removal.remove(parse_ref(NAME)).freed == len(TEXT) + len(EYES)
    assert_complete(store, pulled())


def test_an_unreadable_file_does_not_prevent_listing(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    model.weights[0].resolve().write_bytes(b"GGUF damaged")
    assert [str(m.ref) for m in installed.all_models()] == [f"{NAME}:q8_0"]
    with pytest.raises(ModelError):
        installed.summarize(next(installed.all_models()))
    assert plan(parse_ref(NAME)).missing  # its size is wrong, so a pull mends it
    assert_complete(store, pulled())
