"""A backend whose tokens are small numbers: the next token after t is t + 1, and every answer spells it out."""

from __future__ import annotations

import threading
from collections import defaultdict

from galago.models.errors import EngineError
from galago.runtime.values import MediaSpan, Prompt, Row

END = 90


class FakeBackend:
    """Keeps what each sequence holds, and checks that rows come in order, within the cells there are."""

    def __init__(self, cells: int = 200, batch: int = 8) -> None:
        self.cells = cells
        self.batch = batch
        self.held: dict[int, list[int]] = defaultdict(list)
        self.steps: list[list[Row] | MediaSpan] = []
        self.adapters: list[tuple[float, ...]] = []
        self.fail_at_step: int | None = None
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def use_adapters(self, scales: tuple[float, ...]) -> None:
        self.adapters.append(scales)

    def decode(self, rows: list[Row]) -> None:
        assert self.gate.wait(10)
        assert 0 < len(rows) <= self.batch
        if self.fail_at_step == len(self.steps):
            raise EngineError("the fake failed")
        self.steps.append(rows)
        self._rows = rows
        for row in rows:
            assert row.position == len(self.held[row.sequence])
            self.held[row.sequence].append(row.token)
        assert sum(map(len, self.held.values())) <= self.cells

    def decode_media(self, media: MediaSpan, position: int, sequence: int) -> None:
        self.steps.append(media)
        assert position == len(self.held[sequence])
        self.held[sequence] += [-1] * media.cells

    def choose(self, row: int, sampler: None) -> int:
        assert self._rows[row].wants_logits
        return self._rows[row].token + 1

    def forget(self, sequence: int) -> None:
        self.held.pop(sequence, None)

    def piece(self, token: int) -> bytes:
        return f"{token} ".encode()

    def close(self) -> None:
        self.closed = True


def prompt(*pieces: int | MediaSpan) -> Prompt:
    """A prompt of single tokens and media, neighbouring tokens joined as in a real one."""
    joined: list[tuple[int, ...] | MediaSpan] = []
    for piece in pieces:
        if isinstance(piece, int) and joined and isinstance(joined[-1], tuple):
            joined[-1] += (piece,)
        else:
            joined.append((piece,) if isinstance(piece, int) else piece)
    return Prompt(tuple(joined))


def picture(cells: int) -> MediaSpan:
    return MediaSpan("image", cells, cells, None)
