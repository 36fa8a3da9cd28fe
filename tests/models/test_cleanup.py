"""What is deleted from the Hub's cache, by `rm` and by `gc`, and what stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.hub import LocalHub, digest, running
from fakes.layouts import tiny_file
from galago.models.errors import ConfigError, NotFound
from galago.models.hub.cache import PARTIAL_SUFFIX, HubCache
from galago.models.hub.pull import plan, pull
from galago.models.registry import discovery, imported, installed, removal
from galago.models.registry.garbage import delete_garbage, find_garbage
from galago.models.registry.name import parse_ref

REPO = "acme/Tiny-GGUF"
Q8, F16, EYES = "tiny-Q8_0.gguf", "tiny-F16.gguf", "mmproj-tiny-F16.gguf"
OLD = {Q8: tiny_file(Q8), F16: tiny_file(F16), EYES: tiny_file(EYES, "projector")}
NEW = OLD | {Q8: tiny_file("newer " + Q8)}


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    from huggingface_hub import constants

    with running() as server:
        server.page_files = 100
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        yield server


@pytest.fixture
def cache(local: LocalHub, tmp_path: Path) -> HubCache:
    return HubCache(tmp_path / "hub")


def pull_commits(local: LocalHub, *commits: dict[str, bytes], names: tuple[str, ...] = (REPO,)) -> list[str]:
    """Publishes one commit after the other, and pulls the models from each. Returns the commits."""
    pulled = []
    for files in commits:
        pulled.append(local.put(REPO, files))
        for name in names:
            pull(plan(parse_ref(name)), lambda _file, _done: None)
    return pulled


def names() -> list[str]:
    return [str(model.ref) for model in installed.all_models()]


def files(cache: HubCache) -> list[str]:
    """Returns the files of all commits, and the blobs by the files that they hold."""
    contents = {digest(data): name for source in (OLD, NEW) for name, data in source.items()}
    paths = [path for path in cache.root.rglob("*") if path.is_file() and ".locks" not in path.parts]
    return sorted(contents.get(path.name, path.name) for path in paths)


# rm


def test_a_model_is_deleted_in_all_its_commits(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, NEW)
    removed = removal.remove(parse_ref(REPO))
    assert (removed.commits, removed.remaining, names(), files(cache)) == (2, (), [], [])
    assert removed.freed == len(OLD[Q8]) + len(NEW[Q8]) + len(OLD[EYES])
    with pytest.raises(NotFound, match="is not installed"):
        installed.find(parse_ref(REPO))


def test_commits_with_the_same_weights_are_deleted_too(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, OLD | {"README.md": b"new words"})
    assert removal.remove(parse_ref(REPO)).commits == 2
    assert files(cache) == []


def test_a_commit_that_is_named_is_deleted_alone(local: LocalHub, cache: HubCache) -> None:
    old, _new = pull_commits(local, OLD, NEW)
    removed = removal.remove(parse_ref(f"{REPO}@{old[:12]}"))
    assert (removed.commits, removed.freed) == (1, len(OLD[Q8])) and names() == [f"hf:{REPO}:q8_0"]
    assert installed.find(parse_ref(REPO)).projector


def test_other_quantizations_stay_and_are_named(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, NEW, names=(REPO, f"{REPO}:f16"))
    removed = removal.remove(parse_ref(REPO))
    assert str(removed.model.ref) == f"hf:{REPO}:q8_0" and [*map(str, removed.remaining)] == [f"hf:{REPO}:f16"]
    assert names() == [f"hf:{REPO}:f16"] and installed.find(parse_ref(REPO)).projector
    assert removal.remove(parse_ref(REPO)).remaining == () and files(cache) == []


@pytest.mark.parametrize("name", [REPO.lower(), f"hf:{REPO.upper()}", f"https://hf.co/{REPO.lower()}"])
def test_what_stays_is_named_in_any_case(local: LocalHub, cache: HubCache, name: str) -> None:
    pull_commits(local, OLD, names=(REPO, f"{REPO}:f16"))
    removed = removal.remove(parse_ref(name))
    assert str(removed.model.ref).endswith(":q8_0") and [*map(str, removed.remaining)] == [f"hf:{REPO}:f16"]


def test_a_name_for_two_models_is_refused_with_their_names(local: LocalHub, cache: HubCache) -> None:
    two = {"one-Q8_0.gguf": OLD[Q8], "two-Q8_0.gguf": NEW[Q8]}
    pull_commits(local, two, names=(f"{REPO}:one-q8_0", f"{REPO}:two-q8_0"))
    for use in (installed.find, removal.remove):
        with pytest.raises(NotFound, match="several models with this quantization; .* one-q8_0, two-q8_0"):
            use(parse_ref(REPO))
    assert len(names()) == 2


@pytest.mark.parametrize("name", [REPO, f"{REPO}:q8_0"])
@pytest.mark.parametrize("older", ["tiny-v1-Q8_0.gguf", "other-Q8_0.gguf", "old/Huge-Q8_0.gguf"])
def test_a_file_of_another_name_in_an_older_commit_stays_and_is_named(
    older: str, name: str, local: LocalHub, cache: HubCache
) -> None:
    pull_commits(local, {older: OLD[Q8]}, {"Tiny-v2-Q8_0.gguf": NEW[Q8]})
    removed = removal.remove(parse_ref(name))
    assert removed.commits == 1 and [*map(str, removed.remaining)] == names() == [f"hf:{REPO}:q8_0"]
    assert installed.find(parse_ref(REPO)).names == (older,)


@pytest.mark.parametrize("older", ["TINY-q8_0.gguf", "old/tiny-Q8_0.gguf"])
def test_a_file_of_the_same_name_in_another_folder_or_case_is_the_same_model(
    older: str, local: LocalHub, cache: HubCache
) -> None:
    pull_commits(local, {older: OLD[Q8]}, {"tiny-Q8_0.gguf": NEW[Q8]})
    assert removal.remove(parse_ref(REPO)).commits == 2 and files(cache) == []


def test_two_models_of_one_quantization_are_deleted_one_by_one(local: LocalHub, cache: HubCache) -> None:
    two = {"one-Q8_0.gguf": OLD[Q8], "two-Q8_0.gguf": NEW[Q8]}
    pull_commits(local, two, two | {"README.md": b"x"}, names=(f"{REPO}:one-q8_0", f"{REPO}:two-q8_0"))
    assert removal.remove(parse_ref(f"{REPO}:one-q8_0")).commits == 2
    assert names() == [f"hf:{REPO}:q8_0"] and installed.find(parse_ref(REPO)).names == ("two-Q8_0.gguf",)


def test_files_of_an_imported_model_are_not_deleted(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD)
    imported.add(discovery.discover(cache.root).models)
    (entry,) = imported.read_list()
    with pytest.raises(ConfigError, match=f"remove it first: galago rm {entry.name}"):
        removal.remove(parse_ref(f"hf:{REPO}"))
    removal.remove(parse_ref(entry.name))
    assert removal.remove(parse_ref(f"hf:{REPO}")).freed == len(OLD[Q8]) + len(OLD[EYES])


def test_a_model_of_another_name_in_an_older_commit_stays(local: LocalHub, cache: HubCache) -> None:
    two = {"one-Q8_0.gguf": OLD[Q8], "two-Q8_0.gguf": NEW[Q8]}
    pull_commits(local, two, names=(f"{REPO}:one-q8_0",))
    pull_commits(local, two | {"README.md": b"x"}, names=(f"{REPO}:two-q8_0",))
    assert find_garbage(cache) == []
    removed = removal.remove(parse_ref(f"{REPO}:two-q8_0"))
    assert removed.commits == 1 and [*map(str, removed.remaining)] == names() == [f"hf:{REPO}:q8_0"]
    assert installed.find(parse_ref(REPO)).names == ("one-Q8_0.gguf",)


@pytest.mark.parametrize("name", [REPO, REPO.lower(), f"{REPO}:Q8_0"])
def test_files_of_older_commits_that_are_imported_are_not_deleted(local: LocalHub, cache: HubCache, name: str) -> None:
    pull_commits(local, {Q8: OLD[Q8]})
    (entry,) = imported.add(discovery.discover(cache.root).models)
    pull_commits(local, {Q8: NEW[Q8]})
    before = files(cache)
    with pytest.raises(ConfigError, match=f"remove it first: galago rm {entry.name}"):
        removal.remove(parse_ref(name))
    assert files(cache) == before and entry.weights[0].read_bytes() == OLD[Q8]


# Upper and lower case


@pytest.mark.parametrize("name", [REPO.lower(), REPO.upper(), f"hf.co/{REPO.lower()}", f"{REPO.lower()}:Q8_0"])
def test_a_repository_is_the_same_in_upper_and_lower_case(local: LocalHub, cache: HubCache, name: str) -> None:
    pull_commits(local, OLD)
    sent = dict(local.sent)
    again = plan(parse_ref(name))
    assert not again.missing and again.ref.name == REPO
    pull(again, lambda _file, _done: None)
    requests = len(local.log)
    assert local.sent == sent and installed.find(parse_ref(name)).repository.lower() == REPO.lower()
    assert names() == [f"hf:{REPO}:q8_0"] and [path.name for path in cache.root.glob("models--*")] == [
        "models--acme--Tiny-GGUF"
    ]
    assert removal.remove(parse_ref(name)).freed and files(cache) == [] and len(local.log) == requests


def test_a_repository_that_has_moved_is_kept_under_the_name_that_was_asked_for(
    local: LocalHub, cache: HubCache, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalHub, "spelling", lambda _self, name: REPO if name == "old/name" else name)
    pull_commits(local, OLD, names=("old/name",))
    assert f"the Hub calls old/name {REPO} now" in capfd.readouterr().err
    assert installed.find(parse_ref("old/name")) and names() == ["hf:old/name:q8_0"]


# gc


def collect(cache: HubCache) -> tuple[list[str], int]:
    """Deletes all garbage. Returns its kinds, and the bytes freed, which must be those that were announced."""
    garbage = find_garbage(cache)
    announced = [item.size for item in garbage]
    assert [delete_garbage(cache, item) for item in garbage] == announced and not find_garbage(cache)
    return [item.kind for item in garbage], sum(announced)


def orphan(cache: HubCache, data: bytes, suffix: str = "") -> Path:
    path = cache.folder(REPO) / "blobs" / (digest(data) + suffix)
    path.write_bytes(data)
    return path


def test_nothing_of_a_current_model_is_garbage(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, names=(REPO, f"{REPO}:f16"))
    assert find_garbage(cache) == []


def test_older_commits_are_deleted_and_what_newer_ones_share_stays(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, NEW, OLD | {Q8: tiny_file("newest")})
    assert collect(cache) == (["older commit", "older commit"], len(OLD[Q8]) + len(NEW[Q8]))
    assert installed.find(parse_ref(REPO)).projector and names() == [f"hf:{REPO}:q8_0"]


def test_a_blob_that_only_older_commits_share_is_counted_once(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, OLD | {"README.md": b"x"}, NEW)
    assert collect(cache) == (["older commit", "older commit"], len(OLD[Q8]))


def test_a_blob_with_two_names_stays_until_the_last_is_gone(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, {Q8: OLD[Q8], "copy-Q8_0.gguf": OLD[Q8]}, names=(f"{REPO}:{Q8}", f"{REPO}:copy-q8_0"))
    assert removal.remove(parse_ref(f"{REPO}:copy-q8_0")).freed == 0 and find_garbage(cache) == []
    assert installed.find(parse_ref(REPO)).weights[0].read_bytes() == OLD[Q8]
    assert removal.remove(parse_ref(REPO)).freed == len(OLD[Q8])


def test_a_quantization_that_only_an_older_commit_has_stays(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD, names=(REPO, f"{REPO}:f16"))
    pull_commits(local, NEW)
    assert collect(cache) == (["older commit"], len(OLD[Q8]))
    assert installed.find(parse_ref(f"{REPO}:f16")).projector


def test_commits_of_branches_and_tags_stay(local: LocalHub, cache: HubCache) -> None:
    local.put(REPO, OLD, revision="v1")
    pull(plan(parse_ref(f"{REPO}@v1")), lambda _file, _done: None)
    pull_commits(local, NEW)
    assert cache.commit(REPO, "v1") and find_garbage(cache) == []


def test_partial_downloads_and_files_without_a_name_are_deleted(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD)
    part, lost = orphan(cache, b"half of it", PARTIAL_SUFFIX), orphan(cache, tiny_file("lost"))
    kinds, freed = collect(cache)
    assert sorted(kinds) == ["file without a name", "partial download"] and freed == 10 + len(tiny_file("lost"))
    assert not part.exists() and not lost.exists() and installed.find(parse_ref(REPO)).projector


def pull_half(local: LocalHub) -> list[str]:
    """Pulls a model in two parts, and takes the second away. Returns the names of the parts."""
    parts = [f"tiny-Q4_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    local.put(REPO, OLD | {part: tiny_file(part) for part in parts})
    second = pull(plan(parse_ref(f"{REPO}:q4_0")), lambda _file, _done: None).weights[1]
    second.resolve().unlink()
    second.unlink()
    return parts


def test_parts_of_a_model_whose_other_parts_are_missing_are_deleted(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD)
    parts = pull_half(local)
    with pytest.raises(NotFound, match="is only partly downloaded; delete what is there with: galago gc"):
        removal.remove(parse_ref(f"{REPO}:q4_0"))
    kinds, freed = collect(cache)
    assert set(kinds) == {"partial download"} and freed == len(tiny_file(parts[0]))
    assert installed.find(parse_ref(REPO)).projector and not [*cache.root.rglob("tiny-Q4_0*")]


def test_parts_stay_while_the_others_are_downloaded(local: LocalHub, cache: HubCache) -> None:
    pull_half(local)
    with cache.partial_file(REPO, digest(b"other"), lambda: None):
        assert sum(delete_garbage(cache, item) for item in find_garbage(cache) if item.commit) == 0
    orphan(cache, b"half", ".incomplete")
    assert not [item for item in find_garbage(cache) if item.commit]
    assert [*cache.root.rglob("tiny-Q4_0-00001-of-00002.gguf")]


def test_a_download_that_runs_is_not_disturbed(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD)
    with cache.partial_file(REPO, digest(b"other"), lambda: None) as part:
        part.write_bytes(b"on its way")
        (item,) = find_garbage(cache)
        assert delete_garbage(cache, item) == 0 and part.exists()


def test_files_of_an_imported_model_are_not_garbage(local: LocalHub, cache: HubCache) -> None:
    pull_commits(local, OLD)
    imported.add(discovery.discover(cache.root).models)
    pull_commits(local, NEW)
    lost = orphan(cache, tiny_file("lost"))
    imported.add([imported.ImportedModel("lost", (lost,), None, "x")])
    assert find_garbage(cache) == []


@pytest.mark.parametrize("to_blob", [True, False])
def test_files_to_which_links_of_an_imported_model_lead_are_not_garbage(
    local: LocalHub, cache: HubCache, tmp_path: Path, to_blob: bool
) -> None:
    pull_commits(local, OLD)
    link = tmp_path / "mine/tiny.gguf"
    link.parent.mkdir()
    weights = installed.find(parse_ref(REPO)).weights[0]
    link.symlink_to(weights.resolve() if to_blob else weights)
    imported.add(discovery.discover(link.parent).models)
    pull_commits(local, NEW)
    collect(cache)
    assert link.read_bytes() == OLD[Q8]


def of_another_program(cache: HubCache, name: str, data: bytes) -> Path:
    path = cache.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


OTHERS: dict[str, Callable[[HubCache], Path]] = {
    "a blob that is no GGUF file": lambda cache: orphan(cache, b"safetensors"),
    "a part of huggingface-hub": lambda cache: orphan(cache, b"half", ".incomplete"),
    "a data set's blob": lambda c: of_another_program(c, f"datasets--acme--x/blobs/{'a' * 64}", b"GGUF"),
    "a space's blob": lambda c: of_another_program(c, f"spaces--acme--x/blobs/{'a' * 64}", b"GGUF"),
    "a blob of a model of another format": lambda c: of_another_program(c, f"models--a--b/blobs/{'a' * 64}", b"{}"),
    "an older commit of another format": lambda c: of_another_program(
        c, f"models--a--b/snapshots/{'a' * 40}/model.safetensors", b"x"
    ),
    "a file of an older commit that is no GGUF file": lambda c: of_another_program(
        c, f"models--acme--Tiny-GGUF/snapshots/{'a' * 40}/config.json", b"{}"
    ),
    "a version file": lambda c: of_another_program(c, "version.txt", b"1"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_programs_stay(local: LocalHub, cache: HubCache, kind: str) -> None:
    pull_commits(local, OLD, NEW)
    path = OTHERS[kind](cache)
    collect(cache)
    assert path.exists()
    removal.remove(parse_ref(REPO))
    assert path.exists()


def test_without_links_the_snapshots_files_count(
    local: LocalHub, cache: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    pull_commits(local, OLD)
    assert names() == [f"hf:{REPO}:q8_0"]
    removal.remove(parse_ref(REPO))
    assert files(cache) == [] and names() == []
