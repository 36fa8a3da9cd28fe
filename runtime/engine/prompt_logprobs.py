"""Collects prompt-token log-probabilities during prefill, only for requests that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

from ..types.events import TokenLogprob
from ..types.prompt import SampledToken
from .model_runner import ModelRunner
from .scheduler import PromptLogprobRow
from .sequence import Sequence


def token_logprob(sampled: SampledToken, token_bytes: Callable[[int], bytes]) -> TokenLogprob:
    """A token with its log-probability; NaN if that is unknown."""
    logprob = nan if sampled.logprob is None else sampled.logprob
    top = tuple((token_bytes(token), value) for token, value in sampled.top_logprobs)
    return TokenLogprob(token_bytes(sampled.token), logprob, top)


def collect_first(sequence: Sequence, runner: ModelRunner) -> bool:
    """Adds the first token of a prompt, which has no log-probability. Returns whether the prompt is complete."""
    first = sequence.items[0]
    if sequence.wants_logprob(0) and isinstance(first, int):
        sequence.prompt_logprobs.append(token_logprob(SampledToken(first), runner.token_bytes))
        sequence.next_logprob = 1
    return not sequence.wants_logprob(len(sequence.prompt.items) - 1)


def collect(row: PromptLogprobRow, runner: ModelRunner) -> bool:
    """Adds the log-probability of one prompt token. Returns whether the prompt is complete."""
    sequence = row.sequence
    token = sequence.items[row.item_index]
    assert isinstance(token, int)
    sampled = runner.score(row.row, token, sequence.sampler)
    sequence.prompt_logprobs.append(token_logprob(sampled, runner.token_bytes))
    sequence.next_logprob = row.item_index + 1
    return not sequence.wants_logprob(len(sequence.prompt.items) - 1)
