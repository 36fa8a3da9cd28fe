"""Channels between two processes: what is sent together, and what does not wait."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator

import pytest

from galago.runtime.process import channel
from galago.runtime.process.channel import BufferedChannel, Channel
from galago.runtime.process.messages import Cancel, Heartbeat, LoadProgress, RunTask
from galago.runtime.types.model_info import Stats


@pytest.fixture
def ends() -> Iterator[tuple[BufferedChannel, Channel]]:
    here, there = multiprocessing.Pipe()
    ends = BufferedChannel(here), Channel(there)
    yield ends
    for end in ends:
        end.close()


def test_messages_that_are_not_urgent_are_sent_together(
    ends: tuple[BufferedChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "COALESCE_SECONDS", 1.0)
    here, there = ends
    pieces = [LoadProgress(i / 4) for i in range(4)]
    for piece in pieces:
        here.send(piece, urgent=False)
    assert there.receive() == pieces


def test_an_urgent_message_is_sent_with_those_held_back(
    ends: tuple[BufferedChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "COALESCE_SECONDS", 60.0)
    here, there = ends
    begin = time.monotonic()
    here.send(LoadProgress(0.5), urgent=False)
    here.send(Heartbeat(Stats(), 0.0))
    came = there.receive(30)
    if len(came) == 1:  # the first was written already
        came += there.receive(30)
    assert came == [LoadProgress(0.5), Heartbeat(Stats(), 0.0)]
    assert time.monotonic() - begin < 30


def test_a_message_is_not_held_back_for_long(ends: tuple[BufferedChannel, Channel]) -> None:
    here, there = ends
    here.send(LoadProgress(0.5), urgent=False)
    assert there.receive(5) == [LoadProgress(0.5)]


def test_a_posted_message_is_written_by_the_thread_that_writes_now() -> None:
    here, there = multiprocessing.Pipe()
    large, small = Channel(here), Channel(there)
    sending = threading.Thread(target=large.send, args=(RunTask(0, bytes(8 << 20)),))
    sending.start()  # blocks, because nobody reads
    while not large._writing.locked():
        time.sleep(0.001)
    large.post(Cancel(0))
    assert sending.is_alive()
    received = small.receive(30) + small.receive(30)
    sending.join(30)
    assert [type(message) for message in received] == [RunTask, Cancel]
    large.close()
    small.close()


def test_sending_to_a_side_that_is_gone_does_nothing() -> None:
    here, there = multiprocessing.Pipe()
    there.close()
    channel = Channel(here)
    channel.send(Cancel(0))
    channel.post(Cancel(0))
    channel.close()
