"""`galago gc`, `list --all` and `rm` on a cache with older commits and a partial download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub import digest, running
from fakes.layouts import tiny_file
from galago.models.hub.cache import PARTIAL_SUFFIX, HubCache
from galago.runtime.cli.main import main

REPO = "acme/Tiny-GGUF"
OLD, NEW = tiny_file("old-Q8_0.gguf"), tiny_file("new-Q8_0.gguf")
PARTIAL = b"half of a file"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubCache]:
    """A cache with two commits of a model and a partial download."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    cache = HubCache(tmp_path / "hub")
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for data in (OLD, NEW):
            hub.put(REPO, {"tiny-Q8_0.gguf": data})
            assert main(["pull", REPO]) == 0
    (cache.folder(REPO) / "blobs" / (digest(PARTIAL) + PARTIAL_SUFFIX)).write_bytes(PARTIAL)
    yield cache


def older(cache: HubCache) -> str:
    (commit,) = [commit for commit in cache.commits(REPO) if commit != cache.commit(REPO, "main")]
    return commit


def blobs(cache: HubCache) -> set[str]:
    return {path.name for path in (cache.folder(REPO) / "blobs").iterdir()}


def test_gc_shows_sizes_and_deletes_only_when_told(capsys: pytest.CaptureFixture[str], cache: HubCache) -> None:
    old, before = older(cache), blobs(cache)
    assert f"Older commits of it take {len(OLD)} B; delete them with: galago gc" in capsys.readouterr().out
    for options in (["--dry-run"], [], ["--json"], ["--dry-run", "--yes"]):
        assert main(["gc", *options]) == 0 and blobs(cache) == before
    shown = capsys.readouterr()
    assert f"hf:{REPO}@{old[:12]} tiny-Q8_0.gguf" in shown.out and "replaced by a newer commit" in shown.out
    assert "partial download; galago pull would resume it" in shown.out and "14 B" in shown.out
    assert "nothing was deleted" in shown.out and "add --yes to delete" in shown.err
    assert main(["gc", "--yes"]) == 0
    assert blobs(cache) == {digest(NEW)} and "deleted, which freed" in capsys.readouterr().out
    assert main(["gc"]) == 0 and "there is nothing to delete" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [True, False])
def test_gc_asks_on_a_terminal(cache: HubCache, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    import typer

    questions: list[str] = []

    def confirm(text: str) -> bool:
        questions.append(text)
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    assert main(["gc"]) == 0
    assert (digest(OLD) not in blobs(cache)) is answer and questions[0].startswith("Delete these files and free ")


def test_gc_prints_json(cache: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--json", "--yes"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["deleted"] and printed["freed"] == printed["size"] == len(OLD) + len(PARTIAL)
    assert {row["kind"] for row in printed["garbage"]} == {"older commit", "partial download"}


def test_list_shows_every_commit_if_asked(cache: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    new = cache.commit(REPO, "main") or ""
    assert main(["list", "--all"]) == 0
    *_tables, commits = capsys.readouterr().out.split("\n\n")
    lines = [line for line in commits.splitlines() if line.startswith("hf:")]
    assert [line.split()[-1] for line in lines] == [new[:12], older(cache)[:12]]
    assert lines[1].startswith(f"hf:{REPO}:q8_0@{older(cache)[:12]} ")


def test_rm_says_what_was_deleted_and_what_remains(cache: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", f"{REPO}@{older(cache)}"]) == 0
    assert f"still installed: hf:{REPO}:q8_0\n" in capsys.readouterr().out
    assert main(["rm", REPO.lower()]) == 0
    assert capsys.readouterr().out.startswith(f"deleted hf:{REPO.lower()}, which freed ")
    assert main(["show", REPO]) == 1


def test_rm_says_how_many_commits_it_deleted(cache: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", REPO]) == 0
    assert capsys.readouterr().out.startswith(f"deleted hf:{REPO} with its 2 commits, which freed ")
