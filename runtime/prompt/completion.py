"""Prompts without a chat template, and texts as tokens and back. Control tokens count as what they are.

What is written here is the work of whoever makes the whole prompt, not of a user within a chat.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ...models.errors import InvalidRequest, PromptTooLong
from ..llamacpp.weights import Weights
from ..types.prompt import Prompt
from ..types.request import CompletionPrompt
from ..types.tasks import Detokenize, Tokenize, TokenPieces

LONG = 1_000_000
"""Characters from which on a text is not tokenized if it cannot fit whatever its tokens are."""


class CompletionPrompts:
    """Makes prompts of up to `context_length` tokens, one of them left for an answer, for one model."""

    def __init__(self, weights: Weights, controls: re.Pattern[str] | None, context_length: int) -> None:
        self._weights = weights
        self._controls = controls
        self._context_length = context_length

    def build(self, raw: CompletionPrompt) -> Prompt:
        """Raises `PromptTooLong`, and `InvalidRequest` for ids that are no tokens and what the model cannot fill in."""
        added = 0
        if raw.suffix is not None:
            tokens = self._infill(raw.prompt, raw.suffix)
        elif isinstance(raw.prompt, str):
            given = self.tokens(raw.prompt)
            tokens = self._begun(given)
            added = len(tokens) - len(given)
        else:
            tokens = check_tokens(raw.prompt, self._weights, "prompt")
        if not tokens:
            raise InvalidRequest("the prompt is empty", "prompt")
        self._check_room(len(tokens))
        return Prompt(tuple(tokens), recited=added if raw.recited else None)

    def tokens(self, text: str) -> list[int]:
        """Token by token as llama.cpp has them, stretch by stretch: it takes quadratic time over many control tokens
        in one text."""
        self._check_length(text)
        stretches = cut_before(text, self._controls)
        return [token for stretch in stretches for token in self._weights.tokenize(stretch, parse_special=True)]

    def _infill(self, before: str | tuple[int, ...], behind: str) -> list[int]:
        """What stands before and behind the gap, in the order that most models were trained on."""
        marks = self._weights.infill_tokens
        if marks is None:
            raise InvalidRequest("this model cannot fill in text: it has no tokens for what stands around", "suffix")
        prefix, suffix, middle = marks
        if isinstance(before, str):
            self._check_length(before)
            before = tuple(self._weights.tokenize(before, parse_special=False))
        self._check_length(behind)
        rest = self._weights.tokenize(behind, parse_special=False)
        return self._begun([prefix, *check_tokens(before, self._weights, "prompt"), suffix, *rest, middle])

    def _begun(self, tokens: list[int]) -> list[int]:
        first = self._weights.bos
        return [first, *tokens] if self._weights.adds_bos and tokens[:1] != [first] else tokens

    def _check_length(self, text: str) -> None:
        if len(text) > LONG:
            self._check_room(len(text) // self._weights.longest_piece, "at least ")

    def _check_room(self, tokens: int, how: str = "") -> None:
        if tokens >= self._context_length:
            raise PromptTooLong(
                f"the prompt has {how}{tokens} tokens and the context holds {self._context_length}, of which one must "
                "be left for an answer; shorten it or load the model with a larger context",
                "prompt",
            )


def check_tokens(tokens: Sequence[int], weights: Weights, name: str) -> list[int]:
    """The tokens. Raises `InvalidRequest`, with the field's name, for ids that this vocabulary does not have."""
    for token in tokens:
        if not 0 <= token < weights.vocab_size:
            raise InvalidRequest(f"{name} holds the token {token}; here they are 0 to {weights.vocab_size - 1}", name)
    return list(tokens)


def paired(query: str, document: str, template: str | None, weights: Weights) -> list[int]:
    """A question and a text to score, as the model was trained on them: by its file's template for that, or one behind
    the other, as `[CLS] query [SEP] document [SEP]`. Neither becomes a control token."""
    if template is not None:
        texts = {"{query}": query, "{document}": document}
        cut = re.split(r"(\{query\}|\{document\})", template)
        pieces = (weights.tokenize(texts.get(piece, piece), parse_special=piece not in texts) for piece in cut)
        return [token for tokens in pieces for token in tokens]
    around = weights.tokenize("", parse_special=False, add_special=True)
    ending = around[1:] if weights.adds_bos else around
    between = [] if weights.separator is None else [weights.separator]
    first = weights.tokenize(query, parse_special=False, add_special=True)
    return [*first, *between, *weights.tokenize(document, parse_special=False), *ending]


def spelled(tokens: Iterable[int], weights: Weights) -> tuple[bytes, ...]:
    """What each token stands for, control tokens by their names."""
    return tuple(map(weights.name, tokens))


def translate(task: Tokenize | Detokenize, weights: Weights) -> TokenPieces:
    """A text as tokens, or tokens as what they stand for."""
    if isinstance(task, Detokenize):
        ids = check_tokens(task.tokens, weights, "tokens")
    else:
        assert isinstance(task.text, str)
        ids = weights.tokenize(task.text, parse_special=task.parse_special, add_special=task.add_special)
    return TokenPieces(tuple(ids), spelled(ids, weights))


def cut_before(text: str, controls: re.Pattern[str] | None) -> Iterator[str]:
    """The text cut before each control token."""
    starts = [0, *(match.start() for match in controls.finditer(text))] if controls else [0]
    return (text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True))
