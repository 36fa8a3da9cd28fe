"""How one model's answers are shaped and read: its dialect, its tags of thoughts, its grammars. Knows no scheduling."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.errors import InvalidRequest
from ..llamacpp.weights import Weights
from ..sampling.sampler import Constraint
from ..types.events import Delta, ParserSpec
from ..types.messages import Message, Text, Tool
from ..types.request import Request
from .reasoning import tags_of
from .structured.grammar import Grammar, GrammarCompiler, checked
from .structured.reasoning_gate import PrefaceGate, ReasoningGate
from .text_parser import text_parser
from .tool_formats.detect import tool_format_of
from .tool_formats.notation import json_rule
from .tool_formats.tool_format import naming, speller, unknown_keywords


class AnswerFormat:
    """Makes what each answer of one model needs. `source` is its chat template's."""

    def __init__(self, weights: Weights, source: str) -> None:
        self.dialect = tool_format_of(source)
        self._special = {*weights.control_texts, *weights.user_defined_texts}
        self.tags = tags_of(source)
        self._weights = weights
        self._grammars = GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers)
        written = "".join(self.dialect.markers) + "".join(self.tags or ())
        self._controls = {
            text: weights.tokenize(text, parse_special=True)[0]
            for text in weights.control_texts
            if text in written and len(text) > 1
        }
        weights.spell_out(self._controls.values())
        self._spell = speller(self._controls)

    def tools(self, request: Request) -> tuple[Tool, ...]:
        """The tools that a request's prompt shows."""
        return () if request.tool_choice == "none" else request.tools

    def _callable(self, request: Request) -> tuple[Tool, ...]:
        """Those of them that its answer may call."""
        allowed = request.allowed
        return tuple(tool for tool in self.tools(request) if allowed is None or tool.name in allowed)

    def banned(self, request: Request) -> frozenset[int]:
        """Control tokens that would begin a call where none may be made."""
        if self.tools(request) or request.raw:
            return frozenset()
        return frozenset(token for text, token in self._controls.items() if self.dialect.marker.startswith(text))

    def constraint(self, request: Request) -> Grammar | None:
        """What the tokens of an answer must keep to, once they are no thought. Raises `InvalidRequest`."""
        tools = self._callable(request)
        said = _said(request.continued)
        grammar = None
        if tools and request.continued is not None and self.dialect.preface:
            raise InvalidRequest("this model cannot go on from a message where it may call tools", "messages")
        if tools:
            self._check_said(said, tools)
            grammar = self._calls(request, tools)
        elif request.json_schema is not None:
            grammar = self._grammars.json(request.json_schema)
        elif request.grammar is not None:
            grammar = self._grammars.lark(request.grammar)
        elif request.regex is not None:
            grammar = self._grammars.regex(request.regex)
        if grammar is not None and said:
            grammar.begin(said)
        return grammar

    def _check_said(self, said: str, tools: Sequence[Tool]) -> None:
        """Refuses to go on from a message that calls a tool, or whose end may be the beginning of a call."""
        reader = text_parser(self.dialect, tools)
        text = "".join(piece.text for piece in reader.feed(said) if isinstance(piece, Delta))
        if text.rstrip() != said.rstrip():
            raise InvalidRequest(
                "the assistant's message at the end begins to call a tool, which cannot be continued; calls stand in "
                "tool_calls",
                "messages",
            )

    def _calls(self, request: Request, tools: Sequence[Tool]) -> Grammar:
        for name in ("grammar", "regex"):
            if getattr(request, name) is not None:
                raise InvalidRequest(f"{name} and tools exclude each other; give one of them", name)
        warnings = [warning for tool in tools for warning in unknown_keywords(tool)]
        instead = None
        if request.json_schema is not None:
            warnings += checked(request.json_schema)[1]
            instead = json_rule(request.json_schema)
        required = request.tool_choice == "required"
        grammar = self.dialect.lark(tools, self._spell, required=required, parallel=request.parallel, instead=instead)
        try:
            return self._grammars.calls(grammar, tuple(warnings))
        except InvalidRequest as error:
            for tool in tools:
                self._check(tool)
            raise InvalidRequest(f"these tools cannot be called: {error.message}", "tools") from error

    def _check(self, tool: Tool) -> None:
        """Raises an error that names the tool, where it is this one whose schema cannot be enforced."""
        with naming(tool):
            self._grammars.calls(self.dialect.lark([tool], self._spell, required=True, parallel=False))

    def after_thinking(self, constraint: Constraint, request: Request, thinking: bool) -> Constraint:
        """Lets the model think before it keeps to the constraint; `thinking`: its prompt has it begin with that.

        An answer that continues a message is past its thoughts; one to a raw prompt has none.
        """
        if request.continued is not None or request.raw:
            return constraint
        if self.dialect.preface:
            if self._callable(request):
                return constraint  # which speaks of what stands before an answer itself
            return PrefaceGate(self._grammars.calls(self.dialect.beginning(self._spell)), constraint)
        if self.tags is None:
            return constraint
        first = self._weights.tokenize(self.tags.opening, parse_special=True)[0]
        opening = first if self._weights.text_of(first) in self._special else None
        return ReasoningGate(
            constraint, self.tags.closing, opening, self._weights.piece, self._weights.end_tokens, thinking=thinking
        )

    def parser_spec(self, request: Request, in_reasoning: bool) -> ParserSpec | None:
        """What the stream's reader needs to parse the answer; `None` if all of the answer is plain text."""
        if request.raw:
            return None
        tools = self._callable(request)
        tags = self.tags
        continues = request.continued is not None and bool(_said(request.continued) or self.dialect.preface)
        if self.dialect.reader is None and not tools and (tags is None or continues):
            return None
        return ParserSpec(self.dialect.name, tools, tags and (tags.opening, tags.closing), in_reasoning, continues)


def _said(continued: Message | None) -> str:
    """The text that an answer goes on from."""
    return "\n".join(part.text for part in continued.parts if isinstance(part, Text)) if continued else ""
