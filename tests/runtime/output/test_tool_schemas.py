"""One tool's schema never ends a request: what cannot be enforced of it is named, and everything else is enforced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fakes.schemas import check_valid
from fakes.server import Server
from fakes.tool_schemas import ARGUMENTS, CONSTRUCTS, ENDLESS, REFUSED_IN_ANSWERS, SLOPPY, with_property
from galago.models.errors import InvalidRequest
from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.output.constraints import AnswerConstraints
from galago.runtime.output.structured.grammar import Grammar, GrammarCompiler
from galago.runtime.output.text_parser import parse_text, text_parser
from galago.runtime.output.tool_formats.deepseek import DEEPSEEK
from galago.runtime.output.tool_formats.detect import TOOL_FORMATS
from galago.runtime.output.tool_formats.gemma import GEMMA
from galago.runtime.output.tool_formats.generic import GENERIC
from galago.runtime.output.tool_formats.glm import GLM
from galago.runtime.output.tool_formats.harmony import HARMONY
from galago.runtime.output.tool_formats.hermes import HERMES
from galago.runtime.output.tool_formats.lfm2 import LFM2
from galago.runtime.output.tool_formats.llama3 import LLAMA3
from galago.runtime.output.tool_formats.mistral import MISTRAL
from galago.runtime.output.tool_formats.qwen_xml import QWEN_XML
from galago.runtime.output.tool_formats.tool_format import ToolFormat, template_tool
from galago.runtime.types.events import ToolCallArguments
from galago.runtime.types.messages import Message, Text, Tool
from galago.runtime.types.request import MAX_TOOLS, Request
from galago.runtime.types.warnings import Warnings

EVERY = [*TOOL_FORMATS, GENERIC]
SAMPLED = [HERMES, QWEN_XML, GEMMA, LFM2]
NOTATIONS = [*SAMPLED, GLM, HARMONY, LLAMA3, MISTRAL, DEEPSEEK]
SCHEMAS = [*ARGUMENTS, *map(with_property, [*CONSTRUCTS, *SLOPPY])]
FREE = Tool("search", None, {"type": "object", "properties": {"q": {"type": "string"}}})


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights, 0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def constraints(weights: Weights) -> Iterator[dict[str, AnswerConstraints]]:
    """Without a limit in time, at which a busy machine would use tools without their schemas."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALAGO_LIMIT_GRAMMAR_SECONDS", "600")
        yield {tool_format.name: AnswerConstraints(weights, tool_format, None) for tool_format in EVERY}


@pytest.fixture(scope="module")
def compiler(weights: Weights) -> GrammarCompiler:
    return GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers)


def request(*tools: Tool, **options: Any) -> Request:
    messages = (Message("user", (Text("Hi"),)),)
    given: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False} | options
    return Request(messages, tools=tools, **given)


def sample(weights: Weights, grammar: Grammar, seed: int, most_tokens: int = 120) -> str | None:
    """A random answer that a grammar allows; closing characters are preferred. `None` if it did not end."""
    rng, said = np.random.default_rng(seed), b""
    closing = {t for t in range(weights.vocab_size) if weights.piece(t) in (b'"', b"}", b"]", b")", b"<", b"|", b">")}
    for step in range(most_tokens):
        logits = np.zeros(weights.vocab_size, np.float32)
        grammar.mask(logits)
        allowed = np.flatnonzero(logits > -np.inf).tolist()
        ends = [t for t in allowed if t in weights.end_tokens]
        likely = [t for t in allowed if t in closing] if rng.random() < 0.3 + step / most_tokens else []
        token = int(rng.choice(ends or likely or allowed))
        if token in weights.end_tokens:
            break
        grammar.accept(token)
        said += weights.piece(token)
        if grammar.ended:
            break
    else:
        return None
    return said.decode("utf-8", "replace")


@pytest.mark.parametrize("tool_format", NOTATIONS, ids=[f.name for f in NOTATIONS])
def test_no_schema_of_a_tool_ends_the_request(
    constraints: dict[str, AnswerConstraints], tool_format: ToolFormat
) -> None:
    tools = [Tool(f"f{i}", None, schema) for i, schema in enumerate(SCHEMAS)]
    warnings = Warnings()
    grammar = constraints[tool_format.name].grammar(request(FREE, *tools, tool_choice="auto"), warnings)
    assert grammar is not None and len(grammar.tools) == len(SCHEMAS) + 1
    assert warnings and all(warning.startswith("the tool 'f") for warning in warnings[:-1])
    assert warnings[-1].endswith("more parts of the tools' schemas are not enforced")


@pytest.mark.parametrize("tool_format", SAMPLED, ids=[f.name for f in SAMPLED])
def test_calls_satisfy_what_is_enforced(
    weights: Weights, constraints: dict[str, AnswerConstraints], tool_format: ToolFormat
) -> None:
    finished = 0
    for seed, schema in enumerate(SCHEMAS):
        warnings = Warnings()
        grammar = constraints[tool_format.name].grammar(request(Tool("f", None, schema)), warnings)
        assert grammar is not None
        (tool,) = grammar.tools
        if (answer := sample(weights, grammar, seed)) is None:
            continue
        parsed = parse_text(text_parser(tool_format, [tool]), answer)
        arguments = "".join(piece.text for piece in parsed if isinstance(piece, ToolCallArguments))
        assert isinstance(json.loads(arguments), dict), answer
        finished += 1
        if not any("cannot be expressed" in warning or "cannot be written" in warning for warning in warnings):
            check_valid(arguments, tool.parameters)
        if not warnings and schema and seed < len(SCHEMAS) - len(SLOPPY):
            check_valid(arguments, schema)
    assert finished > 0.7 * len(SCHEMAS)


@pytest.mark.parametrize("tool_format", SAMPLED, ids=[f.name for f in SAMPLED])
def test_calls_continue_in_spite_of_an_endless_schema(
    weights: Weights, constraints: dict[str, AnswerConstraints], tool_format: ToolFormat
) -> None:
    loop = {"anyOf": [{"$ref": "#/properties/a"}]}
    for given in (*(given for given, _ in ENDLESS), with_property(loop), with_property({"oneOf": []})):
        warnings = Warnings()
        grammar = constraints[tool_format.name].grammar(request(Tool("f", None, given)), warnings)
        assert grammar is not None and warnings
        sample(weights, grammar, 1, most_tokens=40)


def test_sixty_and_more_constructs_are_accepted_in_answers_and_enforced(
    weights: Weights, compiler: GrammarCompiler
) -> None:
    accepted = 0
    for seed, construct in enumerate(CONSTRUCTS):
        schema = with_property(construct) | {"additionalProperties": False}
        if construct in REFUSED_IN_ANSWERS:
            with pytest.raises(InvalidRequest, match="at #/properties/a "):
                compiler.json(schema)
            continue
        accepted += 1
        answer = sample(weights, compiler.json(schema), seed)
        if answer is not None:
            check_valid(answer, schema)
    assert len(CONSTRUCTS) >= 65 and accepted >= len(CONSTRUCTS) - 3


@pytest.mark.parametrize("schema", [s for s in SLOPPY if s not in SLOPPY[:4]], ids=str)
def test_a_strict_tool_is_refused_with_the_keyword_and_the_place(
    constraints: dict[str, AnswerConstraints], schema: Any
) -> None:
    """Unless what is wrong says nothing of a value."""
    tool, strict = with_property(schema), Tool("f", None, with_property(schema), strict=True)
    for asked in (request(strict), request(Tool("f", None, tool), strict=True)):
        try:
            constraints["hermes"].grammar(asked, noted := Warnings())
        except InvalidRequest as refused:
            assert "'f'" in refused.message and "at #" in refused.message
            assert refused.param == "tools"
        else:
            assert not asked.strict or not noted


def test_unusable_tools_are_left_out_with_a_warning(constraints: dict[str, AnswerConstraints]) -> None:
    twice = [Tool("f", None, with_property({"const": i})) for i in range(2)]
    asked = request(*twice, Tool("a b"), Tool(""), Tool("mcp__x.y/z:1@2" + "a" * 100))
    warnings = Warnings()
    grammar = constraints["hermes"].grammar(asked, warnings)
    assert grammar is not None and [tool.name[:3] for tool in grammar.tools] == ["f", "mcp"]
    assert grammar.tools[0].parameters and grammar.tools[0].parameters["properties"]["a"] == {"const": 0}
    assert [word in line for word, line in zip(("'f'", "'a b'", "''"), warnings, strict=True)] == [True] * 3
    strict = Warnings()
    strict.strict = True
    with pytest.raises(InvalidRequest, match="two tools are named 'f'"):
        constraints["hermes"].grammar(request(*twice, strict=True), strict)


def test_names_with_dots_and_slashes_are_called_in_every_format(
    weights: Weights, constraints: dict[str, AnswerConstraints]
) -> None:
    name = "mcp.files/read:v2_" + "x" * 90
    for tool_format in EVERY:
        grammar = constraints[tool_format.name].grammar(request(Tool(name)), Warnings())
        assert grammar is not None
        answer = sample(weights, grammar, 0, 400)
        assert answer is not None
        parser = text_parser(tool_format, grammar.tools)
        assert [*parse_text(parser, answer)] and parser.has_complete_calls, answer


def test_many_tools_compile_once_and_grammars_are_independent(
    weights: Weights, constraints: dict[str, AnswerConstraints]
) -> None:
    tools = [Tool(f"mcp__server__tool_{i}", None, with_property({"type": "string"})) for i in range(188)]
    first, second = (constraints["hermes"].grammar(request(*tools), Warnings()) for _ in range(2))
    assert first is not None and second is not None and first is not second
    begun = sample(weights, first, 0)
    assert begun is not None and sample(weights, second, 0) == begun
    with pytest.raises(InvalidRequest, match=f"at most {MAX_TOOLS}"):
        request(*(Tool(f"t{i}") for i in range(MAX_TOOLS + 1)))


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": None}])
def test_templates_always_get_properties(parameters: Any) -> None:
    assert template_tool(Tool("f", None, parameters))["function"]["parameters"] == {"type": "object", "properties": {}}


OVER_HTTP = [with_property(schema) for schema in [*CONSTRUCTS[::4], *SLOPPY[::4]]] + ARGUMENTS[1:8]


def _bodies(schema: Any) -> list[tuple[str, dict[str, Any]]]:
    said = [{"role": "user", "content": "Hi"}]
    function = {"name": "f", "description": "d", "parameters": schema}
    nested = {"tools": [{"type": "function", "function": function}]}
    flat = {"tools": [{"type": "function", "strict": False, **function}]}
    claude = {"tools": [{"name": "f", "input_schema": schema}]}
    return [
        ("/v1/chat/completions", {"messages": said, "max_tokens": 1, **nested}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 1, **flat}),
        ("/v1/messages", {"model": "builtin", "max_tokens": 1, "messages": said, **claude}),
        ("/api/chat", {"model": "builtin", "stream": False, "messages": said, "options": {"num_predict": 1}, **nested}),
    ]


@pytest.mark.parametrize("schema", OVER_HTTP, ids=lambda schema: json.dumps(schema)[:60])
def test_every_api_answers_whatever_a_tools_schema_is(server: Server, schema: Any) -> None:
    for path, body in _bodies(schema):
        answer = server.post(body, path)
        assert answer.status_code == 200, (path, answer.text)


def test_the_warning_is_in_the_answer_and_names_tool_keyword_and_place(server: Server) -> None:
    schema = with_property({"type": "array", "items": {"type": "string"}, "uniqueItems": True})
    for path, body in _bodies(schema):
        (warning,) = server.post(body, path).json()["warnings"]
        assert warning.startswith("the tool 'f': uniqueItems at #/properties/a is not enforced"), path
