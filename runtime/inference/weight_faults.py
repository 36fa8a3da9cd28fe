"""Finds faults in the weights of a model that can still compute: one sentence for each fault."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...models.errors import ModelError
from ...models.gguf.header import GGUFHeader
from ..llamacpp.vocab import Vocab

_SAME_PROBABILITY_NATS = 1e-3
"""All tokens count as equally likely if the most likely one exceeds their mean by no more than this."""

ONLY_ZEROS = (
    "the model computes only zeros, as if its weights were zeros, so its results are meaningless; download or convert "
    "it again"
)
NO_PREFERENCE = (
    "the model finds all tokens equally likely, as if its weights were zeros, so its answers are meaningless; "
    "download or convert it again"
)
_NO_END_TOKEN = (
    "the model's file names no end token of its vocabulary (tokenizer.ggml.eos_token_id), so an answer ends only at "
    "max_tokens, a stop string or the end of the context"
)
_ONE_EXPERT = (
    "the model has a single expert in each layer, so its router chooses nothing; it may have been extracted from a "
    "larger model"
)


def of_generator(header: GGUFHeader, vocab: Vocab, has_turn_end: bool, best_logprob: float) -> Iterator[str]:
    """Yields the faults of a model that generates text.

    `has_turn_end`: its chat template names an end token. `best_logprob` is that of the most likely first token.
    """
    if finds_all_equally_likely(best_logprob, vocab.vocab_size):
        yield NO_PREFERENCE
    if not vocab.end_tokens and not has_turn_end:
        yield _NO_END_TOKEN
    if header.experts is not None and header.experts.total == 1:
        yield _ONE_EXPERT


def finds_all_equally_likely(best_logprob: float, vocab_size: int) -> bool:
    """Whether the most likely token is no more likely than any other."""
    return best_logprob < _SAME_PROBABILITY_NATS - math.log(vocab_size)


def check_experts(header: GGUFHeader) -> None:
    """Raises `ModelError` if a token cannot be computed by as many experts as the file says: llama.cpp would crash."""
    experts = header.experts
    if experts is not None and not 1 <= experts.used <= experts.total:
        raise ModelError(
            f"{header.path.name} says that {experts.used} of its {experts.total} experts compute each token "
            f"({header.architecture}.expert_used_count), which must be 1 to {experts.total}; download or convert it "
            "again",
            "model",
        )
