"""Writes and compiles the grammar of an answer: tool calls, a JSON schema, a Lark grammar or a regular expression.

Rewrites the schemas, and leaves out parts of the tools' schemas that cannot be compiled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...models.errors import InvalidRequest
from ..types.messages import Tool
from ..types.warnings import Warnings
from .grammar_order import GrammarOrder, too_large
from .structured.grammar import Grammar, GrammarCompiler
from .structured.omissions import Omissions
from .structured.references import escaped
from .tool_formats.notation import ANY_OBJECT, JSON_NOTATION, EnforcedTool, enforced_tool, json_rule
from .tool_formats.tool_format import Speller, ToolFormat

_MAX_TOOL_WARNINGS = 16
"""Warnings about the tools' schemas that a request gets; further ones are only counted."""


@dataclass(frozen=True, slots=True)
class WrittenGrammar:
    """A grammar, and warnings about what it does not enforce."""

    grammar: Grammar
    warnings: tuple[str, ...] = ()


class GrammarWriter:
    """Writes grammars for one model."""

    def __init__(self, compiler: GrammarCompiler, tool_format: ToolFormat, spell: Speller) -> None:
        self._compiler = compiler
        self._tool_format = tool_format
        self._spell = spell

    def write(self, order: GrammarOrder) -> WrittenGrammar:
        """Raises `InvalidRequest` if the grammar cannot be enforced."""
        warnings = Warnings()
        warnings.strict = order.strict
        if order.tools:
            return self._calls(order, warnings)
        if order.json_schema is not None:
            return WrittenGrammar(self._compiler.json(order.json_schema, warnings), tuple(warnings))
        if order.grammar is not None:
            return WrittenGrammar(self._compiler.lark(order.grammar))
        return WrittenGrammar(self._compiler.regex(order.regex or ""))

    def compiled(self, order: GrammarOrder, text: str, field: str, schemas: list[Any]) -> Grammar:
        """Compiles what another writer wrote; `schemas` are those of the tools as the grammar enforces them."""
        return _finished(self._compiler.compile(text, "the grammar cannot be used", field), order, schemas)

    def without_schemas(self, order: GrammarOrder, reason: str) -> WrittenGrammar:
        """The grammar of tool calls with any arguments, for tools whose schemas cannot be compiled."""
        warnings = Warnings()
        tools = [EnforcedTool(tool.name, ANY_OBJECT, Omissions(warnings, complete=False)) for tool in order.tools]
        warnings.append(f"the tools' schemas are not enforced: {reason}")
        return WrittenGrammar(
            _finished(self._compile(tools, order, None), order, [ANY_OBJECT] * len(tools)), tuple(warnings)
        )

    def _calls(self, order: GrammarOrder, warnings: Warnings) -> WrittenGrammar:
        """The grammar of calls of these tools."""
        alternative = None
        if order.json_schema is not None:
            alternative = json_rule(self._compiler.answer_schema(order.json_schema, warnings))
        omitted = Warnings()
        omitted.strict = order.strict
        enforced = [self._enforced(tool, omitted, complete=tool.strict or order.strict) for tool in order.tools]
        try:
            grammar = self._compile(enforced, order, alternative)
        except (InvalidRequest, RecursionError):
            enforced = [self._compilable(tool) for tool in enforced]
            grammar, enforced = self._compile_together(enforced, order, alternative)
        shown = tuple(omitted[:_MAX_TOOL_WARNINGS])
        if len(omitted) > _MAX_TOOL_WARNINGS:
            shown += (f"{len(omitted) - _MAX_TOOL_WARNINGS} more parts of the tools' schemas are not enforced",)
        return WrittenGrammar(_finished(grammar, order, [tool.schema for tool in enforced]), (*warnings, *shown))

    def _compile_together(
        self, tools: list[EnforcedTool], order: GrammarOrder, alternative: str | None
    ) -> tuple[Grammar, list[EnforcedTool]]:
        """Compiles tools each of which compiles. If they are too large together, the largest schemas are left out."""
        by_size = sorted(range(len(tools)), key=lambda i: len(json.dumps(tools[i].schema)), reverse=True)
        left_out = 0
        while True:
            try:
                return self._compile(tools, order, alternative), tools
            except InvalidRequest:
                if left_out == len(tools):
                    raise
            more = max(len(tools) // 2, left_out + (len(tools) + 1) // 2)
            for i in by_size[left_out:more]:
                tools[i].omissions.omit("the schema", "#", "is too large together with those of the other tools")
                tools[i] = replace(tools[i], schema=ANY_OBJECT)
            left_out = min(more, len(tools))

    def _compile(self, tools: Sequence[EnforcedTool], order: GrammarOrder, alternative: str | None) -> Grammar:
        text = self._tool_format.grammar(
            tools,
            self._spell,
            required=order.required,
            parallel=order.parallel,
            alternative=alternative,
        )
        return self._compiler.calls(text)

    def _enforced(self, tool: Tool, warnings: Warnings, *, complete: bool) -> EnforcedTool:
        """A tool with its schema rewritten, and without patterns that cannot be used."""
        problem = None if tool.parameters is None else too_large(tool.parameters, "tools")
        if problem is not None:
            omissions = Omissions(warnings, complete=complete, field="tools", tool=tool.name)
            omissions.omit("the schema", "#", f"exceeds a limit: {problem.message}")
            return EnforcedTool(tool.name, ANY_OBJECT, omissions)
        enforced = enforced_tool(tool, warnings, complete=complete)
        if '"pattern"' not in json.dumps(enforced.schema):
            return enforced
        if self._tool_format.notation is JSON_NOTATION and not self._compiler.tries_tokens:
            return enforced
        return replace(enforced, schema=self._compiler.compilable(enforced.schema, enforced.omissions))

    def _compilable(self, tool: EnforcedTool) -> EnforcedTool:
        """A tool whose calls compile, without the parts of its schema that do not, or without all of it."""
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


def _finished(grammar: Grammar, order: GrammarOrder, schemas: list[Any]) -> Grammar:
    pairs = zip(order.tools, schemas, strict=True) if order.tools else ()
    grammar.tools = tuple(replace(tool, parameters=schema) for tool, schema in pairs)
    grammar.optional = bool(order.tools) and order.tools_are_optional
    return grammar


def _with_properties(schema: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """An object's schema with only these of its properties."""
    kept = {name: schema["properties"][name] for name in names}
    return {**schema, "properties": kept, "required": [name for name in schema.get("required", ()) if name in kept]}
