"""What is as large as a limit allows is done, and what exceeds it is refused with an error that names the limit."""

from __future__ import annotations

import multiprocessing

import pytest

from galago.models.errors import EngineError
from galago.runtime.process.channel import BufferedChannel, encode
from galago.runtime.process.messages import TaskDone
from galago.runtime.types.tasks import Vectors

# result_bytes


def test_a_result_may_be_as_large_as_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    result, larger = (TaskDone(0, Vectors(bytes(size), 1, 1)) for size in (1000, 1001))
    monkeypatch.setenv("GALAGO_LIMIT_RESULT_BYTES", str(len(encode(result)) + 5))  # a list of messages
    here, there = multiprocessing.Pipe()
    channel = BufferedChannel(here)
    assert channel.encode(result)
    with pytest.raises(EngineError, match="result_bytes"):
        channel.encode(larger)
    channel.close()
    there.close()
