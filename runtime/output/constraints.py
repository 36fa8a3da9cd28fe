"""Decides which grammar constrains an answer: of tool calls, a JSON schema, a Lark grammar or a regular expression.

Runs in the model's process, before generation. Requests without any of these never enter this module.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...models.errors import Cancelled, GalagoError, InvalidRequest
from ..llamacpp.weights import Weights
from ..sampling.sampler import Constraint
from ..types.events import Delta
from ..types.messages import Tool
from ..types.request import Request
from ..types.warnings import Warnings
from .grammar_order import GrammarOrder
from .grammar_process import GrammarProcesses, TrialFailed, describe_model
from .grammar_writer import GrammarWriter, WrittenGrammar
from .reasoning import ReasoningTags
from .structured.grammar import Grammar, GrammarCompiler
from .structured.reasoning_gate import HeaderGate, ReasoningGate
from .text_parser import text_parser
from .tool_formats.tool_format import ToolFormat, speller

_MAX_RECENT = 16
_MAX_RECENT_CHARACTERS = 2 << 20
"""Total length of the cached grammars; each character takes up to 100 bytes of memory once compiled."""

_LARGE_CHARACTERS = 16 << 10
_POLL_SECONDS = 0.02


class AnswerConstraints:
    """Makes the constraint of each answer of one model."""

    def __init__(self, weights: Weights, tool_format: ToolFormat, reasoning_tags: ReasoningTags | None) -> None:
        self._weights = weights
        self._tool_format = tool_format
        self._tags = reasoning_tags
        self._special_texts = {*weights.control_texts, *weights.user_defined_texts}
        self._compiler = GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers)
        format_text = "".join(tool_format.control_texts) + "".join(reasoning_tags or ())
        control_tokens = {
            text: weights.tokenize(text, parse_special=True)[0]
            for text in weights.control_texts
            if text in format_text and len(text) > 1
        }
        weights.spell_out(control_tokens.values())
        self._spell = speller(control_tokens)
        self._writer = GrammarWriter(self._compiler, tool_format, self._spell)
        self._processes = GrammarProcesses(
            lambda: describe_model(*weights.grammar_vocabulary(), tool_format.name, control_tokens)
        )
        self.close = weakref.finalize(self, self._processes.close)
        """Ends the processes that try grammars."""
        self._large = threading.Semaphore()
        self._recent = _RecentGrammars()
        self.call_tokens = frozenset(
            token for text, token in control_tokens.items() if tool_format.start_marker.startswith(text)
        )
        """Control tokens that start a tool call. They are banned where no call is allowed."""

    def grammar(
        self, request: Request, warnings: Warnings, cancelled: Callable[[], bool] = lambda: False
    ) -> Grammar | None:
        """The grammar of the answer after any reasoning. Raises `InvalidRequest` if it cannot be enforced.

        Parts of the tools' schemas that cannot be enforced are left out with a warning, unless a tool is strict.
        `cancelled` is called while it waits; if it returns `True`, `Cancelled` is raised.
        """
        tools = request.callable_tools
        for reason in request.unusable_tools:
            warnings.add_unless_strict(reason, "tools")
        prefix = request.continued_message.text if request.continued_message else ""
        if tools and request.continued_message is not None and self._tool_format.answer_header:
            raise InvalidRequest("this model cannot continue a message if it may call tools", "messages")
        for name in ("grammar", "regex") if tools else ():
            if getattr(request, name) is not None:
                raise InvalidRequest(f"{name} and tools exclude each other; give only one of them", name)
        if tools:
            self._check_prefix(prefix, tools)
        order = GrammarOrder.of(request)
        if not tools and order.json_schema is None and order.grammar is None and order.regex is None:
            return None
        written = self._written(order, cancelled)
        warnings += (warning for warning in written.warnings if warning not in warnings)
        grammar = written.grammar.copy()
        if prefix:
            grammar.begin(prefix, cancelled)
        return grammar

    def _written(self, order: GrammarOrder, cancelled: Callable[[], bool]) -> WrittenGrammar:
        """A cached grammar, or a new one: compiled at once if it is plain, else tried in a child process first."""
        order.check_size()
        text = order.to_json()
        if text is None:
            return self._writer.write(order)
        known = self._recent.get(text)
        if known is None:
            known = self._new(order, text, cancelled)
            self._recent.add(text, known)
        if isinstance(known, GalagoError):
            raise known
        return known

    def _new(self, order: GrammarOrder, text: str, cancelled: Callable[[], bool]) -> WrittenGrammar | GalagoError:
        if order.is_plain:
            with self._turn(text, cancelled):
                return self._writer.write(order)
        try:
            grammar, field, schemas, warnings = self._processes.write(text, cancelled)
        except TrialFailed as failed:
            if order.tools and order.tools_are_optional:
                return self._writer.without_schemas(order, failed.problem)
            return failed.error(order.field)
        except Cancelled:
            raise
        except GalagoError as error:
            return error
        with self._turn(grammar, cancelled):
            return WrittenGrammar(self._writer.compiled(order, grammar, field, schemas), tuple(warnings))

    @contextmanager
    def _turn(self, text: str, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Large grammars are compiled one after the other. Small ones take some milliseconds and do not wait."""
        if len(text) < _LARGE_CHARACTERS:
            yield
            return
        while not self._large.acquire(timeout=_POLL_SECONDS):
            if cancelled():
                raise Cancelled("the caller has left")
        try:
            yield
        finally:
            self._large.release()

    def gated(self, grammar: Grammar, request: Request, in_reasoning: bool) -> Constraint:
        """The grammar, applied once the reasoning has ended. `in_reasoning`: the prompt has opened the reasoning.

        An answer that continues a message is past its reasoning, and one to a completion prompt has none.
        """
        if request.continued_message is not None or request.completion:
            return grammar
        if self._tool_format.answer_header:
            if request.callable_tools:
                return grammar  # it covers what precedes the answer
            return HeaderGate(self._compiler.calls(self._tool_format.header_grammar(self._spell)), grammar)
        if self._tags is None:
            return grammar
        first = self._weights.tokenize(self._tags.opening, parse_special=True)[0]
        opening_token = first if self._weights.text_of(first) in self._special_texts else None
        return ReasoningGate(
            grammar,
            self._tags.closing,
            opening_token,
            self._weights.piece,
            self._weights.end_tokens,
            in_reasoning=in_reasoning,
        )

    def _check_prefix(self, prefix: str, tools: Sequence[Tool]) -> None:
        """Refuses to continue a message that calls a tool, or whose end may be the start of a call."""
        parsed = text_parser(self._tool_format, tools).feed(prefix)
        text = "".join(piece.text for piece in parsed if isinstance(piece, Delta))
        if text.rstrip() != prefix.rstrip():
            raise InvalidRequest(
                "the last assistant message starts a tool call in its text, which cannot be continued; "
                "put tool calls into tool_calls",
                "messages",
            )


class _RecentGrammars:
    """The most recent grammars, by their order as JSON. Agents send the same tools with each request.

    Errors are kept too, so that a grammar that takes too long to compile is tried only once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grammars: dict[str, WrittenGrammar | GalagoError] = {}

    def get(self, key: str) -> WrittenGrammar | GalagoError | None:
        with self._lock:
            if (known := self._grammars.pop(key, None)) is not None:
                self._grammars[key] = known
            return known

    def add(self, key: str, grammar: WrittenGrammar | GalagoError) -> None:
        with self._lock:
            self._grammars[key] = grammar
            while len(self._grammars) > _MAX_RECENT or sum(map(len, self._grammars)) > _MAX_RECENT_CHARACTERS:
                del self._grammars[next(iter(self._grammars))]
