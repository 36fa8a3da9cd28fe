"""Output files: complete or absent, and equal commands at once all succeed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes import checkpoints
from galago.models.errors import ConfigError
from galago.models.gguf.reader import read_header
from galago.models.kept_file import locked_beside
from galago.models.registry.resolve import builtin_folder
from galago.quantize.output_file import check_target, output_file

TEXT = builtin_folder() / "text-F16.gguf"


def write(target: Path, content: bytes, force: bool = False) -> None:
    with output_file(target, force) as part:
        part.write_bytes(content)


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    with output_file(target, force=False) as part:
        part.write_bytes(b"a")
        assert not target.exists() and part.parent == tmp_path
    assert target.read_bytes() == b"a" and list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()
    with pytest.raises(ZeroDivisionError), output_file(target, force=True) as part:
        part.write_bytes(b"b" + bytes(1 // 0))
    assert target.read_bytes() == b"a" and list(tmp_path.iterdir()) == [target]


def umask() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("Umask:")[2].split()[0], 8)


def test_what_another_program_wrote_meanwhile_is_kept_unless_it_is_equal_or_forced(tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    write(target, b"a")
    write(target, b"a")
    with pytest.raises(ConfigError, match="already exists; use --force"):
        write(target, b"b")
    assert target.read_bytes() == b"a"
    write(target, b"b", force=True)
    assert target.read_bytes() == b"b" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("name", "words"), [("none/x", "there is no folder"), ("folder", "is a folder"), ("pipe", "is not a file"),
                        ("x", "already exists"), ("source", "is the model itself")],
)  # fmt: skip
def test_a_target_that_cannot_be_written_is_refused_with_the_reason(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for file in ("x", "source"):
        (tmp_path / file).touch()
    with pytest.raises(ConfigError, match=words):
        check_target(tmp_path / name, force=name != "x", sources=[tmp_path / "source"])


def test_many_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    target, failures = tmp_path / "x.gguf", list[BaseException]()

    def work() -> None:
        try:
            for _ in range(5):
                write(target, b"same" * 1000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def quantize(folder: Path) -> tuple[list[object], Path]:
    return ["quantize", TEXT, "--scheme", "Q8_0"], folder / "out.gguf"


def calibrate(folder: Path) -> tuple[list[object], Path]:
    (folder / "text.txt").write_text("What day comes after Monday? Tuesday. " * 40)
    return ["calibrate", TEXT, "--data", folder / "text.txt", "--chunks", "2"], folder / "out.gguf.part"


def convert(folder: Path) -> tuple[list[object], Path]:
    checkpoints.decoder(folder / "checkpoint")
    return ["convert", folder / "checkpoint"], folder / "out.gguf"


@pytest.mark.parametrize("prepare", [quantize, calibrate, convert])
def test_two_equal_commands_at_once_both_succeed(
    tmp_path: Path, prepare: Callable[[Path], tuple[list[object], Path]]
) -> None:
    arguments, locked = prepare(tmp_path)
    before = set(tmp_path.iterdir())
    command = [sys.executable, "-m", "galago.runtime.cli.main", *map(str, arguments), "-o", str(tmp_path / "out.gguf")]
    with locked_beside(locked, "the test"):
        both = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for process in both:
            assert process.stderr and "; waiting for it" in process.stderr.readline()
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out.gguf"}
    assert read_header(tmp_path / "out.gguf").tensors
