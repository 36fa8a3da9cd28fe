"""Assembles an answer's text from token bytes: whole characters only, cut at a stop string. Knows no tokens."""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class Detokenizer:
    """`feed` bytes, get the text that is certain; `finish` releases what was held back.

    The result does not depend on how the bytes were split: the answer ends before the stop string that is complete
    first (the longest one where several end at the same place).
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped_by: str | None = None
        """The stop string that ended it."""
        self.cut_off = 0
        """Bytes at the end of what was fed that the stop string, and what came behind it, took away."""

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def feed(self, data: bytes) -> str:
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data)
        return self._release()

    def finish(self) -> str:
        """The rest of the text; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        text = self._release()
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self) -> str:
        found = self._first_stop()
        if found is not None:
            cut, self.stopped_by = found
            self.cut_off = len(self._held[cut:].encode())
            text, self._held = self._held[:cut], ""
            return text
        keep = self._possible_stop()
        split = len(self._held) - keep
        text, self._held = self._held[:split], self._held[split:]
        return text

    def _first_stop(self) -> tuple[int, str] | None:
        found = [(at + len(s), at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        return min(found)[1:] if found else None

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that could be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=0) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(s.startswith(tail) for s in self._stop):
                return length
        return 0
