"""Pulling from a real Hub on this machine: the store is right or untouched, whatever happens on the way."""

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

from fakes.hub import Fault, LocalHub, digest, running, waited
from galago.models.errors import ConfigError, GalagoError, HubError, ModelError, NotFound
from galago.models.hub import client, download
from galago.models.hub.cache import PARTIAL_SUFFIX, HubCache
from galago.models.hub.pull import plan, pull
from galago.models.registry import installed
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
    """A Hub with one repository, an empty cache, and waits between tries that last no time."""
    from huggingface_hub import constants

    with running() as server:
        server.put(REPO, dict(FILES))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(client, "retry_delay_seconds", lambda attempt, wait: wait or 0.0)
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
    """No name leads to contents, no blob is there; only what was left unfinished may be."""
    return all(name.endswith(PARTIAL_SUFFIX) for name in files_in(store.root))


def whole(store: HubCache, model: InstalledModel) -> None:
    """What a right store looks like: real contents behind every name."""
    assert [path.read_bytes() for path in model.paths] == [TEXT, EYES]
    blobs = sorted(path.name for path in (store.folder(REPO) / "blobs").iterdir())
    assert blobs == sorted([digest(TEXT), digest(EYES)])


# The usual way


def test_a_model_is_pulled_with_its_projector_and_can_be_loaded(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    whole(store, model)
    assert model.commit == local.repos[REPO].revisions["main"] == store.commit(REPO, "main")
    files = resolve(NAME)
    assert (files.weights, files.projector, files.id) == (*model.paths, NAME)
    assert [str(m.ref) for m in installed.all_models()] == [f"{NAME}:q8_0"]


def test_what_is_here_is_not_asked_for_again(local: LocalHub) -> None:
    pulled()
    sent = dict(local.sent)
    again = plan(parse_ref(NAME))
    assert not again.missing
    pull(again, lambda _file, _done: None)
    assert local.sent == sent


def test_a_token_goes_to_the_hub_and_not_to_the_store_it_points_to(
    local: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", local.token)
    local.repos[REPO].private = True
    pulled()
    assert local.sent and not local.leaked


def test_a_pull_asks_for_the_model_and_for_nothing_else(local: LocalHub) -> None:
    subprocess.run([*PULL, NAME], check=True, capture_output=True, timeout=60)
    kinds = {re.sub(r"/[^/]*[0-9a-f]{40}.*|/revision/.*", "", path) for _, path, _ in local.log}
    assert kinds == {f"/api/models/{REPO}", f"/api/models/{REPO}/tree", f"/{REPO}/resolve", f"/cdn/{REPO}"}


def test_huggingface_hub_finds_what_galago_has_pulled(local: LocalHub, store: HubCache) -> None:
    from huggingface_hub import hf_hub_download

    model = pulled()
    sent = dict(local.sent)
    path = hf_hub_download(REPO, "omni-Q8_0.gguf", cache_dir=store.root, endpoint=local.url)
    assert Path(path).samefile(model.weights[0]) and local.sent == sent
    assert hf_hub_download(REPO, "mmproj-omni-Q8_0.gguf", cache_dir=store.root, local_files_only=True)


def test_galago_uses_what_huggingface_hub_has_downloaded(local: LocalHub, store: HubCache) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, "omni-Q8_0.gguf", cache_dir=store.root, endpoint=local.url)
    sent = local.sent[digest(TEXT)]
    whole(store, pulled())
    assert local.sent[digest(TEXT)] == sent == len(TEXT)


def test_the_file_git_keeps_is_checked_by_its_own_digest(local: LocalHub) -> None:
    files = {file.name: file for file in client.fetch_repository(REPO).files}
    assert len(files["README.md"].etag) == 40 and len(files["omni-Q8_0.gguf"].etag) == 64
    repository = client.fetch_repository(REPO)
    path = download.download(repository, [files["README.md"]], HubCache(client.cache_root()), lambda _f, _d: None)[0]
    assert path.read_bytes() == b"# omni" and download.file_digest(path, files["README.md"].etag) == path.resolve().name


# Interruptions


def test_resume_from_forty_cuts(local: LocalHub, store: HubCache) -> None:
    chance = random.Random(40)
    for cut in [0, 1, len(TEXT) - 1, *(chance.randrange(len(TEXT)) for _ in range(37))]:
        shutil.rmtree(store.root, ignore_errors=True)
        local.sent.clear()
        part = store.blob(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
        part.parent.mkdir(parents=True)
        part.write_bytes(TEXT[:cut])
        whole(store, pulled())
        assert local.sent[digest(TEXT)] == len(TEXT) - cut


def test_resume_after_ten_kills(local: LocalHub, store: HubCache) -> None:
    chance = random.Random(10)
    for _ in range(10):
        shutil.rmtree(store.root, ignore_errors=True)
        here = killed(local, store, chance.randrange(1 << 17, len(TEXT) - (1 << 17)))
        assert not store.blob(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")
        local.faults.clear()
        local.log.clear()
        whole(store, pulled())
        asked = [first for _, path, first in local.log if path == f"/cdn/{REPO}/{digest(TEXT)}"]
        assert 0 < here < len(TEXT) and asked == [0, here]  # a look at the beginning, then only the rest


def killed(local: LocalHub, store: HubCache, cut: int) -> int:
    """Starts a pull and kills its process once so many bytes are sent; returns how many it left."""
    part = store.blob(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
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


def test_a_line_that_breaks_again_and_again_costs_no_byte_twice(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, cut=150_000)
    whole(store, pulled())
    assert local.sent[digest(TEXT)] < len(TEXT) + 1


def test_a_server_without_ranges_begins_anew(local: LocalHub, store: HubCache) -> None:
    part = store.blob(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    part.parent.mkdir(parents=True)
    part.write_bytes(TEXT[:1_000_000])
    local.fault(TEXT, whole=True)
    whole(store, pulled())


def test_a_busy_server_is_asked_again_when_it_says(
    local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    def no_wait(_attempt: int, asked: float | None) -> float:
        waits.append(asked)
        return 0.0

    monkeypatch.setattr(client, "retry_delay_seconds", no_wait)
    limit = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    local.api_faults = [Fault(status=429, headers={"Retry-After": "7"}), Fault(status=503)]
    local.api_faults += [Fault(status=429, headers=limit)]
    local.fault(TEXT, times=3, status=500)
    whole(store, pulled())
    assert waits[:3] == [7.0, None, 55.0] and len(waits) == 6


def test_a_link_that_has_run_out_is_asked_for_anew(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, times=2, status=403)
    whole(store, pulled())


def test_waits_grow_and_end() -> None:
    assert [client.retry_delay_seconds(n, None) <= 2.0**n for n in range(5)] == [True] * 5
    assert (
        client.retry_delay_seconds(99, None) <= 32
        and client.retry_delay_seconds(0, 7.0) == 7.0
        and client.retry_delay_seconds(0, 1e9) == 300
    )


# Wrong contents


def test_wrong_bytes_are_never_published(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, damage=True)
    with pytest.raises(HubError, match="arrived damaged"):
        pulled()
    assert digest(TEXT) not in str(files_in(store.root)) and not store.commit(REPO, "main")
    local.faults.clear()
    whole(store, pulled())


def test_a_damaged_beginning_is_thrown_away_and_fetched_again(local: LocalHub, store: HubCache) -> None:
    part = store.blob(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    part.parent.mkdir(parents=True)
    for left in (b"x" * 1_000_000, TEXT + b"more", b"x" * len(TEXT)):
        part.write_bytes(left)
        model = pulled()
        whole(store, model)
        installed.remove(parse_ref(NAME))
        part.parent.mkdir(parents=True, exist_ok=True)


def test_a_truncated_file_is_never_published(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, short=0)
    pulled_part = store.blob(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    pulled_part.parent.mkdir(parents=True)
    pulled_part.write_bytes(TEXT[:1_500_000])
    with pytest.raises(GalagoError):
        pulled()
    assert not store.blob(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")


def test_a_file_that_ends_early_is_kept_for_the_next_try(local: LocalHub, store: HubCache) -> None:
    stops = [2_000_000]
    local.fault(TEXT, pace=lambda at: stop_at(at, stops[0]))
    with pytest.raises(HubError, match="pull again to go on"):
        pulled()
    assert not store.blob(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")
    local.faults.clear()
    local.sent.clear()
    whole(store, pulled())
    assert local.sent[digest(TEXT)] < len(TEXT) - 1_900_000


def stop_at(at: int, stop: int) -> None:
    if at >= stop:
        raise ConnectionResetError


def test_a_longer_file_is_never_published(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, extra=b"more")
    with pytest.raises(HubError, match="is longer than"):
        pulled()
    assert not store.blob(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")


def test_what_the_hub_publishes_and_is_no_model_is_refused(local: LocalHub, store: HubCache) -> None:
    local.put(REPO, {"omni-Q8_0.gguf": b"<!DOCTYPE html><html>"})
    with pytest.raises(ModelError, match="HTML"):
        pulled()
    assert nothing_published(store)


# The disk


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 10 MiB in memory. Mounting needs rights that not everybody has."""
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


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(local: LocalHub, small_disk: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs 8\.57 MB more, and the disk of .* has .* MB free"):
        pulled()
    assert not local.sent and not files_in(small_disk)


def test_a_disk_that_fills_up_meanwhile(local: LocalHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(ConfigError, match="no room on the disk"):
        pulled()
    assert not store.blob(REPO, digest(TEXT)).exists() and not store.commit(REPO, "main")
    (small_disk / "other").unlink()
    local.faults.clear()
    whole(store, pulled())


# Several at once, and changes


def test_two_pull_at_once_and_each_byte_comes_once(local: LocalHub, store: HubCache) -> None:
    local.fault(TEXT, pace=lambda _at: time.sleep(0.01))
    both = [subprocess.Popen([*PULL, NAME], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert local.sent == {digest(TEXT): len(TEXT), digest(EYES): len(EYES)}
    whole(store, installed.find(parse_ref(NAME)))


def test_a_new_revision_brings_only_what_changed_and_keeps_the_old(local: LocalHub, store: HubCache) -> None:
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


def test_a_broken_pull_of_a_new_revision_leaves_the_old_one_in_place(local: LocalHub, store: HubCache) -> None:
    old = pulled()
    changed = TEXT + bytes(32)
    local.put(REPO, FILES | {"omni-Q8_0.gguf": changed})
    local.fault(changed, damage=True)
    with pytest.raises(HubError):
        pulled()
    assert installed.find(parse_ref(NAME)).commit == old.commit and resolve(NAME).weights == old.weights[0]


def test_a_branch_and_a_commit_are_pinned(local: LocalHub, store: HubCache) -> None:
    commit = local.put(REPO, FILES | {"omni-Q8_0.gguf": TEXT + bytes(64)}, revision="refs/pr/3")
    assert pulled(f"{NAME}@refs/pr/3").commit == commit
    assert pulled(f"{NAME}@{commit}").commit == commit
    assert store.commit(REPO, "main") is None
    with pytest.raises(NotFound, match="no revision nowhere"):
        pulled(f"{NAME}@nowhere")


# What the Hub refuses


def test_a_gated_repository_says_what_to_do(local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    local.repos[REPO].gated = True
    with pytest.raises(HubError, match=f"is gated: accept its terms at {local.url}/{REPO}, then `hf auth login`"):
        pulled()
    assert not files_in(store.root)
    monkeypatch.setenv("HF_TOKEN", local.token)
    whole(store, pulled())


def test_a_repository_that_is_private_or_not_there(local: LocalHub, store: HubCache) -> None:
    local.repos[REPO].private = True
    for name in (NAME, "hf:acme/nothing"):
        with pytest.raises(NotFound, match="or it is private"):
            pulled(name)
    assert not files_in(store.root)


def test_a_hub_that_does_not_answer(local: LocalHub, store: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="http://127.0.0.1:9 does not answer"):
        pulled()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        pulled()


def test_a_server_that_is_no_hub(local: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_hostile_file_name_leaves_everything_untouched(
    local: LocalHub, store: HubCache, tmp_path: Path, name: str
) -> None:
    local.repos[REPO].names["omni-Q8_0.gguf"] = name
    before = files_in(tmp_path)
    with pytest.raises(HubError, match="which has no place in the cache"):
        pulled()
    assert files_in(tmp_path) == before and not local.sent


@pytest.mark.parametrize("etag", ["../../evil", "a" * 63, "A" * 64, "", "/etc/passwd", "a" * 63 + "\n"])
def test_a_hostile_digest_leaves_everything_untouched(local: LocalHub, store: HubCache, etag: str) -> None:
    local.repos[REPO].digests["omni-Q8_0.gguf"] = etag
    with pytest.raises(HubError, match="which is none"):
        pulled()
    assert not files_in(store.root)


@pytest.mark.parametrize("commit", ["../../evil", "main", "", "0" * 39])
def test_a_hostile_commit_leaves_everything_untouched(local: LocalHub, store: HubCache, commit: str) -> None:
    repo = local.repos[REPO]
    repo.commits[commit] = repo.commits[repo.revisions["main"]]
    repo.revisions["main"] = commit
    with pytest.raises(GalagoError):
        pulled()
    assert not files_in(store.root)


@pytest.mark.parametrize("place", ["", "blobs", "snapshots", "refs"])
def test_no_link_out_of_the_store_is_written_through(
    local: LocalHub, store: HubCache, tmp_path: Path, place: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = store.folder(REPO) / place if place else store.folder(REPO)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(ConfigError, match="is a link to another place"):
        pulled()
    assert not list(outside.rglob("*"))


def test_a_staging_file_that_is_a_link_is_not_followed(local: LocalHub, store: HubCache, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    part = store.blob(REPO, digest(TEXT)).with_name(digest(TEXT) + PARTIAL_SUFFIX)
    part.parent.mkdir(parents=True)
    part.symlink_to(victim)
    with pytest.raises(GalagoError):
        pulled()
    assert victim.read_bytes() == b"mine" and not store.commit(REPO, "main")


# Choosing and pairing


def made(folder: Path, architecture: str, width: int, name: str = "", **keys: str | int | bool) -> bytes:
    """A small GGUF file with these keys."""
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_projector_is_chosen_by_metadata_and_not_by_its_name(local: LocalHub, tmp_path: Path) -> None:
    model, right = made(tmp_path, "llama", 64, "one"), made(tmp_path, "clip", 64, "one")
    wrong, cousin = made(tmp_path, "clip", 128), made(tmp_path, "clip", 64, "other")
    local.put(REPO, {"One-Q8_0.gguf": model, "mmproj-a-Q8_0.gguf": wrong, "mmproj-b-Q8_0.gguf": cousin,
                     "odd-mmproj.gguf": right})  # fmt: skip
    assert pulled().projector and Path(pulled().projector or "").name == "odd-mmproj.gguf"
    assert not HubCache(client.cache_root()).blob(REPO, digest(wrong)).exists()


def test_a_pair_that_cannot_work_is_refused_with_the_reason_before_it_is_fetched(
    local: LocalHub, store: HubCache, tmp_path: Path
) -> None:
    local.put(REPO, {"omni-Q8_0.gguf": TEXT, "mmproj.gguf": made(tmp_path, "clip", 128)})
    with pytest.raises(ModelError, match="makes vision embeddings of width 128, and the model takes 256"):
        pulled()
    assert digest(TEXT) not in local.sent and nothing_published(store)
    kind = made(tmp_path, "clip", 256, clip__projector_type="gemma3")
    local.put(REPO, {"omni-Q8_0.gguf": TEXT, "mmproj.gguf": kind})
    with pytest.raises(ModelError, match="its kind, gemma3, is for gemma3 models, and the model is llama"):
        pulled()


def test_a_quant_is_chosen_and_what_there_is_is_told(local: LocalHub, tmp_path: Path) -> None:
    q4, f16 = made(tmp_path, "llama", 32), made(tmp_path, "llama", 64)
    local.put(REPO, {"m-Q4_K_M.gguf": q4, "m-F16.gguf": f16, "imatrix.dat": b"x"})
    assert pulled().weights[0].name == "m-Q4_K_M.gguf"
    assert pulled(f"{NAME}:F16").weights[0].name == "m-F16.gguf"
    assert pulled(f"{NAME}:m-f16").weights[0].name == "m-F16.gguf"
    with pytest.raises(NotFound, match="has no weights of q2_k; it has f16, q4_k_m"):
        pulled(f"{NAME}:q2_k")
    local.put(REPO, {"README.md": b"nothing"})
    with pytest.raises(NotFound, match="holds no GGUF weights"):
        pulled()


def split_model(folder: Path) -> dict[str, bytes]:
    """A model in three parts, as the gguf package writes them."""
    writer = gguf.GGUFWriter(folder / "big-F32.gguf", "llama", split_max_tensors=1)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    for name in ("a", "b", "c"):
        writer.add_tensor(name, np.full((8, 32), ord(name), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {f"sub/{path.name}": path.read_bytes() for path in sorted(folder.glob("big-F32-0*.gguf"))}


def test_all_parts_of_a_split_model_are_pulled(local: LocalHub, tmp_path: Path) -> None:
    parts = split_model(tmp_path)
    assert len(parts) == 3
    local.put(REPO, parts)
    model = pulled()
    assert [path.read_bytes() for path in model.weights] == list(parts.values())
    assert resolve(NAME).weights == model.weights[0] and installed.summarize(model).parameters == 3 * 256


def test_a_split_model_that_lacks_a_part_is_refused(local: LocalHub, tmp_path: Path) -> None:
    parts = split_model(tmp_path)
    local.put(REPO, dict(list(parts.items())[:2]))
    with pytest.raises(NotFound, match="holds no GGUF weights"):
        pulled()
    folder = tmp_path / "loose"
    folder.mkdir()
    for name, data in list(parts.items())[:2]:
        (folder / Path(name).name).write_bytes(data)
    with pytest.raises(ModelError, match="is one of 3 parts, 2 are here"):
        resolve(folder / "big-F32-00001-of-00003.gguf")


# After the pull


def test_a_name_that_is_known_and_not_here_says_how_to_get_it(local: LocalHub) -> None:
    with pytest.raises(NotFound, match=f"{NAME} is not installed; get it with: galago pull {NAME}"):
        resolve(REPO)
    pulled()
    with pytest.raises(NotFound, match=r"\(of it, q8_0 is here\); get it with: galago pull"):
        resolve(f"{REPO}:q4_0")
    with pytest.raises(NotFound, match="galago pull tinygemma3"):
        resolve("tinygemma3")


def test_deleting_frees_exactly_what_nothing_else_uses(local: LocalHub, store: HubCache) -> None:
    other = TEXT + bytes(32)
    local.put(REPO, FILES | {"omni-F16.gguf": other})
    pulled(f"{NAME}:q8_0")
    pulled(f"{NAME}:f16")
    assert installed.remove(parse_ref(f"{NAME}:f16"))[1] == len(other)  # the projector is the other one's too
    assert resolve(f"{NAME}:q8_0").projector
    os.link(store.blob(REPO, digest(TEXT)), store.root / "kept")
    assert installed.remove(parse_ref(NAME))[1] == len(EYES)  # the weights have another name
    assert files_in(store.root) == {"kept": len(TEXT)}


def test_deleting_leaves_a_running_pull_alone(local: LocalHub, store: HubCache) -> None:
    pulled()
    other = digest(TEXT + bytes(32))
    with store.staging(REPO, other, lambda: None) as part:
        part.write_bytes(b"on its way")
        installed.remove(parse_ref(NAME))
        assert part.read_bytes() == b"on its way"


def test_a_changed_byte_is_found(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    assert [check.problem for check in installed.verify(model)] == ["", ""]
    with store.blob(REPO, digest(TEXT)).open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\x7f\x7f")
    problems = [check.problem for check in installed.verify(model)]
    assert problems == ["its bytes are not those that were published", ""]
    installed.remove(parse_ref(NAME))
    whole(store, pulled())


def test_two_models_of_one_quant_are_listed_and_deleted_by_their_own_names(local: LocalHub) -> None:
    local.put(REPO, {"one-Q8_0.gguf": TEXT, "two-Q8_0.gguf": TEXT + bytes(32)})
    for stem in ("one-q8_0", "two-q8_0"):
        pulled(f"{NAME}:{stem}")
    names = [str(model.ref) for model in installed.all_models()]
    assert names == [f"{NAME}:one-q8_0", f"{NAME}:two-q8_0"]
    assert [resolve(name).weights.name for name in names] == ["one-Q8_0.gguf", "two-Q8_0.gguf"]
    assert installed.remove(parse_ref(names[0]))[1] == len(TEXT)
    assert [str(model.ref) for model in installed.all_models()] == [f"{NAME}:q8_0"]


def test_a_model_with_a_damaged_header_can_be_checked_and_deleted(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    model.weights[0].resolve().write_bytes(b"damaged" + TEXT[7:])
    with pytest.raises(ModelError, match="not a GGUF file"):
        resolve(NAME)
    checks = installed.verify(installed.find_unchecked(parse_ref(NAME)))
    assert checks[0].problem == "its bytes are not those that were published"
    assert installed.remove(parse_ref(NAME))[1] == len(TEXT) + len(EYES)
    whole(store, pulled())


def test_a_file_that_cannot_be_read_stops_no_list(local: LocalHub, store: HubCache) -> None:
    model = pulled()
    model.weights[0].resolve().write_bytes(b"GGUF damaged")
    assert [str(m.ref) for m in installed.all_models()] == [f"{NAME}:q8_0"]
    with pytest.raises(ModelError):
        installed.summarize(next(installed.all_models()))
    assert plan(parse_ref(NAME)).missing  # its size is wrong, so a pull mends it
    whole(store, pulled())
