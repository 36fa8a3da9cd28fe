"""Builds prompts without a chat template, and converts text to tokens and back. Control tokens are parsed.

The text comes from the author of the whole prompt, not from a user within a chat, so it may contain control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...models.errors import InvalidRequest, PromptTooLong
from ..llamacpp.weights import Weights
from ..types.prompt import Prompt
from ..types.request import CompletionPrompt
from ..types.tasks import Detokenize, Tokenize, TokenPieces
from .builder import LONG_TEXT_CHARS, split_before, ways_to_fit


class CompletionPrompts:
    """Builds prompts for one model that leave at least one token of `context_length` for the answer."""

    def __init__(self, weights: Weights, control_texts: re.Pattern[str] | None, context_length: int) -> None:
        self._weights = weights
        self._control_texts = control_texts
        self._context_length = context_length

    def build(self, completion: CompletionPrompt) -> Prompt:
        """Builds the prompt. Raises `PromptTooLong`, and `InvalidRequest` for invalid ids or an unsupported suffix."""
        added_tokens = 0
        if completion.suffix is not None:
            tokens = self._infill(completion.prompt, completion.suffix)
        elif isinstance(completion.prompt, str):
            given = self._tokens(completion.prompt)
            tokens = self._with_bos(given)
            added_tokens = len(tokens) - len(given)
        else:
            tokens = check_tokens(completion.prompt, self._weights, "prompt")
        if not tokens:
            raise InvalidRequest("the prompt is empty", "prompt")
        self._check_fits(len(tokens))
        return Prompt(tuple(tokens), logprobs_from=added_tokens if completion.prompt_logprobs else None)

    def _tokens(self, text: str) -> list[int]:
        """Tokenizes piece by piece: llama.cpp takes quadratic time over many control tokens in one text."""
        self._check_length(text)
        pieces = split_before(text, self._control_texts)
        return [token for piece in pieces for token in self._weights.tokenize(piece, parse_special=True)]

    def _infill(self, prefix: str | tuple[int, ...], suffix: str) -> list[int]:
        """The text before and after the gap, in the order that most models were trained on."""
        marks = self._weights.infill_tokens
        if marks is None:
            raise InvalidRequest("this model cannot fill in text: it has no fill-in-the-middle tokens", "suffix")
        prefix_mark, suffix_mark, middle_mark = marks
        if isinstance(prefix, str):
            self._check_length(prefix)
            prefix = tuple(self._weights.tokenize(prefix, parse_special=False))
        self._check_length(suffix)
        before = check_tokens(prefix, self._weights, "prompt")
        after = self._weights.tokenize(suffix, parse_special=False)
        return self._with_bos([prefix_mark, *before, suffix_mark, *after, middle_mark])

    def _with_bos(self, tokens: list[int]) -> list[int]:
        bos = self._weights.bos
        return [bos, *tokens] if self._weights.adds_bos and tokens[:1] != [bos] else tokens

    def _check_length(self, text: str) -> None:
        if len(text) > LONG_TEXT_CHARS:
            self._check_fits(len(text) // self._weights.longest_piece, "at least ")

    def _check_fits(self, tokens: int, qualifier: str = "") -> None:
        if tokens >= self._context_length:
            raise PromptTooLong(
                f"the prompt has {qualifier}{tokens} tokens and the context length is {self._context_length}, of "
                "which one must be left for an answer; " + ways_to_fit("prompt", self._context_length, self._weights),
                "prompt",
            )


def check_tokens(tokens: Sequence[int], weights: Weights, name: str) -> list[int]:
    """The tokens as a list. Raises `InvalidRequest` with the field's name for ids outside the vocabulary."""
    for token in tokens:
        if not 0 <= token < weights.vocab_size:
            raise InvalidRequest(
                f"{name} contains the token id {token}; this model has ids 0 to {weights.vocab_size - 1}", name
            )
    return list(tokens)


def query_document_tokens(query: str, document: str, template: str | None, weights: Weights) -> list[int]:
    """The tokens of a query and a document in the form that a reranker was trained on.

    That is the template in its file, or else `[CLS] query [SEP] document [SEP]`. Neither text is parsed for control
    tokens.
    """
    if template is not None:
        texts = {"{query}": query, "{document}": document}
        parts = re.split(r"(\{query\}|\{document\})", template)
        pieces = (weights.tokenize(texts.get(piece, piece), parse_special=piece not in texts) for piece in parts)
        return [token for tokens in pieces for token in tokens]
    surrounding = weights.tokenize("", parse_special=False, add_special=True)
    ending = surrounding[1:] if weights.adds_bos else surrounding
    separator = [] if weights.separator is None else [weights.separator]
    start = weights.tokenize(query, parse_special=False, add_special=True)
    return [*start, *separator, *weights.tokenize(document, parse_special=False), *ending]


def token_pieces(tokens: Iterable[int], weights: Weights) -> tuple[bytes, ...]:
    """The bytes of each token; control tokens by their names."""
    return tuple(map(weights.token_bytes, tokens))


def translate(task: Tokenize | Detokenize, weights: Weights) -> TokenPieces:
    """Converts a text to tokens, or token ids to their pieces."""
    if isinstance(task, Detokenize):
        ids = check_tokens(task.tokens, weights, "tokens")
    else:
        assert isinstance(task.text, str)
        ids = weights.tokenize(task.text, parse_special=task.parse_special, add_special=task.add_special)
    return TokenPieces(tuple(ids), token_pieces(ids, weights))
