"""How one model's answers are shaped and read: its dialect, its tags of thoughts, its grammars. Knows no scheduling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...models.errors import InvalidRequest
from ..native.sampler import Constraint
from ..native.weights import Weights
from ..values import Delta, Event, Failed, Finished, Request, Said, Sink, Text, Thought, TokenLogprob, Tool
from .dialects.detect import dialect_of
from .dialects.dialect import speller
from .dialects.notation import json_rule
from .grammar import Grammar, GrammarCompiler
from .reader import AnswerReader
from .reasoning import AfterThinking, tags_of


class Answers:
    """Makes what each answer of one model needs. `source` is its chat template's."""

    def __init__(self, weights: Weights, source: str) -> None:
        self.dialect = dialect_of(source)
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
        """The tools that a request's prompt shows and its answer may call."""
        return () if request.tool_choice == "none" else request.tools

    def banned(self, request: Request) -> frozenset[int]:
        """Control tokens that would begin a call where none may be made."""
        if self.tools(request) or request.raw:
            return frozenset()
        return frozenset(token for text, token in self._controls.items() if self.dialect.marker.startswith(text))

    def constraint(self, request: Request) -> Grammar | None:
        """What the tokens of an answer must keep to, once they are no thought. Raises `InvalidRequest`."""
        tools = self.tools(request)
        if tools:
            return self._calls(request, tools)
        grammar = None
        if request.json_schema is not None:
            grammar = self._grammars.json(request.json_schema)
        elif request.grammar is not None:
            grammar = self._grammars.lark(request.grammar)
        elif request.regex is not None:
            grammar = self._grammars.regex(request.regex)
        if grammar is not None and request.continued is not None:
            grammar.begin("\n".join(part.text for part in request.continued.parts if isinstance(part, Text)))
        return grammar

    def _calls(self, request: Request, tools: Sequence[Tool]) -> Grammar:
        for name in ("grammar", "regex"):
            if getattr(request, name) is not None:
                raise InvalidRequest(f"{name} and tools exclude each other; give one of them", name)
        named = request.tool_name is not None
        chosen = [tool for tool in tools if tool.name == request.tool_name] if named else tools
        options = {} if request.json_schema is None else {"instead": json_rule(request.json_schema)}
        required = named or request.tool_choice == "required"
        parallel = request.parallel and not named
        grammar = self.dialect.lark(chosen, self._spell, required=required, parallel=parallel, **options)
        try:
            return self._grammars.calls(grammar)
        except InvalidRequest as error:
            for tool in chosen:
                self._check(tool)
            raise InvalidRequest(f"these tools cannot be called: {error.message}", "tools") from error

    def _check(self, tool: Tool) -> None:
        """Raises an error that names the tool, where it is this one whose schema cannot be enforced."""
        try:
            self._grammars.calls(self.dialect.lark([tool], self._spell, required=True, parallel=False))
        except InvalidRequest as error:
            message = f"the parameters of the tool {tool.name!r} cannot be enforced: {error.message}"
            raise InvalidRequest(message, "tools") from error

    def after_thinking(self, constraint: Constraint, request: Request, thinking: bool) -> Constraint:
        """Lets the model think before it keeps to the constraint; `thinking`: its prompt has it begin with that.

        An answer that continues a message is past its thoughts; one to a raw prompt has none.
        """
        if self.tags is None or request.continued is not None or request.raw:
            return constraint
        first = self._weights.tokenize(self.tags.opening, parse_special=True)[0]
        opening = first if self._weights.text_of(first) in self._special else None
        return AfterThinking(
            constraint, self.tags.closing, opening, self._weights.piece, self._weights.end_tokens, thinking=thinking
        )

    def read(self, request: Request, thinking: bool, sink: Sink) -> Sink:
        """A sink for the engine's events, which tells `sink` what they say. An answer to a raw prompt is all text."""
        if request.raw:
            return sink
        return _Reading(AnswerReader(self.dialect, self.tools(request), self.tags, thinking), sink)


class _Reading:
    """Passes events on, text as what it says."""

    def __init__(self, reader: AnswerReader, sink: Sink) -> None:
        self._reader = reader
        self._sink = sink
        self._reasoning = 0
        self._untold: list[TokenLogprob] = []

    def __call__(self, event: Event) -> None:
        match event:
            case Delta(text=text, tokens=tokens, logprobs=logprobs):
                self._untold += logprobs
                thinking = self._reader.thinking
                said = self._reader.feed(text)
                if thinking or self._reader.thinking or any(isinstance(piece, Thought) for piece in said):
                    self._reasoning += tokens
                self._tell(said)
            case Finished(reason=reason, usage=usage):
                self._tell(self._reader.finish())
                if self._untold:
                    self._sink(Delta("", 0, tuple(self._untold)))
                if reason == "stop" and self._reader.called:
                    reason = "tool_calls"
                self._sink(replace(event, reason=reason, usage=replace(usage, reasoning_tokens=self._reasoning)))
            case Failed():
                self._sink(event)
            case _:
                self._sink(event)

    def _tell(self, said: list[Said]) -> None:
        """Text takes the logprobs since the last text with it; those of thoughts and calls are not told."""
        for piece in said:
            if isinstance(piece, Delta):
                piece = replace(piece, logprobs=tuple(self._untold))
            self._untold.clear()
            self._sink(piece)
