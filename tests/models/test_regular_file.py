"""Only regular files are opened, without waiting for anything else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from galago.models import regular_file
from galago.models.fingerprint import fingerprint
from galago.models.hub.download import file_digest
from galago.models.regular_file import check_regular, open_regular, read_text


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"a\r\nb")
    link.symlink_to(path)
    with open_regular(link) as file:
        assert file.read() == b"a\r\nb"
    assert read_text(link) == "a\nb" and check_regular(link).st_size == 4


@pytest.mark.parametrize("kind", ["a named pipe", "a directory", "a socket", "a device"])
def test_anything_else_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path, listener = tmp_path / "x", socket.socket(socket.AF_UNIX)
    match kind:
        case "a named pipe":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case "a socket":
            listener.bind(str(path))
        case _:
            path.symlink_to("/dev/zero")
    for reads in (open_regular, read_text, check_regular, fingerprint, lambda path: file_digest(path, "0" * 64)):
        with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
            reads(path)
    listener.close()


def test_a_pipe_that_takes_a_files_place_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(regular_file, "check_regular", lambda path: None)
    with pytest.raises(OSError, match="it is a named pipe"):
        open_regular(tmp_path / "pipe")
