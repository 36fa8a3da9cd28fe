"""Proposes draft tokens by n-gram lookup: what followed the last tokens when they came before."""

from __future__ import annotations

from collections.abc import Iterable

from ..types.prompt import Item
from .acceptance import averaged

_ENDS = (3, 2)
"""So many last tokens are looked for in what came before; the longer end first."""


_MEDIA = chr(0x10FFFF)


_FIRST_CHANCE = 0.3
_NEW = 0.2
"""Weight of a new token in the chance that a guess is right."""


class NgramProposer:
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
