"""Hostile grammars and schemas: an answer or an error that names the field, and the process lives on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from galago.models.errors import Cancelled, InvalidRequest
from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.output.constraints import AnswerConstraints
from galago.runtime.output.grammar_order import GrammarOrder
from galago.runtime.output.structured.grammar import Grammar, GrammarCompiler
from galago.runtime.output.tool_formats.hermes import HERMES
from galago.runtime.types.messages import Message, Text, Tool
from galago.runtime.types.request import Request
from galago.runtime.types.warnings import Warnings


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights, 0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def constraints(weights: Weights) -> Iterator[AnswerConstraints]:
    made = AnswerConstraints(weights, HERMES, None)
    yield made
    made.close()


def request(tool: dict[str, Any] | None = None, *, strict: bool = False, **form: Any) -> Request:
    tools = () if tool is None else (Tool("f", None, tool, strict),)
    return Request((Message("user", (Text("x"),)),), tools=tools, **form)


def chain(length: int, link: Callable[[Any], Any], *, backwards: bool = False) -> dict[str, Any]:
    """A schema whose definitions refer to each other; `backwards`, so that each is seen after the one it refers to."""
    definitions = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)} | {
        f"d{length}": {"type": "null"}
    }
    starts = range(length, -1, -20) if backwards else (0,)
    return {"anyOf": [{"$ref": f"#/$defs/d{i}"} for i in starts], "$defs": definitions}


def rules(length: int, rule: str) -> str:
    """A Lark grammar whose rules or terminals refer to each other."""
    name = rule[0]
    body = "\n".join(f"{name}{i}: " + rule.replace("NEXT", f"{name}{i + 1}").removeprefix(name) for i in range(length))
    return f'start: {name}0\n{body}\n{name}{length}: "b"\n'


SLOW_PATTERNS = {"allOf": [{"type": "string", "pattern": f"^(a|b)*a(a|b){{{i}}}$"} for i in range(60)]}
TOO_COMPLEX = {"type": "string", "pattern": "^(a?){5000}a{5000}$"}

DEEP: list[dict[str, Any]] = [
    {"json_schema": chain(2500, lambda ref: ref)},
    {"json_schema": chain(600, lambda ref: ref, backwards=True)},
    {"json_schema": chain(600, lambda ref: {"items": ref}, backwards=True)},
    {"json_schema": chain(600, lambda ref: {"anyOf": [ref, {"type": "null"}]}, backwards=True)},
    {"json_schema": chain(600, lambda ref: {"properties": {"a": ref}, "required": ["a"]}, backwards=True)},
    {"grammar": rules(3000, 'r"a" NEXT')},
    {"grammar": rules(15000, "TNEXT")},
    {"grammar": rules(2000, "T((((((((((NEXT))))))))))")},
    {"grammar": rules(500, "r" + "[" * 23 + "NEXT" + "]" * 23)},
    {"grammar": "start: a\na: %if " + "and(" * 10000 + "true" + ",true)" * 10000},
    {"grammar": "start: " + "%lark { start: " * 5000},
    {"grammar": "start: %json " + '{"items":' * 5000 + "{}" + "}" * 5000},
    {"regex": "(" * 5000 + "a" + ")" * 5000},
    {"regex": "(?:(?:a{100}){100}){100}"},
    {"grammar": 'start: e\ne: e "+" e | e e | "a" | ""'},
    {"grammar": "start: T\nT: (\"a\"~1000)~1000"},
]  # fmt: skip


@pytest.mark.parametrize("form", DEEP, ids=lambda form: f"{next(iter(form))}-{str(next(iter(form.values())))[:20]}")
def test_deep_and_ambiguous_grammars_compile_or_are_refused_by_name(
    constraints: AnswerConstraints, form: dict[str, Any]
) -> None:
    try:
        grammar = constraints.grammar(request(**form), Warnings())
    except InvalidRequest as error:
        assert error.param == next(iter(form))
    else:
        assert grammar is not None
        grammar.try_tokens(20)


def test_thousands_of_distinct_alternatives_are_enforced(constraints: AnswerConstraints) -> None:
    schema = {"oneOf": [{"const": f"word {i}", "title": "x"} for i in range(5000)]}
    grammar = constraints.grammar(request(json_schema=schema), Warnings())
    assert grammar is not None and "word 4999" in grammar.text


def test_a_tool_with_a_pattern_that_fails_in_mid_answer_is_used_without_it(constraints: AnswerConstraints) -> None:
    schema = {"type": "object", "properties": {"a": TOO_COMPLEX}, "required": ["a"]}
    warnings = Warnings()
    grammar = constraints.grammar(request(schema, tool_choice="required"), warnings)
    assert grammar is not None and grammar.try_tokens(60) is None
    (warning,) = warnings
    assert "the tool 'f': pattern at #/properties/a is not enforced" in warning
    with pytest.raises(InvalidRequest, match="pattern at #/properties/a"):
        constraints.grammar(request(schema, strict=True), Warnings())


def test_tools_that_take_too_long_are_used_without_their_schemas(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_GRAMMAR_SECONDS", "1")
    constraints = AnswerConstraints(weights, HERMES, None)
    schema = {"type": "object", "properties": {"a": SLOW_PATTERNS}}
    warnings = Warnings()
    assert constraints.grammar(request(schema), warnings) is not None
    assert warnings == ["the tools' schemas are not enforced: it takes too long to compile"]
    with pytest.raises(InvalidRequest, match="--limit grammar_seconds") as caught:
        constraints.grammar(request(schema, strict=True), Warnings())
    assert caught.value.param == "tools"
    constraints.close()


def test_a_caller_that_leaves_is_not_waited_for(constraints: AnswerConstraints) -> None:
    left = threading.Event()
    threading.Timer(0.2, left.set).start()
    with pytest.raises(Cancelled):
        constraints.grammar(request(json_schema=SLOW_PATTERNS), Warnings(), left.is_set)
    assert constraints.grammar(request(regex="a+"), Warnings()) is not None


def test_plain_schemas_are_compiled_without_another_process() -> None:
    plain = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}, "b": {"enum": [1, "x"]}}}
    assert GrammarOrder.of(request(plain)).is_plain
    for other in (SLOW_PATTERNS, TOO_COMPLEX, chain(100, lambda ref: ref), {"oneOf": [{"type": "null"}]}):
        assert not GrammarOrder.of(request({"properties": {"a": other}})).is_plain
    assert not GrammarOrder.of(request(regex="a")).is_plain


def test_tokens_that_are_too_long_for_grammars_are_never_written(weights: Weights) -> None:
    tokens, end = weights.grammar_vocabulary()
    long = tokens.index(b"e")
    tokens[long] = b"e" * 3000
    grammar = GrammarCompiler(lambda: (tokens, end), weights.tokenizer_pointers).regex("[a-z]+")
    logits = np.zeros(len(tokens), np.float32)
    grammar.mask(logits)
    assert np.isneginf(logits[long]) and logits[tokens.index(b"a")] == 0


def test_a_slow_grammar_ends_its_answer_or_is_dropped_if_it_is_optional(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galago.runtime.output.structured.grammar._SECONDS_AHEAD", -1.0)
    made = GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers)
    logits = np.zeros(weights.vocab_size, np.float32)
    with pytest.raises(InvalidRequest, match="takes too much time") as caught:
        made.regex("[a-z]+").mask(logits)
    assert caught.value.param == "regex"
    optional: Grammar = made.regex("[a-z]+")
    optional.optional = True
    optional.mask(logits)
    optional.accept(int(weights.eos))
    assert not optional.ended and not np.isneginf(logits).any()
