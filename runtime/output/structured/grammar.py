"""Enforces a JSON schema, a regular expression or a grammar on an answer, token by token, with llguidance."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....models.errors import Cancelled, InvalidRequest, ModelError, UnsupportedField
from ...log import log
from ...types.limits import limit, limit_error
from ...types.messages import Tool
from ...types.warnings import Warnings
from ..tool_formats.notation import JSON_SPACING
from .json_schema import enforceable
from .large_stack import on_large_stack
from .omissions import Omissions
from .patterns import is_simple
from .repair import repaired

_GBNF = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_MAX_REASON_CHARS = 300

_LEXER_FUEL = 100_000
_MAX_LEXER_FUEL = 1_000_000
"""llguidance's measure for the size of all regular expressions. Each byte of a grammar may add one. Real grammars need
less; nested repetitions need many times more, and each of their masks would take seconds."""
_STEP_LIMITS = {"step_lexer_fuel": 50_000, "step_max_items": 10_000, "verbose_errors": False}
"""A quarter and a fifth of llguidance's defaults: a mask takes at most about 0.1 s."""

_SECONDS_AHEAD = 1.0
_SECONDS_PER_TOKEN = 0.02
"""CPU time that an answer's masks may take: `_SECONDS_AHEAD`, and this for each token. Typical masks take 0.1 ms."""

_MAX_TOKEN_BYTES = 1023
"""The longest token that llguidance supports. Grammars never write longer ones."""

_TOKENS_AT_ONCE = 256
_CANNOT_CONTINUE = "the answer cannot continue because of its grammar: "
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
    """The state of one answer within a grammar; a `Constraint` for the sampler. `text` is the grammar for llguidance.

    A grammar that becomes too complex or too slow raises `InvalidRequest` naming the request's `field`. With
    `optional`, it stops constraining the answer instead.
    """

    def __init__(self, text: str, matcher: Any, tokenizer: Any, vocab_size: int, field: str) -> None:
        self.text = text
        self.field = field
        self.optional = False
        self.tools: tuple[Tool, ...] = ()
        """The tools that the answer may call, with their schemas as the grammar enforces them."""
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)
        self._offsets = np.empty((self._bits.nbytes, 8), np.float32)
        self._vocab_size = vocab_size
        self._seconds_left = _SECONDS_AHEAD
        self._is_off = False

    def copy(self) -> Grammar:
        """The same grammar in the same state, for another answer. Much faster than compiling it again."""
        matcher = self._matcher.deep_copy()
        copied = Grammar(self.text, matcher, self._tokenizer, self._vocab_size, self.field)
        copied.tools, copied.optional = self.tools, self.optional
        return copied

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits of every token the grammar does not allow next to minus infinity.

        With 128,000 tokens this takes 0.03 ms, and llguidance another 0.02 to 0.05 ms. Indexing by a boolean mask took
        0.5 ms.
        """
        if self._is_off:
            return
        begin = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._seconds_left += _SECONDS_PER_TOKEN - (time.thread_time() - begin)
        if self._matcher.is_error():
            self._give_up(f"it is too complex: {_reason(self._matcher.get_error())}")
        elif self._seconds_left < 0:
            self._give_up("it takes too much time; use simpler rules with fewer alternatives and repetitions")
        else:
            np.take(_LOGIT_OFFSETS, self._bits.view(np.uint8), axis=0, out=self._offsets, mode="clip")
            logits += self._offsets.ravel()[: self._vocab_size]

    def accept(self, token: int) -> None:
        """Advances by the chosen token."""
        if self._is_off:
            return
        begin = time.thread_time()
        if not self._matcher.consume_token(token):
            self._give_up(f"it is too complex: {_reason(self._matcher.get_error())}")
        self._seconds_left -= time.thread_time() - begin

    @property
    def ended(self) -> bool:
        """Whether nothing can follow the accepted tokens."""
        return not self._is_off and bool(self._matcher.is_stopped())

    def begin(self, text: str, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Advances by the text that the answer continues. Raises `InvalidRequest` if no valid answer starts with it."""
        tokens = self._tokenizer.tokenize_str(text)
        begin = time.thread_time()
        for at in range(0, len(tokens), _TOKENS_AT_ONCE):
            some = tokens[at : at + _TOKENS_AT_ONCE]
            if cancelled():
                raise Cancelled("the caller has left")
            if self._matcher.try_consume_tokens(some) < len(some):
                raise InvalidRequest("no allowed answer starts with the text of the last assistant message", "messages")
            if time.thread_time() - begin > limit("grammar_seconds"):
                what = "it takes too long to check the last assistant message against the grammar"
                raise limit_error("grammar_seconds", what, self.field)

    def try_tokens(self, count: int) -> str | None:
        """Writes up to this many tokens of some answer, for a trial. Returns why it cannot go on, or `None`."""
        choice = np.random.default_rng(0)
        logits = np.zeros(self._vocab_size, np.float32)
        try:
            for _ in range(count):
                if self._matcher.is_stopped():
                    break
                logits[:] = 0
                self.mask(logits)
                allowed = np.flatnonzero(logits == 0)
                if not len(allowed):
                    break
                self.accept(int(choice.choice(allowed)))
        except InvalidRequest as error:
            return error.message.removeprefix(_CANNOT_CONTINUE)
        return None

    def _give_up(self, problem: str) -> None:
        if not self.optional:
            raise InvalidRequest(_CANNOT_CONTINUE + problem, self.field)
        self._is_off = True
        log("the rest of an answer is not constrained by the grammar of its tools, because it cannot continue it")


class GrammarCompiler:
    """Compiles grammars for one vocabulary, which is read when the first grammar is compiled.

    With `tokens_to_try`, a grammar compiles only if it can also write some answer's first tokens.
    """

    def __init__(
        self,
        vocabulary: Callable[[], tuple[list[bytes], list[int]]],
        pointers: Callable[[], tuple[int, int]],
        tokens_to_try: int = 0,
    ) -> None:
        self._vocabulary = vocabulary
        self._pointers = pointers
        self._tokens_to_try = tokens_to_try
        self._text_errors: dict[str, str | None] = {}
        self._tokenizer: Any = None
        self._vocab_size = 0

    def json(self, schema: dict[str, Any] | bool, warnings: Warnings | None = None) -> Grammar:
        """A grammar for JSON text that satisfies the schema, with the spaces of `json.dumps`.

        Raises `InvalidRequest` naming what cannot be enforced: a schema is enforced completely or refused.
        """
        enforced = self.answer_schema(schema, warnings)
        return self.compile(_json_grammar(enforced), _SCHEMA_REFUSED, "json_schema")

    def answer_schema(self, schema: dict[str, Any] | bool, warnings: Warnings | None = None) -> dict[str, Any]:
        """The schema of an answer in a form that compiles. Raises `InvalidRequest` if it cannot be enforced."""
        try:
            omissions = Omissions(Warnings() if warnings is None else warnings)
            return self.compilable(enforceable(schema, omissions), omissions)
        except UnsupportedField:
            raise  # strict servers refuse it; others can enforce it in part
        except InvalidRequest as error:
            raise InvalidRequest(f"{_SCHEMA_REFUSED}: {error.message}", "json_schema") from error
        except RecursionError as error:
            raise InvalidRequest(f"{_SCHEMA_REFUSED}: it is nested too deeply", "json_schema") from error

    def compilable(self, schema: dict[str, Any], omissions: Omissions) -> dict[str, Any]:
        """A rewritten schema without the parts that cannot be compiled. Says in `omissions` which those are."""
        return schema if self._json_error(schema) is None else repaired(schema, self._json_error, omissions)

    @property
    def tries_tokens(self) -> bool:
        return self._tokens_to_try > 0

    def _json_error(self, schema: Any) -> str | None:
        """Why a rewritten schema cannot be compiled, or `None` if it can."""
        try:
            self.compile(_json_grammar(schema), "", "json_schema")
        except InvalidRequest as error:
            return error.message.removeprefix(": ")
        if self._tokens_to_try:  # the answer that is tried may not reach each text
            errors = (self._text_error(json.dumps(text)) for text in _texts_with_patterns(schema))
            return next((error for error in errors if error is not None), None)
        return None

    def _text_error(self, schema: str) -> str | None:
        if schema not in self._text_errors:
            error = None
            try:
                self.compile(_json_grammar(json.loads(schema)), "", "json_schema")
            except InvalidRequest as refused:
                error = refused.message.removeprefix(": ")
            self._text_errors[schema] = error
        return self._text_errors[schema]

    def regex(self, pattern: str) -> Grammar:
        """A grammar for text that the regular expression matches completely, in the syntax of Rust's regex crate."""
        from llguidance import LLMatcher

        return self.compile(LLMatcher.grammar_from_regex(pattern), "the regular expression cannot be used", "regex")

    def lark(self, text: str) -> Grammar:
        """A grammar in llguidance's dialect of Lark. The rule `start` matches a whole answer."""
        from llguidance import LLMatcher

        if _GBNF.search(text):
            raise InvalidRequest(
                "the grammar is written in llama.cpp's GBNF (::=) but must be in Lark syntax: rules are written with a "
                'colon and the first one is start, for example  start: "yes" | "no"',
                "grammar",
            )
        return self.compile(LLMatcher.grammar_from_lark(text), "the grammar cannot be used", "grammar")

    def compile(self, grammar: str, refusal: str, field: str) -> Grammar:
        """Compiles a grammar. Raises `InvalidRequest` naming the field, also if the grammar matches nothing."""
        from llguidance import LLMatcher, LLParserLimits

        tokenizer = self._load_tokenizer()
        fuel = min(_LEXER_FUEL + len(grammar), _MAX_LEXER_FUEL)
        limits = LLParserLimits(initial_lexer_fuel=fuel, **_STEP_LIMITS)

        def compile_grammar() -> Any:
            matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
            if not matcher.is_error():
                matcher.compute_bitmask()
            return matcher

        try:
            matcher = on_large_stack(compile_grammar, len(grammar))
        except RuntimeError as error:
            raise _refused(refusal, str(error), field) from error
        except MemoryError as error:
            if self._tokens_to_try:
                raise  # the parent reports the memory limit
            raise _refused(refusal, str(error), field) from error
        if matcher.is_error() and not matcher.is_accepting():
            raise _refused(refusal, matcher.get_error(), field)
        compiled = Grammar(grammar, matcher, tokenizer, self._vocab_size, field)
        if self._tokens_to_try and (problem := compiled.copy().try_tokens(self._tokens_to_try)) is not None:
            raise _refused(refusal, problem, field)
        return compiled

    def calls(self, text: str) -> Grammar:
        """A grammar of answers that call tools, as a tool format writes it."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_lark(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(_reason(str(error)), "tools") from error
        return self.compile(grammar, "no call of these tools is possible", "tools")

    def _load_tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            tokens, end = self._vocabulary()
            tokens = [token if len(token) <= _MAX_TOKEN_BYTES else b"" for token in tokens]
            vocab, tokenize = self._pointers()
            self._vocab_size = len(tokens)
            try:
                self._tokenizer = on_large_stack(
                    lambda: LLTokenizer.from_llamacpp(
                        tokens=tokens, vocab_ptr=vocab, tokenize_fptr=tokenize, eos_token=end, slices=None
                    )
                )
            except (RuntimeError, ValueError, OverflowError) as error:
                problem = "the model's vocabulary cannot be used with grammars, schemas and tools"
                raise ModelError(f"{problem}: {_reason(str(error))}") from error
        return self._tokenizer


def _json_grammar(schema: Any) -> str:
    from llguidance import LLMatcher

    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_SPACING))
    except (TypeError, ValueError) as error:
        raise _refused(_SCHEMA_REFUSED, str(error), "json_schema") from error


def _texts_with_patterns(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema of a string for each pattern that is not simple, with the limits of its length."""
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("pattern"), str) and not is_simple(value):
                lengths = {name: value[name] for name in ("pattern", "minLength", "maxLength") if name in value}
                yield {"type": "string", **lengths}
            pending += value.values()
        elif isinstance(value, list):
            pending += value


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
    if first.startswith("panic"):
        return "it is too deep or too large for llguidance"
    detail = next((line.removeprefix("error: ") for line in rest if line.startswith("error: ")), None)
    if detail is not None:
        return f"{first.rstrip(':')}: {detail}"
    return "nothing matches it" if first in ("NoExtension", "NoExtensionBias") else first
