"""Saved measurements: what is damaged is measured again, and two programs that measure the same take turns."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from pathlib import Path

import pytest

from galago.models.errors import ConfigError
from galago.quantize.evaluate.fidelity_job import is_intact
from galago.quantize.evaluate.record_log import Record, RecordLog, exclusive

RECORDS: list[Record] = [{"id": "0.1", "nll": [1.5, 2.25]}, {"id": "\r\u2028", "nll": []}, {"id": "3"}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = RecordLog(tmp_path / "records.jsonl")
    log.extend(RECORDS)
    log.finish()
    return tmp_path / "records.jsonl"


def test_records_are_read_back(path: Path) -> None:
    log = RecordLog(path)
    assert log.records == RECORDS and log.complete


def test_a_changed_or_missing_byte_anywhere_drops_its_record_and_the_later_ones(path: Path) -> None:
    whole = path.read_bytes()
    variants = [whole[:end] for end in range(len(whole))]
    for at, bit in itertools.product(range(len(whole)), range(8)):
        variants.append(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    for data in variants:
        path.write_bytes(data)
        log = RecordLog(path)
        assert log.records == RECORDS[: len(log.records)] and not log.complete


def test_what_was_dropped_is_replaced(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    log = RecordLog(path)
    log.extend(RECORDS[len(log.records) :])
    log.finish()
    again = RecordLog(path)
    assert again.records == RECORDS and again.complete


@pytest.mark.parametrize("kind", ["pipe", "loop"])
def test_what_is_no_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "records.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    log = RecordLog(path)
    assert not log.records
    log.append(RECORDS[0])
    assert RecordLog(path).records == RECORDS[:1]


def test_a_file_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(ConfigError, match="run the same command again to resume"):
        RecordLog(tmp_path / "records.jsonl").append(RECORDS[0])


def test_the_second_of_two_equal_measurements_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order, first_inside = list[str](), threading.Event()

    def measure() -> None:
        with exclusive(tmp_path):
            first_inside.set()
            while "waiting for it" not in "".join(order):
                order.append(capsys.readouterr().err)
            order.append("first ends")

    thread = threading.Thread(target=measure)
    thread.start()
    first_inside.wait()
    with exclusive(tmp_path):
        assert order[-1] == "first ends"
    thread.join()


def test_damage_to_the_baselines_probabilities_is_detected(tmp_path: Path) -> None:
    rows = tmp_path / "baseline.rows"
    assert is_intact(rows, [])
    rows.write_bytes(b"abcdef")
    digests = [hashlib.blake2b(part, digest_size=16).hexdigest() for part in (b"abc", b"def")]
    records = [{"bytes": 3, "digest": digest} for digest in digests]
    assert is_intact(rows, records) and is_intact(rows, records[:1])
    for damaged in (b"abcdeF", b"abcde", b"", b"\0bcdef"):
        rows.write_bytes(damaged)
        assert not is_intact(rows, records)
    rows.unlink()
    assert not is_intact(rows, records)
    os.mkfifo(rows)
    assert not is_intact(rows, records)
