"""A fake model runner whose tokens are small numbers: after t comes t + 1, and every answer spells its tokens out."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from galago.models.errors import EngineError
from galago.runtime.speculative.drafting import DraftLengthPolicy, DraftProposal
from galago.runtime.types.prompt import AttentionTile, BatchToken, MediaPayload, MediaSpan, Prompt, SampledToken

END = 90
TILE = AttentionTile(rows=64, speedup=8.0, cost=0.0)


@dataclass(eq=False)
class Cell:
    token: int


class FakeRunner:
    """Keeps what each sequence holds, and checks that rows come in order and fit into the cells."""

    def __init__(self, cells: int = 200, batch: int = 8) -> None:
        self.cells = cells
        self.batch = batch
        self.supports_partial_removal = True
        self.attention_tile = TILE
        self.held: dict[int, list[Cell]] = defaultdict(list)
        self.encoded: list[MediaPayload] = []
        self.computed = 0
        self.steps: list[Any] = []
        self.adapters: list[tuple[float, ...]] = []
        self.fail_at_step: int | None = None
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def use_threads(self, threads: int) -> None:
        self.threads = threads

    def use_adapters(self, scales: tuple[float, ...]) -> None:
        self.adapters.append(scales)

    def decode(self, rows: list[BatchToken]) -> None:
        assert self.gate.wait(10)
        assert 0 < len(rows) <= self.batch
        if self.fail_at_step == len(self.steps):
            raise EngineError("the fake failed")
        self.steps.append(rows)
        self._rows = rows
        for row in rows:
            assert row.position == len(self.held[row.sequence])
            self.held[row.sequence].append(Cell(row.token))
        self.computed += len(rows)
        assert self.cells_in_use() <= self.cells

    def decode_media(self, media: MediaSpan, position: int, sequence: int) -> None:
        self.steps.append(media)
        assert position == len(self.held[sequence]) and media.payload.ready
        self.held[sequence] += [Cell(-1 - sum(media.digest)) for _ in range(media.cells)]
        self.computed += media.cells
        assert self.cells_in_use() <= self.cells

    def cells_in_use(self) -> int:
        """Cells in use; shared cells count once."""
        return len({id(cell) for held in self.held.values() for cell in held})

    def encode_media(self, media: list[MediaPayload]) -> None:
        for one in media:
            assert isinstance(one, FakeMedia)
            one.ready = True
        self.encoded += media

    def sample(self, row: int, sampler: Any) -> SampledToken:
        assert self._rows[row].wants_logits
        return SampledToken(self._rows[row].token + 1)

    def score(self, row: int, token: int, sampler: Any) -> SampledToken:
        """The closer a token is to the one that would be sampled, the more probable it is."""
        assert self._rows[row].wants_logits
        return SampledToken(token, float(-abs(token - self._rows[row].token - 1)))

    def context(self, row: int) -> list[int]:
        """The tokens that the logits of a row of the last step may depend on."""
        return [cell.token for cell in self.held[self._rows[row].sequence][: self._rows[row].position + 1]]

    def truncate(self, sequence: int, position: int) -> None:
        assert self.supports_partial_removal or position in (0, len(self.held[sequence]))
        del self.held[sequence][position:]

    def copy(self, source: int, target: int, position: int) -> None:
        assert not self.held[target]
        assert self.supports_partial_removal or position == len(self.held[source])
        self.held[target] = self.held[source][:position]

    def save(self, sequence: int) -> bytes:
        return json.dumps([cell.token for cell in self.held[sequence]]).encode()

    def restore(self, sequence: int, data: bytes | memoryview) -> bool:
        self.held[sequence] = []
        tokens = json.loads(bytes(data))
        if self.cells_in_use() + len(tokens) > self.cells:
            return False
        self.held[sequence] = [Cell(token) for token in tokens]
        return True

    def piece(self, token: int) -> bytes:
        return f"{token} ".encode()

    def token_bytes(self, token: int) -> bytes:
        return f"{token} ".encode()

    def close(self) -> None:
        self.closed = True


class MaxDrafts(DraftLengthPolicy):
    """Has every draft token verified for which there is room."""

    def lengths(self, rows: int, proposals: list[DraftProposal], limit: int) -> list[int]:
        lengths = []
        for proposal in proposals:
            lengths.append(min(limit, proposal.length))
            limit -= lengths[-1]
        return lengths


class FakeMedia:
    ready = False


def prompt(*items: int | MediaSpan) -> Prompt:
    return Prompt(items)


def image(cells: int, digest: bytes = b"") -> MediaSpan:
    return MediaSpan("image", cells, cells, digest, FakeMedia())
