"""Proposes draft tokens, by n-gram lookup or from a draft model, and decides how many are worth verifying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from ..log import RecoveredErrors
from ..types.prompt import Item

if TYPE_CHECKING:
    from .draft_model import DraftModel

MAX_DRAFT_TOKENS = 8
"""Draft tokens in a step, of all its sequences together."""

MAX_MODEL_DRAFT_TOKENS = 4
"""Tokens that the draft model drafts for a sequence in a step. Each takes a step of the draft model and is less likely
to be right than the one before."""

_NEW_WEIGHT = 0.2
"""Weight of a new value in a moving average."""

_NGRAM_LENGTHS = (3, 2)
"""How many of the last tokens are looked up in the text before them. The longer n-gram is tried first."""

_MEDIA = chr(0x10FFFF)
"""Stands for media in an n-gram text."""

_FIRST_NGRAM_ACCEPTANCE = 0.3

_FIRST_MODEL_ACCEPTANCE = 0.6

_IDLE_WEIGHT = 0.001
"""How fast the acceptance rate of an unused draft model returns to its first value, so that it is tried again."""

_MIN_GAIN = 1.1
"""Drafts are verified only if they promise this many times the tokens per second; below that, noise would decide."""

_MAX_AGE_STEPS = 500
"""A duration that was not measured for this many steps is forgotten, because it may have changed."""


def moving_average(old: float | None, new: float, weight: float = _NEW_WEIGHT) -> float:
    return new if old is None else old + weight * (new - old)


class NgramProposer:
    """A sequence's tokens, and the earlier position that they seem to repeat.

    It follows that position even if its proposals are not verified, so that `acceptance`, the probability that the
    next token is as proposed, is always known. The tokens are the characters of a string, because `str.rfind` is the
    fastest search.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._text = "".join(chr(item) if isinstance(item, int) else _MEDIA for item in items)
        self._next = self._find()
        self.acceptance = _FIRST_NGRAM_ACCEPTANCE

    @property
    def has_match(self) -> bool:
        """Whether the last tokens occurred before, so that there is something to propose."""
        return self._next > 0

    def add(self, token: int) -> None:
        if self._next:
            correct = self._text[self._next] == chr(token)
            self.acceptance = moving_average(self.acceptance, correct)
            self._next = self._next + 1 if correct else 0
        self._text += chr(token)
        self._next = self._next or self._find()

    def propose(self, limit: int) -> list[int]:
        """The next tokens if the sequence continues as before. A repetition that reaches its own end is continued."""
        ahead = self._text[self._next : self._next + limit] if self._next else ""
        return [ord(token) for token in (ahead * limit)[:limit].split(_MEDIA)[0]]

    def _find(self) -> int:
        """Index after the latest earlier occurrence of the last tokens; 0 if there is none."""
        for length in _NGRAM_LENGTHS:
            ngram = self._text[-length:]
            place = self._text.rfind(ngram, 0, -1)
            if place >= 0 and len(ngram) == length and _MEDIA not in ngram:
                return place + length
        return 0


class AcceptanceRate:
    """Probability that a draft model's next token for one sequence is right."""

    def __init__(self) -> None:
        self.value = _FIRST_MODEL_ACCEPTANCE

    def record(self, accepted: bool) -> None:
        self.value = moving_average(self.value, accepted)

    def record_unused(self) -> None:
        self.value = moving_average(self.value, _FIRST_MODEL_ACCEPTANCE, _IDLE_WEIGHT)


class DraftProposal(NamedTuple):
    """Draft tokens that a sequence could get: how many, how probably each is right if those before it are, and how
    many seconds it takes to make one."""

    length: int
    acceptance: float
    seconds: float = 0.0


class DraftLengthPolicy:
    """Learns how long steps of each size take, and from that how many draft tokens raise the tokens per second."""

    def __init__(self) -> None:
        self._steps = 0
        self._durations: dict[int, tuple[float, int]] = {}
        """Average seconds by the number of rows, and the step when they were last measured."""

    def record(self, rows: int, seconds: float) -> None:
        """Records the duration of a step without prompt rows."""
        self._steps += 1
        old = self._durations[rows][0] if rows in self._durations else None
        self._durations[rows] = moving_average(old, seconds), self._steps
        self._durations = {n: m for n, m in self._durations.items() if self._steps - m[1] < _MAX_AGE_STEPS}

    def lengths(self, rows: int, proposals: list[DraftProposal], limit: int) -> list[int]:
        """How many tokens of each proposal to verify, at most `limit` together, in a step that already has `rows`.

        A step size that was not measured is assumed to take no longer than the next smaller one, so that it gets
        tried. Smaller sizes are tried first, because larger ones may be far too slow.
        """
        lengths = best = [0] * len(proposals)
        if rows not in self._durations:
            return best
        seconds = self._durations[rows][0]
        tokens, best_rate = float(rows), _MIN_GAIN * rows / seconds
        ranked = sorted((p.acceptance**i, n) for n, p in enumerate(proposals) for i in range(1, p.length + 1))
        draft_seconds = 0.0
        for count, (probability, n) in enumerate(ranked[: -limit - 1 : -1], rows + 1):
            is_measured = count in self._durations
            seconds = self._durations[count][0] if is_measured else seconds
            tokens += probability
            draft_seconds += proposals[n].seconds
            lengths = [length + (i == n) for i, length in enumerate(lengths)]
            if tokens / (seconds + draft_seconds) > best_rate:
                best, best_rate = lengths, tokens / (seconds + draft_seconds)
                if not is_measured:
                    break
        return best


class DraftTarget(Protocol):
    """A sequence for which tokens can be drafted."""

    ngram: NgramProposer
    draft_acceptance: AcceptanceRate | None

    @property
    def items(self) -> list[Item]: ...
    @property
    def slot_number(self) -> int: ...
    @property
    def max_draft_tokens(self) -> int: ...


T = TypeVar("T", bound=DraftTarget)


class DraftRequest(NamedTuple):
    """Asks a draft model for up to `limit` tokens after these items, which are those of the sequence in `slot`."""

    slot: int
    items: Sequence[Item]
    limit: int


class Draft(NamedTuple):
    tokens: list[int]
    from_model: bool


class Drafter:
    """Drafts tokens for sequences: by n-gram lookup where it finds a match, else from the draft model, if any."""

    def __init__(self, model: DraftModel | None = None) -> None:
        self.policy = DraftLengthPolicy()
        self.errors = RecoveredErrors()
        self._model = model

    def can_draft(self, sequence: DraftTarget) -> bool:
        return self._model is not None or sequence.ngram.has_match

    def propose(self, sequences: Sequence[T], rows: int, limit: int) -> Mapping[T, Draft]:
        """Draft tokens for sequences that run in a step of `rows`, at most `limit` together."""
        ngrams = {s: s.ngram.propose(min(limit, s.max_draft_tokens)) for s in sequences if s.ngram.has_match}
        proposals = [self._proposal(s, ngrams.get(s), limit) for s in sequences]
        lengths = dict(zip(sequences, self.policy.lengths(rows, proposals, limit), strict=True))
        drafts = {s: Draft(tokens[: lengths[s]], False) for s, tokens in ngrams.items()}
        if self._model is not None:
            drafts |= self._model_drafts(self._model, {s: n for s, n in lengths.items() if s not in ngrams})
        return drafts

    def _proposal(self, sequence: T, tokens: list[int] | None, limit: int) -> DraftProposal:
        if tokens is not None:
            return DraftProposal(len(tokens), sequence.ngram.acceptance)
        assert self._model is not None
        acceptance = sequence.draft_acceptance = sequence.draft_acceptance or AcceptanceRate()
        length = min(limit, MAX_MODEL_DRAFT_TOKENS, sequence.max_draft_tokens)
        return DraftProposal(length, acceptance.value, self._model.token_seconds)

    def _model_drafts(self, model: DraftModel, lengths: dict[T, int]) -> dict[T, Draft]:
        requests = []
        for sequence, length in lengths.items():
            if length > 0:
                requests.append(DraftRequest(sequence.slot_number, sequence.items, length))
            elif sequence.draft_acceptance is not None:
                sequence.draft_acceptance.record_unused()
        try:
            tokens = model.draft(requests) if requests else {}
        except BaseException as error:  # answers do not depend on drafts
            self.errors.record("draft tokens", error)
            tokens = {}
        return {s: Draft(tokens[s.slot_number], True) for s in lengths if s.slot_number in tokens}

    def use_threads(self, threads: int) -> None:
        if self._model is not None:
            try:
                self._model.use_threads(threads)
            except BaseException as error:
                self.errors.record("set the threads of the draft model", error)

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
