"""JSON schemas, Lark grammars and regular expressions of all shapes, deep chains included, for answers and tools."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

from hypothesis import strategies as st

from galago.models.errors import InvalidRequest
from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.output.constraints import AnswerConstraints
from galago.runtime.output.tool_formats.hermes import HERMES
from galago.runtime.types.messages import Message, Text, Tool
from galago.runtime.types.request import Request
from galago.runtime.types.warnings import Warnings

from ..target import Target

Form: TypeAlias = tuple[str, Any]
"""The field of a request, and its value."""

_TOKENS = 24
_CRASHED = "nested too deeply or too large to be compiled"


def _words(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


_COUNTS = st.sampled_from([0, 1, 2, 3, 10, 100, 999, 5000, 100_000, 2**31 - 1, 2**31])
_LENGTHS = st.sampled_from([3, 30, 300, 1500, 3000])


def _defined(schemas: list[Any]) -> dict[str, Any]:
    return {"$ref": "#/$defs/d0", "$defs": {f"d{i}": schema for i, schema in enumerate(schemas)}}


_PATTERNS = st.recursive(
    st.sampled_from(["a", ".", "[a-z]", r"\d", r"\w", r"\p{L}", "(?=a)", "(?!b)", r"\b", "^", "$", "é", "[^x]", ""]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.tuples(inner, _COUNTS, _COUNTS).map(lambda three: "(?:{}){{{},{}}}".format(*three)),
        st.tuples(inner, _COUNTS).map(lambda two: f"(?:{two[0]}){{{two[1]}}}"),
        st.tuples(inner, st.sampled_from([10, 200, 3000])).map(lambda two: "(" * two[1] + two[0] + ")" * two[1]),
    ),
    max_leaves=8,
)

_TEXTS = st.sampled_from(["a", "b", "é", '"', "x" * 300, ""])
_VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _TEXTS)
_SCHEMAS = st.recursive(
    st.one_of(
        st.booleans(),
        st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "null", "object", "array", "number"])}),
        st.builds(lambda p: {"type": "string", "pattern": p}, _PATTERNS),
        st.builds(lambda f: {"format": f}, st.sampled_from(["date", "email", "uri", "duration", "regex", "int64"])),
        st.builds(lambda v: {"enum": v}, st.lists(_VALUES, max_size=4)),
        st.builds(lambda n: {"enum": [f"word {i}" for i in range(n)]}, _LENGTHS),
        st.builds(lambda n: {"$ref": f"#/$defs/d{n}"}, st.integers(0, 3)),
        st.dictionaries(
            _words("minLength maxLength minItems maxItems minProperties maxProperties multipleOf"),
            _COUNTS,
        ),
        st.dictionaries(_words("minimum maximum exclusiveMinimum exclusiveMaximum"), st.floats(-1e9, 1e9)),
    ),
    lambda inner: st.one_of(
        st.dictionaries(_words("items not if then contains additionalProperties"), inner, max_size=2),
        st.dictionaries(_words("allOf anyOf oneOf prefixItems"), st.lists(inner, max_size=4), max_size=1),
        st.builds(lambda a, b: {**_as_dict(a), **_as_dict(b)}, inner, inner),
        st.dictionaries(_TEXTS, inner, max_size=3).map(lambda v: {"properties": v, "required": [*v]}),
        st.lists(inner, max_size=4).map(_defined),
        st.builds(lambda v, n: {"anyOf": [v] * n}, inner, _LENGTHS),
        st.builds(lambda v, n: {"type": "object", "properties": {f"p{i}": v for i in range(n)}}, inner, _LENGTHS),
        st.builds(lambda v, n: {"items": _nested(v, n)}, inner, _LENGTHS),
    ),
    max_leaves=8,
)

_LINKS = [
    lambda ref: ref,
    lambda ref: {"items": ref},
    lambda ref: {"allOf": [ref, {"type": ["string", "null"]}]},
    lambda ref: {"anyOf": [ref, {"type": "null"}]},
    lambda ref: {"oneOf": [ref, {"type": "null"}]},
    lambda ref: {"properties": {"a": ref}, "required": ["a"]},
    lambda ref: {"additionalProperties": ref},
    lambda ref: {"prefixItems": [ref, ref]},
    lambda ref: {"patternProperties": {"^a": ref}},
    lambda ref: {"not": ref},
    lambda ref: {"if": ref, "then": ref},
]

_RULES = ["r0", "r1", "r2", "T0", "T1", "start"]
_EXPRESSIONS = st.recursive(
    st.one_of(
        st.sampled_from(
            [*_RULES, '"a"', '"ab"i', "/[a-z]+/", "/.*/", '""', '"a".."z"', "<[0-9]>", "<[*]>", "<|end|>", "@x"]
        ),
        _PATTERNS.map(lambda pattern: f"/{pattern}/"),
        _SCHEMAS.map(lambda schema: "%json " + str(schema).replace("'", '"')),
        st.sampled_from(['%regex {"substring_words": "a b c a b c"}', '%lark { start: "x" }', "%json {"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(" ".join),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: f"({' | '.join(parts)})"),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: f"({' & '.join(parts)})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"({two[0]}){two[1]}"),
        st.tuples(inner, _COUNTS, _COUNTS).map(lambda three: "({})~{}..{}".format(*three)),
        st.tuples(inner, _COUNTS).map(lambda two: "({}){{{}}}".format(*two)),
        inner.map(lambda one: f"~({one})"),
        inner.map(lambda one: f"[{one}]"),
        st.tuples(inner, st.sampled_from([5, 28, 2000])).map(lambda two: "(" * two[1] + two[0] + ")" * two[1]),
    ),
    max_leaves=8,
)
_ATTRIBUTES = st.sampled_from(
    ["", "", "", "[lazy]", "[capture]", '[stop="a"]', "[max_tokens=3]", '[suffix="b"]', "::_", ".2"]
)


def _as_dict(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


def _nested(schema: Any, depth: int) -> Any:
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def _schema_chain(length: int, link: Any, step: int) -> dict[str, Any]:
    """A chain of definitions, each of which refers to the next. With `step`, references start from the last one."""
    definitions = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    starts = range(length, -1, -step) if step else (0,)
    return {
        "anyOf": [{"$ref": f"#/$defs/d{i}"} for i in starts],
        "$defs": {**definitions, f"d{length}": {"type": "null"}},
    }


def _rule_chain(name: str, length: int, before: str, after: str) -> str:
    body = "\n".join(f"{name}{i}: {before} {name}{i + 1} {after}" for i in range(length))
    return f'start: {name}0\n{body}\n{name}{length}: "b"\n'


def _lark(rules: list[tuple[str, str]]) -> str:
    lines = [f"{name}{attributes}: {rule}" for name, (attributes, rule) in zip(["start", *_RULES], rules, strict=False)]
    return "\n".join([*lines, "%ignore / /"])


_GROUPS = st.sampled_from(
    [("", ""), ('"a"', '| "c"'), ("(" * 10, ")" * 10), ("[" * 23, "]" * 23), ("(", ")*"), ('"x" &', "")]
)
_LARK = st.one_of(
    st.lists(st.tuples(_ATTRIBUTES, _EXPRESSIONS), min_size=1, max_size=6).map(_lark),
    st.builds(lambda n, length, two: _rule_chain(n, length, *two), st.sampled_from("rT"), _LENGTHS, _GROUPS),
    st.builds(lambda n: "start: " + " | ".join(f'"word {i}"' for i in range(n)), _LENGTHS),
    st.builds(
        lambda n, word: f"start: a\na::_: %if {word}(" + f"{word}(" * n, _LENGTHS, st.sampled_from(["and", "not"])
    ),
    st.builds(lambda rule: f"root ::= {rule}", _EXPRESSIONS),
    st.text(max_size=60),
    st.builds(lambda text, n: text * n, st.text('(){}[]|&~%"/\\<>:*\n aT', min_size=1, max_size=4), _LENGTHS),
)
_ANSWER_SCHEMAS = st.one_of(
    _SCHEMAS,
    st.builds(_schema_chain, _LENGTHS, st.sampled_from(_LINKS), st.sampled_from([0, 1, 20])),
)
_FORMS: st.SearchStrategy[Form] = st.one_of(
    st.tuples(
        st.sampled_from(["json_schema", "tools"]), _ANSWER_SCHEMAS.filter(lambda schema: isinstance(schema, dict))
    ),
    st.tuples(st.just("grammar"), _LARK),
    st.tuples(st.just("regex"), _PATTERNS),
)


@functools.cache
def _constraints() -> AnswerConstraints:
    return AnswerConstraints(Weights(resolve("builtin").weights, 0), HERMES, None)


def _check(form: Form) -> None:
    """A grammar is refused with an error that names the field, or writes tokens. Tools are never refused."""
    field, value = form
    tools = (Tool("f", None, value),) if field == "tools" else ()
    choice: Any = {"tools": tools, "tool_choice": "required"} if tools else {field: value}
    request = Request((Message("user", (Text("x"),)),), **choice)
    try:
        grammar = _constraints().grammar(request, Warnings())
    except InvalidRequest as error:
        assert field != "tools", "a tool ends the request"
        assert error.param == field, f"the error names {error.param}"
        assert _CRASHED not in error.message, "llguidance has crashed"
        return
    assert grammar is not None
    grammar.try_tokens(_TOKENS)


TARGET = Target(
    inputs=_FORMS,
    check=_check,
    suite_inputs=12,
    seeds=(
        ("json_schema", _schema_chain(2500, _LINKS[0], 0)),
        ("json_schema", _schema_chain(1000, _LINKS[5], 1)),
        ("grammar", _rule_chain("r", 3000, '"a"', "")),
        ("grammar", _rule_chain("T", 3000, "(" * 10, ")" * 10)),
        ("regex", "(?:(?:a{100}){100}){100}"),
        ("tools", {"properties": {"a": {"type": "string", "pattern": "^(a?){5000}a{5000}$"}}, "required": ["a"]}),
    ),
)
