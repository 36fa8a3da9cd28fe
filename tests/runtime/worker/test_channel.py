"""Channels between two processes: what goes over together, and what does not wait."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator

import pytest

from galago.runtime.process import channel
from galago.runtime.process.channel import Channel
from galago.runtime.process.messages import Heartbeat, LoadProgress
from galago.runtime.types.model_info import Stats


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = multiprocessing.Pipe()
    ends = Channel(here), Channel(there)
    yield ends
    for end in ends:
        end.close()


def test_messages_that_are_not_urgent_go_over_together(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "COMPANY", 1.0)
    here, there = ends
    pieces = [LoadProgress(i / 4) for i in range(4)]
    for piece in pieces:
        here.send(piece, urgent=False)
    assert there.receive() == pieces


def test_an_urgent_message_takes_along_what_waits(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "COMPANY", 60.0)
    here, there = ends
    begin = time.monotonic()
    here.send(LoadProgress(0.5), urgent=False)
    here.send(Heartbeat(Stats()))
    came = there.receive(30)
    if len(came) == 1:  # the writer had gone already
        came += there.receive(30)
    assert came == [LoadProgress(0.5), Heartbeat(Stats())]
    assert time.monotonic() - begin < 30


def test_nothing_waits_long_for_company(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send(LoadProgress(0.5), urgent=False)
    assert there.receive(5) == [LoadProgress(0.5)]
