"""Enforces a JSON schema, a regular expression or a grammar on an answer, token by token. Knows no requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....models.errors import InvalidRequest
from ..tool_formats.notation import SPACING
from .json_schema import enforceable

_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_LONGEST = 300
_NO_SCHEMA = "the JSON schema cannot be enforced"
_WORDS = {
    "coerce_one_of": "oneOf is enforced only where its alternatives cannot both fit; tell them apart, or use anyOf",
    "integer range": "minimum or maximum is beyond what whole numbers can be held to",
    "egex is empty": "no text fits pattern, format and lengths together, or none can be found",
    "regex": "pattern: ",
}
"""By what llguidance's message about a schema holds, what to say instead, or before it where this ends in a space."""

_ALLOWED = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_ADDED = np.where(_ALLOWED, 0, -np.inf).astype(np.float32)
"""For each byte of a mask what to add to the logits of its eight tokens."""


class Grammar:
    """One answer's progress through a grammar; a `Constraint` for the sampler.

    Raises `InvalidRequest` naming the request's `field` where the grammar turns out to be too complex for llguidance,
    whose limits keep a step below about 0.1 s.
    """

    def __init__(
        self, matcher: Any, tokenizer: Any, vocab_size: int, field: str, warnings: tuple[str, ...] = ()
    ) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)
        self._added = np.empty((self._bits.nbytes, 8), np.float32)
        self._vocab_size = vocab_size
        self._field = field
        self.warnings = warnings

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits of every token the grammar does not allow next to minus infinity.

        At 128,000 tokens 0.03 ms beside the 0.02 to 0.05 that llguidance takes; indexing by a mask of truth values
        took 0.5.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise self._too_complex()
        np.take(_ADDED, self._bits.view(np.uint8), axis=0, out=self._added, mode="clip")
        logits += self._added.ravel()[: self._vocab_size]

    def accept(self, token: int) -> None:
        """Takes note of the token that was chosen."""
        if not self._matcher.consume_token(token):
            raise self._too_complex()

    @property
    def ended(self) -> bool:
        """Whether nothing can follow what was accepted."""
        return bool(self._matcher.is_stopped())

    def begin(self, text: str) -> None:
        """Takes note of the text an answer begins with. Raises `InvalidRequest` where no answer may."""
        tokens = self._tokenizer.tokenize_str(text)
        if self._matcher.try_consume_tokens(tokens) < len(tokens):
            raise InvalidRequest("the assistant's message at the end begins no answer that is allowed", "messages")

    def _too_complex(self) -> InvalidRequest:
        reason = _reason(self._matcher.get_error())
        return InvalidRequest(f"the answer cannot go on, its grammar is too complex: {reason}", self._field)


class GrammarCompiler:
    """Compiles grammars for one vocabulary, which is handed over only when the first one comes."""

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
            enforced, warnings = checked(schema)
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(enforced), overrides=SPACING)
        except (TypeError, ValueError, RecursionError) as error:
            raise _refused(_NO_SCHEMA, str(error), "json_schema") from error
        return self._compile(grammar, _NO_SCHEMA, "json_schema", tuple(warnings))

    def regex(self, pattern: str) -> Grammar:
        """A grammar for text that the regular expression matches from beginning to end, in the Rust crate's syntax."""
        from llguidance import LLMatcher

        return self._compile(LLMatcher.grammar_from_regex(pattern), "the regular expression cannot be used", "regex")

    def lark(self, text: str) -> Grammar:
        """A grammar in llguidance's variety of Lark, whose rule `start` is an answer."""
        from llguidance import LLMatcher

        if _GBNF.search(text):
            raise InvalidRequest(
                "the grammar is written in llama.cpp's GBNF (::=), and Lark is wanted here: rules are written with a "
                'colon and the first one is start, as in  start: "yes" | "no"',
                "grammar",
            )
        return self._compile(LLMatcher.grammar_from_lark(text), "the grammar cannot be used", "grammar")

    def _compile(self, grammar: str, refusal: str, field: str, warnings: tuple[str, ...] = ()) -> Grammar:
        """Raises `InvalidRequest` naming the field, also for a grammar that allows nothing at all."""
        from llguidance import LLMatcher

        tokenizer = self._load_tokenizer()
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error() and not matcher.is_accepting():
            raise _refused(refusal, matcher.get_error(), field)
        return Grammar(matcher, tokenizer, self._vocab_size, field, warnings)

    def calls(self, text: str, warnings: tuple[str, ...] = ()) -> Grammar:
        """A grammar of answers that call tools, from a dialect."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_lark(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(_reason(str(error)), "tools") from error
        return self._compile(grammar, "no such call is possible", "tools", warnings)

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


def checked(schema: dict[str, Any] | bool) -> tuple[dict[str, Any], list[str]]:
    """The schema of an answer as `enforceable` has it, with errors that say what they are about."""
    try:
        return enforceable(schema)
    except InvalidRequest as error:
        raise InvalidRequest(f"{_NO_SCHEMA}: {error.message}", "json_schema") from error


def _refused(what: str, text: str, field: str) -> InvalidRequest:
    reason = _reason(text)
    words = next((words for part, words in _WORDS.items() if part in reason), "") if field == "json_schema" else ""
    if words:
        reason = words + reason if words.endswith(" ") else words
    return InvalidRequest(f"{what}: {reason[:_LONGEST]}", field)


def _reason(text: str) -> str:
    """One line of llguidance's message, which may hold a drawing of the regular expression or its parser's state."""
    first, *rest = text.split("\n")
    why = next((line.removeprefix("error: ") for line in rest if line.startswith("error: ")), None)
    if why is not None:
        return f"{first.rstrip(':')}: {why}"
    return "nothing fits it" if first in ("NoExtension", "NoExtensionBias") else first
