"""Compiles the grammar that constrains one model's answers: tool calls, a JSON schema, a Lark grammar or a regex.

Runs beside the model, before generation. Requests without any of these never enter this module.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...models.errors import InvalidRequest
from ..llamacpp.weights import Weights
from ..sampling.sampler import Constraint
from ..types.events import Delta
from ..types.messages import Tool
from ..types.request import Request
from ..types.warnings import Warnings
from .reasoning import ReasoningTags
from .structured.grammar import Grammar, GrammarCompiler
from .structured.reasoning_gate import HeaderGate, ReasoningGate
from .structured.references import escaped
from .text_parser import text_parser
from .tool_formats.notation import ANY_OBJECT, JSON_NOTATION, EnforcedTool, enforced_tool, json_rule
from .tool_formats.tool_format import ToolFormat, speller

_MAX_RECENT_GRAMMARS = 8
_MAX_TOOL_WARNINGS = 16
"""How many warnings about the tools' schemas a request gets. The rest is counted."""


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
        self._tool_grammars = _RecentGrammars()
        self.call_tokens = frozenset(
            token for text, token in control_tokens.items() if tool_format.start_marker.startswith(text)
        )
        """Control tokens that start a tool call. They are banned where none may be made."""

    def grammar(self, request: Request, warnings: Warnings) -> Grammar | None:
        """The grammar of the answer after any reasoning. Raises `InvalidRequest` if it cannot be enforced.

        What of the tools' schemas cannot be enforced is left out with a warning, except where a tool is strict.
        """
        tools = request.callable_tools
        for reason in request.unusable_tools:
            warnings.add_unless_strict(reason, "tools")
        prefix = request.continued_message.text if request.continued_message else ""
        grammar = None
        if tools and request.continued_message is not None and self._tool_format.answer_header:
            raise InvalidRequest("this model cannot continue a message if it may call tools", "messages")
        if tools:
            self._check_prefix(prefix, tools)
            grammar = self._tool_grammar(request, tools, warnings)
        elif request.json_schema is not None:
            grammar = self._compiler.json(request.json_schema, warnings)
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

    def _tool_grammar(self, request: Request, tools: Sequence[Tool], warnings: Warnings) -> Grammar:
        for name in ("grammar", "regex"):
            if getattr(request, name) is not None:
                raise InvalidRequest(f"{name} and tools exclude each other; give only one of them", name)
        alternative = None
        if request.json_schema is not None:
            alternative = json_rule(self._compiler.answer_schema(request.json_schema, warnings))
        key = _content(tools, request, alternative)
        if (known := self._tool_grammars.get(key)) is None:
            known = self._compiled(request, tools, alternative)
            self._tool_grammars.add(key, known)
        grammar, omitted = known
        warnings += (warning for warning in omitted if warning not in warnings)
        return grammar.copy()

    def _compiled(
        self, request: Request, tools: Sequence[Tool], alternative: str | None
    ) -> tuple[Grammar, tuple[str, ...]]:
        """The grammar of calls of these tools, and warnings about what of their schemas it does not enforce."""
        omitted = Warnings()
        omitted.strict = request.strict
        enforced = [self._enforced(tool, omitted, complete=tool.strict or request.strict) for tool in tools]
        try:
            grammar = self._compile(enforced, request, alternative)
        except (InvalidRequest, RecursionError):
            enforced = [self._compilable(tool) for tool in enforced]
            grammar, enforced = self._compile_together(enforced, request, alternative)
        shown = tuple(omitted[:_MAX_TOOL_WARNINGS])
        if len(omitted) > _MAX_TOOL_WARNINGS:
            shown += (f"{len(omitted) - _MAX_TOOL_WARNINGS} more parts of the tools' schemas are not enforced",)
        grammar.tools = tuple(replace(tool, parameters=one.schema) for tool, one in zip(tools, enforced, strict=True))
        return grammar, shown

    def _compile_together(
        self, tools: list[EnforcedTool], request: Request, alternative: str | None
    ) -> tuple[Grammar, list[EnforcedTool]]:
        """Compiles tools each of which compiles. If they are too large together, the largest schemas are left out."""
        by_size = sorted(range(len(tools)), key=lambda i: len(json.dumps(tools[i].schema)), reverse=True)
        left_out = 0
        while True:
            try:
                return self._compile(tools, request, alternative), tools
            except InvalidRequest:
                if left_out == len(tools):
                    raise
            more = max(len(tools) // 2, left_out + (len(tools) + 1) // 2)
            for i in by_size[left_out:more]:
                tools[i].omissions.omit("the schema", "#", "is too large together with those of the other tools")
                tools[i] = replace(tools[i], schema=ANY_OBJECT)
            left_out = min(more, len(tools))

    def _compile(self, tools: Sequence[EnforcedTool], request: Request, alternative: str | None) -> Grammar:
        text = self._tool_format.grammar(
            tools,
            self._spell,
            required=request.tool_choice == "required",
            parallel=request.parallel_tool_calls,
            alternative=alternative,
        )
        return self._compiler.calls(text)

    def _enforced(self, tool: Tool, warnings: Warnings, *, complete: bool) -> EnforcedTool:
        """A tool with its schema rewritten. Notations other than JSON need patterns that a text can match."""
        enforced = enforced_tool(tool, warnings, complete=complete)
        if self._tool_format.notation is JSON_NOTATION or '"pattern"' not in json.dumps(enforced.schema):
            return enforced
        return replace(enforced, schema=self._compiler.compilable(enforced.schema, enforced.omissions))

    def _compilable(self, tool: EnforcedTool) -> EnforcedTool:
        """A tool whose calls compile: without the parts of its schema that do not, if need be without all of it."""
        omissions = tool.omissions
        tool = replace(tool, schema=self._compiler.compilable(tool.schema, omissions))
        if self._call_error(tool) is None:
            return tool
        for name in tool.schema.get("properties", {}):
            one = replace(tool, schema=_with_properties(tool.schema, [name]))
            if (error := self._call_error(one)) is not None:
                omissions.omit("the schema", f"#/properties/{escaped(name)}", f"cannot be compiled: {error}")
                given = one.schema["properties"][name]
                kind = {k: v for k, v in given.items() if k == "type"} if isinstance(given, dict) else True
                changed = {**tool.schema, "properties": {**tool.schema["properties"], name: kind}}
                tool = replace(tool, schema=changed)
        if (error := self._call_error(tool)) is not None:
            omissions.omit("the schema", "#", f"cannot be compiled: {error}")
            tool = replace(tool, schema=ANY_OBJECT)
        return tool

    def _call_error(self, tool: EnforcedTool) -> str | None:
        """Why calls of one tool do not compile, or `None` if they do."""
        try:
            self._compiler.calls(self._tool_format.grammar([tool], self._spell, required=True, parallel=False))
        except InvalidRequest as error:
            return error.message
        except RecursionError:
            return "it is nested too deeply"
        return None


def _content(tools: Sequence[Tool], request: Request, alternative: str | None) -> str:
    """All that a grammar of calls is made from, as text."""
    listed = [(tool.name, tool.parameters, tool.strict) for tool in tools]
    choice = [request.tool_choice, request.parallel_tool_calls, request.strict]
    return json.dumps([listed, choice, alternative], default=str)


class _RecentGrammars:
    """The grammars compiled last. Agents send the same tools with each request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grammars: dict[str, tuple[Grammar, tuple[str, ...]]] = {}

    def get(self, key: str) -> tuple[Grammar, tuple[str, ...]] | None:
        with self._lock:
            if (known := self._grammars.pop(key, None)) is not None:
                self._grammars[key] = known
            return known

    def add(self, key: str, grammar: tuple[Grammar, tuple[str, ...]]) -> None:
        with self._lock:
            self._grammars[key] = grammar
            while len(self._grammars) > _MAX_RECENT_GRAMMARS:
                del self._grammars[next(iter(self._grammars))]


def _with_properties(schema: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """An object's schema with only these of its properties."""
    kept = {name: schema["properties"][name] for name in names}
    return {**schema, "properties": kept, "required": [name for name in schema.get("required", ()) if name in kept]}
