"""Enforces a JSON schema, a regular expression or a grammar on an answer, token by token, with llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....models.errors import InvalidRequest, UnsupportedField
from ...types.messages import Tool
from ...types.warnings import Warnings
from ..tool_formats.notation import JSON_SPACING
from .json_schema import enforceable
from .omissions import Omissions
from .repair import repaired

_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_MAX_REASON_CHARS = 300
_SCHEMA_REFUSED = "the JSON schema cannot be enforced"
_EXPLANATIONS = {
    "integer range": "minimum or maximum is outside the range that can be enforced for integers",
    "egex is empty": "no text satisfies pattern, format and lengths together, or none could be found",
    "regex": "pattern: ",
}
"""Maps a part of llguidance's error message to our explanation. One that ends in a space is put before the message."""

_ALLOWED_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_LOGIT_OFFSETS = np.where(_ALLOWED_BITS, 0, -np.inf).astype(np.float32)
"""For each byte of a token mask, the values to add to the logits of its eight tokens."""


class Grammar:
    """The state of one answer within a grammar; a `Constraint` for the sampler.

    Raises `InvalidRequest` naming the request's `field` if the grammar is too complex for llguidance, whose limits keep
    a step below about 0.1 s.
    """

    def __init__(self, matcher: Any, tokenizer: Any, vocab_size: int, field: str) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)
        self._offsets = np.empty((self._bits.nbytes, 8), np.float32)
        self._vocab_size = vocab_size
        self._field = field
        self.tools: tuple[Tool, ...] = ()
        """The tools that the answer may call, with their schemas as the grammar enforces them."""

    def copy(self) -> Grammar:
        """The same grammar in the same state, for another answer. Takes far less time than to compile it again."""
        copied = Grammar(self._matcher.deep_copy(), self._tokenizer, self._vocab_size, self._field)
        copied.tools = self.tools
        return copied

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits of every token the grammar does not allow next to minus infinity.

        With 128,000 tokens this takes 0.03 ms, and llguidance another 0.02 to 0.05 ms. Indexing by a boolean mask took
        0.5 ms.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise self._too_complex()
        np.take(_LOGIT_OFFSETS, self._bits.view(np.uint8), axis=0, out=self._offsets, mode="clip")
        logits += self._offsets.ravel()[: self._vocab_size]

    def accept(self, token: int) -> None:
        """Advances by the chosen token."""
        if not self._matcher.consume_token(token):
            raise self._too_complex()

    @property
    def ended(self) -> bool:
        """Whether nothing can follow the accepted tokens."""
        return bool(self._matcher.is_stopped())

    def begin(self, text: str) -> None:
        """Advances by the text that the answer continues. Raises `InvalidRequest` if no valid answer starts with it."""
        tokens = self._tokenizer.tokenize_str(text)
        if self._matcher.try_consume_tokens(tokens) < len(tokens):
            raise InvalidRequest("no allowed answer starts with the text of the last assistant message", "messages")

    def _too_complex(self) -> InvalidRequest:
        reason = _reason(self._matcher.get_error())
        return InvalidRequest(f"the answer cannot continue because its grammar is too complex: {reason}", self._field)


class GrammarCompiler:
    """Compiles grammars for one vocabulary, which is read when the first grammar is compiled."""

    def __init__(
        self, vocabulary: Callable[[], tuple[list[bytes], list[int]]], pointers: Callable[[], tuple[int, int]]
    ) -> None:
        self._vocabulary = vocabulary
        self._pointers = pointers
        self._tokenizer: Any = None
        self._vocab_size = 0

    def json(self, schema: dict[str, Any] | bool, warnings: Warnings | None = None) -> Grammar:
        """A grammar for JSON text that satisfies the schema, with the spaces of `json.dumps`.

        Raises `InvalidRequest` naming what cannot be enforced: a schema is enforced completely or refused.
        """
        enforced = self.answer_schema(schema, warnings)
        return self._compile(_json_grammar(enforced), _SCHEMA_REFUSED, "json_schema")

    def answer_schema(self, schema: dict[str, Any] | bool, warnings: Warnings | None = None) -> dict[str, Any]:
        """The schema of an answer in a form that compiles. Raises `InvalidRequest` if it cannot be enforced."""
        try:
            omissions = Omissions(Warnings() if warnings is None else warnings)
            return self.compilable(enforceable(schema, omissions), omissions)
        except UnsupportedField:
            raise  # what strict servers refuse, and others can enforce in part
        except InvalidRequest as error:
            raise InvalidRequest(f"{_SCHEMA_REFUSED}: {error.message}", "json_schema") from error
        except RecursionError as error:
            raise InvalidRequest(f"{_SCHEMA_REFUSED}: it is nested too deeply", "json_schema") from error

    def compilable(self, schema: dict[str, Any], omissions: Omissions) -> dict[str, Any]:
        """A rewritten schema without the parts that cannot be compiled. Says in `omissions` which those are."""
        return schema if self._json_error(schema) is None else repaired(schema, self._json_error, omissions)

    def _json_error(self, schema: Any) -> str | None:
        """Why a rewritten schema cannot be compiled, or `None` if it can."""
        try:
            self._compile(_json_grammar(schema), "", "json_schema")
        except InvalidRequest as error:
            return error.message.removeprefix(": ")
        return None

    def regex(self, pattern: str) -> Grammar:
        """A grammar for text that the regular expression matches completely, in the syntax of Rust's regex crate."""
        from llguidance import LLMatcher

        return self._compile(LLMatcher.grammar_from_regex(pattern), "the regular expression cannot be used", "regex")

    def lark(self, text: str) -> Grammar:
        """A grammar in llguidance's dialect of Lark. The rule `start` matches a whole answer."""
        from llguidance import LLMatcher

        if _GBNF.search(text):
            raise InvalidRequest(
                "the grammar is written in llama.cpp's GBNF (::=) but must be in Lark syntax: rules are written with a "
                'colon and the first one is start, for example  start: "yes" | "no"',
                "grammar",
            )
        return self._compile(LLMatcher.grammar_from_lark(text), "the grammar cannot be used", "grammar")

    def _compile(self, grammar: str, refusal: str, field: str) -> Grammar:
        """Compiles a grammar. Raises `InvalidRequest` naming the field, also if the grammar matches nothing."""
        from llguidance import LLMatcher

        tokenizer = self._load_tokenizer()
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error() and not matcher.is_accepting():
            raise _refused(refusal, matcher.get_error(), field)
        return Grammar(matcher, tokenizer, self._vocab_size, field)

    def calls(self, text: str) -> Grammar:
        """A grammar of answers that call tools, as a tool format writes it."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_lark(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(_reason(str(error)), "tools") from error
        return self._compile(grammar, "no call of these tools is possible", "tools")

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


def _json_grammar(schema: Any) -> str:
    from llguidance import LLMatcher

    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_SPACING))
    except (TypeError, ValueError) as error:
        raise _refused(_SCHEMA_REFUSED, str(error), "json_schema") from error


def _refused(what: str, text: str, field: str) -> InvalidRequest:
    reason = _reason(text)
    explanation = ""
    if field == "json_schema":
        explanation = next((text for part, text in _EXPLANATIONS.items() if part in reason), "")
    if explanation:
        reason = explanation + reason if explanation.endswith(" ") else explanation
    return InvalidRequest(f"{what}: {reason[:_MAX_REASON_CHARS]}", field)


def _reason(text: str) -> str:
    """One line of llguidance's message, which may contain a dump of the regular expression or of the parser's state."""
    first, *rest = text.split("\n")
    detail = next((line.removeprefix("error: ") for line in rest if line.startswith("error: ")), None)
    if detail is not None:
        return f"{first.rstrip(':')}: {detail}"
    return "nothing matches it" if first in ("NoExtension", "NoExtensionBias") else first
