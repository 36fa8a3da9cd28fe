"""Enforces a JSON schema on an answer, token by token, with llguidance. Knows no requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError, InvalidRequest
from .dialects.notation import SPACING


class Grammar:
    """One answer's progress through a grammar; a `Constraint` for the sampler."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)
        self._vocab_size = vocab_size

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits of every token the grammar does not allow next to minus infinity."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise EngineError(f"the grammar cannot go on: {_first_line(self._matcher.get_error())}")
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocab_size]
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Takes note of the token that was chosen."""
        if not self._matcher.consume_token(token):
            raise EngineError(f"the grammar refuses a token it allowed: {_first_line(self._matcher.get_error())}")


def _first_line(text: str) -> str:
    """llguidance puts a dump of its parser's state behind the reason."""
    return text.split("\n", 1)[0]


def json_rule(schema: dict[str, Any] | bool) -> str:
    """A schema as an expression within a grammar, for JSON text spaced as `json.dumps` does."""
    known = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    return "%json " + json.dumps({"x-guidance": SPACING, **known})


class GrammarCompiler:
    """Compiles schemas for one vocabulary, which is handed over only when the first schema comes."""

    def __init__(
        self, vocabulary: Callable[[], tuple[list[bytes], list[int]]], pointers: Callable[[], tuple[int, int]]
    ) -> None:
        self._vocabulary = vocabulary
        self._pointers = pointers
        self._tokenizer: Any = None
        self._vocab_size = 0

    def json(self, schema: dict[str, Any] | bool) -> Grammar:
        """A grammar for JSON text that the schema allows, spaced as `json.dumps` does.

        Raises `InvalidRequest` naming what cannot be enforced: a schema is enforced whole or refused.
        """
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(schema),
                overrides=SPACING,
            )
            matcher = LLMatcher(self._load_tokenizer(), grammar, log_level=0)
        except (TypeError, ValueError, RecursionError) as error:
            reason = _first_line(str(error))
            raise InvalidRequest(f"the JSON schema cannot be enforced: {reason}", "json_schema") from error
        if matcher.is_error():
            reason = _first_line(matcher.get_error())
            raise InvalidRequest(f"the JSON schema cannot be enforced: {reason}", "json_schema")
        return Grammar(matcher, self._vocab_size)

    def lark(self, text: str) -> Grammar:
        """A grammar given in llguidance's Lark. Raises `InvalidRequest` for one that cannot be enforced."""
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(self._load_tokenizer(), LLMatcher.grammar_from_lark(text), log_level=0)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(_first_line(str(error))) from error
        if matcher.is_error():
            raise InvalidRequest(_first_line(matcher.get_error()))
        return Grammar(matcher, self._vocab_size)

    def _load_tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            tokens, end = self._vocabulary()
            vocab, tokenize = self._pointers()
            self._vocab_size = len(tokens)
            self._tokenizer = LLTokenizer.from_llamacpp(
                tokens=tokens, vocab_ptr=vocab, tokenize_fptr=tokenize, eos_token=end, slices=None
            )
        return self._tokenizer
