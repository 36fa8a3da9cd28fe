"""Lets four writers and four readers use each kind of kept file at once, and counts lost updates and partial reads.

    scripts/check kept_files [SECONDS] [--kind KIND]        default: 60 seconds for all kinds together

Writers and readers are processes. Exits with 1 if an update is lost, a reader sees content that no writer wrote, or a
temporary file is left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galago.models.errors import GalagoError
from galago.models.hub.cache import HubCache
from galago.models.json_file import JsonFile, unseal
from galago.models.kept_file import TEMPORARY_SUFFIX
from galago.quantize.evaluate.record_log import RecordLog, exclusive
from galago.quantize.output_file import output_file
from galago.runtime.cache.disk_cache import DiskCache
from galago.runtime.cache.prefix_cache import CachedPrefix, PrefixCache

WRITERS = READERS = 4
_STOP = "stop"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    `write` makes the update `number` of a writer. `read` returns what is wrong with what it sees, or "". `lost` returns
    how many of the updates that the writers counted are not there at the end.
    """

    write: Callable[[Path, int, int], None]
    read: Callable[[Path], str]
    lost: Callable[[Path, list[int]], int] = lambda _folder, _counts: 0


def _counts(folder: Path, durable: bool = False) -> JsonFile[dict[str, int]]:
    return JsonFile(folder / f"counts-{durable}.json", dict, dict, durable=durable)


def _json_kind(durable: bool) -> Kind:
    def write(folder: Path, writer: int, number: int) -> None:
        _counts(folder, durable).update(lambda rows: {**rows, str(writer): rows.get(str(writer), 0) + 1})

    def read(folder: Path) -> str:
        try:
            unseal(_counts(folder, durable).path.read_bytes())
        except FileNotFoundError:
            return ""
        except ValueError as error:
            return str(error)
        return ""

    def lost(folder: Path, counts: list[int]) -> int:
        return sum(counts) - sum(_counts(folder, durable).read().values())

    return Kind(write, read, lost)


def _append(folder: Path, writer: int, number: int) -> None:
    with exclusive(folder):
        RecordLog(folder / "records.jsonl").append({"writer": writer, "number": number})


def _read_records(folder: Path) -> str:
    seen: dict[int, int] = {}
    for record in RecordLog(folder / "records.jsonl").records:
        if record["number"] != seen.get(record["writer"], -1) + 1:
            return f"record {record} follows {seen}"
        seen[record["writer"]] = record["number"]
    return ""


def _cells(number: int) -> bytes:
    return number.to_bytes(4, "little") * (1 << 14)


def _open_cache(folder: Path) -> DiskCache:
    return DiskCache(folder / "cache", ["a model"], 4 << 20, lambda _: None)


def _write_prefix(folder: Path, writer: int, number: int) -> None:
    disk = _open_cache(folder)
    PrefixCache(0, disk).store(CachedPrefix([number % 50] * 40, (), _cells(number % 50)))
    disk.close()


def _read_prefix(folder: Path) -> str:
    disk = _open_cache(folder)
    prefixes = PrefixCache(0, disk)
    wrong = ""
    for number in range(50):
        found, shared = prefixes.find([number] * 40, ())
        data = prefixes.read(found) if found and shared == 40 else None
        if data is not None and bytes(data) != _cells(number):
            wrong = f"the prefix {number} has other cells"
    disk.close()
    return wrong


def _write_output(folder: Path, writer: int, number: int) -> None:
    with output_file(folder / "made.gguf", force=True) as part:
        part.write_bytes(_cells(number))


def _read_output(folder: Path) -> str:
    try:
        data = (folder / "made.gguf").read_bytes()
    except FileNotFoundError:
        return ""
    return "" if len(data) == 1 << 16 and data == data[:4] * (1 << 14) else f"{len(data)} bytes of several writers"


def _write_revision(folder: Path, writer: int, number: int) -> None:
    HubCache(folder).set_revision("owner/name", "main", f"{writer}" * 40)


def _read_revision(folder: Path) -> str:
    found = HubCache(folder).commit("owner/name", "main")
    path = HubCache(folder).folder("owner/name") / "refs/main"
    return "" if found or not path.exists() else f"{path.read_text()!r} is no commit"


KINDS = {
    "measurements (JSON that is a cache)": _json_kind(durable=False),
    "imported models (JSON that is durable)": _json_kind(durable=True),
    "records of evaluations": Kind(
        _append, _read_records, lambda folder, counts: sum(counts) - len(RecordLog(folder / "records.jsonl").records)
    ),
    "prefixes and embeddings": Kind(_write_prefix, _read_prefix),
    "output files": Kind(_write_output, _read_output),
    "revisions of the Hub's cache": Kind(_write_revision, _read_revision),
}


@dataclass(frozen=True)
class Outcome:
    writes: int
    reads: int
    lost: int
    wrong: list[str]
    left: list[str]

    @property
    def ok(self) -> bool:
        return not (self.lost or self.wrong or self.left)


def run(kind: str, folder: Path, seconds: float, writes: int) -> Outcome:
    """Lets all processes work until the time is up or each writer has made its `writes`. They start together."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "checks.kept_files", "--work", kind, str(folder), str(seconds), str(writes)]
    roles = [*range(WRITERS), *[-1] * READERS]
    children = [_started([*command, str(role)]) for role in roles]
    _begin(children)
    results: list[Any] = [json.loads(child.communicate()[0] or "null") for child in children[:WRITERS]]
    (folder / _STOP).touch()
    results += [json.loads(child.communicate()[0] or "null") for child in children[WRITERS:]]
    wrong = [text for result in results if result for text in result["wrong"]]
    wrong += [f"a process exited with {child.returncode}" for child in children if child.returncode]
    counts = [result["count"] if result else 0 for result in results]
    left = [path.name for path in folder.rglob(f"*{TEMPORARY_SUFFIX}")]
    lost = KINDS[kind].lost(folder, counts[:WRITERS])
    return Outcome(sum(counts[:WRITERS]), sum(counts[WRITERS:]), lost, wrong, left)


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _begin(children: list[subprocess.Popen[str]]) -> None:
    """Waits until each child is ready, so that no writer is done before a reader has started."""
    for child in children:
        assert child.stdout
        child.stdout.readline()
    for child in children:
        assert child.stdin
        child.stdin.write("begin\n")
        child.stdin.flush()


def _work(kind: str, folder: Path, seconds: float, writes: int, role: int) -> None:
    count, wrong = 0, list[str]()
    print("ready", flush=True)
    sys.stdin.readline()
    deadline = time.monotonic() + seconds
    if role >= 0:
        while count < writes and time.monotonic() < deadline:
            KINDS[kind].write(folder, role, count)
            count += 1
    else:
        while not count or not (folder / _STOP).exists():
            try:
                text = KINDS[kind].read(folder)
            except (OSError, GalagoError, ValueError) as error:
                text = repr(error)
            wrong += [text] if text and len(wrong) < 10 else []
            count += 1
    print(json.dumps({"count": count, "wrong": wrong}))


def check(seconds: float, writes: int, kinds: list[str]) -> Iterator[tuple[str, Outcome]]:
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name:
            yield kind, run(kind, Path(name) / "kept", seconds / len(kinds), writes)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--work"]:
        kind, folder, seconds, writes, role = arguments[1:]
        _work(kind, Path(folder), float(seconds), int(writes), int(role))
        return 0
    parser = argparse.ArgumentParser("scripts/check kept_files", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    options = parser.parse_args(arguments)
    ok = True
    for kind, outcome in check(options.seconds, 1 << 60, [options.kind] if options.kind else list(KINDS)):
        ok &= outcome.ok
        print(
            f"{kind}: {outcome.writes} writes, {outcome.reads} reads; {outcome.lost} lost, {len(outcome.wrong)} wrong "
            f"{outcome.wrong[:3] or ''}, {len(outcome.left)} temporary files left",
            flush=True,
        )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
