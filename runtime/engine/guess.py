"""Guesses an answer's next tokens, and how many guesses are worth computing. Knows only tokens and durations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..tokens import Item
from .pace import averaged

MOST = 8
"""Guessed tokens in a step, of all its sequences together."""

_ENDS = (3, 2)
"""So many last tokens are looked for in what came before; the longer end first."""

_MEDIA = chr(0x10FFFF)
_FIRST_CHANCE, _FIRST_TRUST = 0.3, 0.6
_FORGOTTEN = 0.001
_NEW = 0.2
"""Weight of a new token in the chance that a guess is right."""

_WORTH = 1.1
"""The gain from which on guesses are computed: with less, noise decides."""

_LASTING = 500
"""Steps after which a duration that was not measured again is forgotten, because it may have changed."""


class Echo:
    """A sequence's tokens, and the earlier place that they seem to repeat.

    Follows that place, whether or not its guesses are computed, so that `chance`, how likely the next token is as
    guessed, is always known. The tokens are the characters of a string, because `str.rfind` searches fastest.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._text = "".join(chr(item) if isinstance(item, int) else _MEDIA for item in items)
        self._next = self._find()
        self.chance = _FIRST_CHANCE

    @property
    def found(self) -> bool:
        """Whether there is anything to guess by."""
        return self._next > 0

    def add(self, token: int) -> None:
        if self._next:
            right = self._text[self._next] == chr(token)
            self.chance = averaged(self.chance, right, _NEW)
            self._next = self._next + 1 if right else 0
        self._text += chr(token)
        self._next = self._next or self._find()

    def guess(self, most: int) -> list[int]:
        """The next tokens if the sequence goes on as it did earlier; a repetition that reaches its end goes round."""
        ahead = self._text[self._next : self._next + most] if self._next else ""
        return [ord(token) for token in (ahead * most)[:most].split(_MEDIA)[0]]

    def _find(self) -> int:
        """Where what followed the last tokens begins, the latest time they came before; 0 if they never did."""
        for length in _ENDS:
            end = self._text[-length:]
            place = self._text.rfind(end, 0, -1)
            if place >= 0 and len(end) == length and _MEDIA not in end:
                return place + length
        return 0


class Trust:
    """How likely a draft model's next guess for a sequence is right. What is not used is forgotten, and tried again."""

    def __init__(self) -> None:
        self.chance = _FIRST_TRUST

    def measured(self, right: bool) -> None:
        self.chance = averaged(self.chance, right, _NEW)

    def rested(self) -> None:
        self.chance = averaged(self.chance, _FIRST_TRUST, _FORGOTTEN)


class Offer(NamedTuple):
    """So many guessed tokens of a sequence, each of them right with this chance if those before it are; making each of
    them takes so many seconds."""

    length: int
    chance: float
    cost: float = 0.0


class Odds:
    """Learns how long a step of so many rows takes, and so, which guesses make more tokens in a second."""

    def __init__(self) -> None:
        self._steps = 0
        self._measured: dict[int, tuple[float, int]] = {}

    def measured(self, rows: int, seconds: float) -> None:
        """Takes note of a step without prompt rows."""
        self._steps += 1
        old = self._measured[rows][0] if rows in self._measured else None
        self._measured[rows] = averaged(old, seconds), self._steps
        self._measured = {n: m for n, m in self._measured.items() if self._steps - m[1] < _LASTING}

    def lengths(self, rows: int, offers: list[Offer], most: int) -> list[int]:
        """How much of each offer to compute beside so many rows, each of which makes a token anyhow; `most` in all.

        A number of rows that was not measured is taken to last no longer than fewer rows, and so gets tried; smaller
        ones come first, lest many be tried that are far too slow.
        """
        lengths = best = [0] * len(offers)
        if rows not in self._measured:
            return best
        seconds = self._measured[rows][0]
        tokens, best_rate = float(rows), _WORTH * rows / seconds
        ranked = sorted((o.chance**i, n) for n, o in enumerate(offers) for i in range(1, o.length + 1))
        making = 0.0
        for count, (chance, n) in enumerate(ranked[: -most - 1 : -1], rows + 1):
            known = count in self._measured
            seconds = self._measured[count][0] if known else seconds
            tokens += chance
            making += offers[n].cost
            lengths = [length + (i == n) for i, length in enumerate(lengths)]
            if tokens / (seconds + making) > best_rate:
                best, best_rate = lengths, tokens / (seconds + making)
                if not known:
                    break
        return best
