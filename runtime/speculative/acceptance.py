"""Guesses an answer's next tokens, and how many guesses are worth computing. Knows only tokens and durations."""

from __future__ import annotations

from typing import NamedTuple

MAX_DRAFT_TOKENS = 8
"""Guessed tokens in a step, of all its sequences together."""


_FIRST_TRUST = 0.6
_FORGOTTEN = 0.001
_NEW = 0.2
"""Weight of a new token in the chance that a guess is right."""

_WORTH = 1.1
"""The gain from which on guesses are computed: with less, noise decides."""

_LASTING = 500
"""Steps after which a duration that was not measured again is forgotten, because it may have changed."""


class AcceptanceRate:
    """How likely a draft model's next guess for a sequence is right. What is not used is forgotten, and tried again."""

    def __init__(self) -> None:
        self.chance = _FIRST_TRUST

    def measured(self, right: bool) -> None:
        self.chance = averaged(self.chance, right, _NEW)

    def rested(self) -> None:
        self.chance = averaged(self.chance, _FIRST_TRUST, _FORGOTTEN)


class DraftProposal(NamedTuple):
    """So many guessed tokens of a sequence, each of them right with this chance if those before it are; making each of
    them takes so many seconds."""

    length: int
    chance: float
    cost: float = 0.0


class DraftLengthPolicy:
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

    def lengths(self, rows: int, offers: list[DraftProposal], most: int) -> list[int]:
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


def averaged(old: float | None, new: float, weight: float = _NEW) -> float:
    return new if old is None else old + weight * (new - old)
