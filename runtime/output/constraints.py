"""Compiles the grammar that constrains one model's answers: tool calls, a JSON schema, a Lark grammar or a regex.

Runs beside the model, before generation. Requests without any of these never enter this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...models.errors import InvalidRequest
from ..llamacpp.weights import Weights
from ..sampling.sampler import Constraint
from ..types.events import Delta
from ..types.messages import Tool
from ..types.request import Request
from .reasoning import ReasoningTags
from .structured.grammar import Grammar, GrammarCompiler, checked
from .structured.reasoning_gate import HeaderGate, ReasoningGate
from .text_parser import text_parser
from .tool_formats.notation import json_rule
from .tool_formats.tool_format import ToolFormat, errors_name_tool, speller, unknown_keywords


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
        self.call_tokens = frozenset(
            token for text, token in control_tokens.items() if tool_format.start_marker.startswith(text)
        )
        """Control tokens that start a tool call. They are banned where none may be made."""

    def grammar(self, request: Request) -> Grammar | None:
        """The grammar of the answer after any reasoning. Raises `InvalidRequest` if it cannot be enforced."""
        tools = request.callable_tools
        prefix = request.continued_message.text if request.continued_message else ""
        grammar = None
        if tools and request.continued_message is not None and self._tool_format.answer_header:
            raise InvalidRequest("this model cannot continue a message if it may call tools", "messages")
        if tools:
            self._check_prefix(prefix, tools)
            grammar = self._tool_grammar(request, tools)
        elif request.json_schema is not None:
            grammar = self._compiler.json(request.json_schema)
        elif request.grammar is not None:
            grammar = self._compiler.lark(request.grammar)
        elif request.regex is not None:
            grammar = self._compiler.regex(request.regex)
        if grammar is not None and prefix:
            grammar.begin(prefix)
        return grammar

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

    def _tool_grammar(self, request: Request, tools: Sequence[Tool]) -> Grammar:
        for name in ("grammar", "regex"):
            if getattr(request, name) is not None:
                raise InvalidRequest(f"{name} and tools exclude each other; give only one of them", name)
        warnings = [warning for tool in tools for warning in unknown_keywords(tool)]
        alternative = None
        if request.json_schema is not None:
            warnings += checked(request.json_schema)[1]
            alternative = json_rule(request.json_schema)
        text = self._tool_format.grammar(
            tools,
            self._spell,
            required=request.tool_choice == "required",
            parallel=request.parallel_tool_calls,
            alternative=alternative,
        )
        try:
            return self._compiler.calls(text, tuple(warnings))
        except InvalidRequest as error:
            for tool in tools:
                self._check_tool(tool)
            raise InvalidRequest(f"calls of these tools cannot be enforced: {error.message}", "tools") from error

    def _check_tool(self, tool: Tool) -> None:
        """Raises an error that names the tool if the schema of this one cannot be enforced."""
        with errors_name_tool(tool):
            self._compiler.calls(self._tool_format.grammar([tool], self._spell, required=True, parallel=False))
