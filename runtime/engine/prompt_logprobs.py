"""How probable the tokens of a prompt are, read on the way to its answer and told before it. Knows no scheduling."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

from ..types.events import Started, TokenLogprob
from ..types.prompt import SampledToken
from .model_runner import ModelRunner
from .scheduler import PromptLogprob
from .sequence import Sequence


def told(chosen: SampledToken, name: Callable[[int], bytes]) -> TokenLogprob:
    """A token with its probability, if that is known."""
    logprob = nan if chosen.logprob is None else chosen.logprob
    return TokenLogprob(name(chosen.token), logprob, tuple((name(t), p) for t, p in chosen.top_logprobs))


def begin(sequence: Sequence, backend: ModelRunner) -> None:
    """Notes the first token of a prompt, if it is to be recited: nothing stands before it."""
    first = sequence.items[0]
    if sequence.recites(0) and isinstance(first, int):
        sequence.recital.append(told(SampledToken(first), backend.name))
        sequence.recited = 1
    _tell(sequence)


def read(recital: PromptLogprob, backend: ModelRunner) -> None:
    """Notes how probable a token of a prompt was."""
    row, sequence, place = recital
    token = sequence.items[place]
    assert isinstance(token, int)
    sequence.recital.append(told(backend.tell(row, token, sequence.sampler), backend.name))
    sequence.recited = place + 1
    _tell(sequence)


def _tell(sequence: Sequence) -> None:
    """Says that an answer begins, unless there is more to tell of its prompt then."""
    prompt = sequence.prompt
    if not sequence.recites(len(prompt.items) - 1):
        sequence.sink(Started(prompt.cells, prompt.warnings, tuple(sequence.recital), prompt.parsing))
