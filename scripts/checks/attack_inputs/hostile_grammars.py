"""Schemas, grammars and tools that are deep, large, ambiguous or full of repetitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .target import CHAT, Target, head

_WORDS = "start: " + " | ".join(f'"word {i}"' for i in range(60_000))


def _form(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def _chain(length: int, link: Callable[[Any], Any], step: int = 0) -> dict[str, Any]:
    """A chain of definitions, each of which refers to the next. With `step`, references start from the last one."""
    definitions = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    starts = range(length, -1, -step) if step else (0,)
    return {
        "anyOf": [{"$ref": f"#/$defs/d{i}"} for i in starts],
        "$defs": {**definitions, f"d{length}": {"type": "null"}},
    }


def _rules(name: str, length: int, before: str = "", after: str = "") -> str:
    body = "\n".join(f"{name}{i}: {before} {name}{i + 1} {after}" for i in range(length))
    return f'start: {name}0\n{body}\n{name}{length}: "b"\n'


def _slow(number: int = 0) -> dict[str, Any]:
    """A schema of 2 KB that llguidance compares for hours."""
    return {"allOf": [{"type": "string", "pattern": f"^(a|b)*a(a|b){{{i}}}{number}$"} for i in range(60)]}


def _tool(schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    function = {"name": "f", "parameters": parameters}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


def _many(target: Target, count: int, fields: Callable[[int], dict[str, Any]]) -> list[int]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda i: target.chat(**fields(i)), range(count)))


def references_in_a_chain(target: Target) -> list[int]:
    return [target.chat(**_form(_chain(2500, lambda ref: ref)))]


def references_seen_backwards(target: Target) -> list[int]:
    return [
        target.chat(**_form(_chain(1000, link, 1)))
        for link in (lambda ref: {"items": ref}, lambda ref: {"allOf": [ref]})
    ]


def rules_in_a_chain(target: Target) -> list[int]:
    return [target.chat(grammar=_rules("r", 3000, '"a"')), target.chat(grammar=_rules("r", 2000, "[[[[[[", "]]]]]]"))]


def terminals_in_a_chain(target: Target) -> list[int]:
    return [target.chat(grammar=_rules("T", 20_000)), target.chat(grammar=_rules("T", 2000, "(" * 10, ")" * 10))]


def nested_groups_and_schemas(target: Target) -> list[int]:
    depth = 100_000
    texts = ["(" * depth + '"a"' + ")" * depth, "%json " + '{"items":' * depth, "%lark { start: " * 10_000]
    return [target.chat(grammar=f"start: {text}") for text in texts] + [
        target.chat(regex="(" * depth + "a" + ")" * depth)
    ]


def repetitions_of_repetitions(target: Target) -> list[int]:
    regexes = ["(?:(?:a{100}){100}){100}", "(a?){5000}a{5000}", "([a-z]*[a-y]*){500}"]
    return [target.chat(regex=regex, max_tokens=100) for regex in regexes]


def ambiguous_grammars(target: Target) -> list[int]:
    grammars = ['start: e\ne: e "+" e | e e | "a" | ""', 'start: a~50\na: "a" a? | a a | "b"~0..100000']
    return [target.chat(grammar=grammar, max_tokens=100) for grammar in grammars]


def tools_with_hostile_schemas(target: Target) -> list[int]:
    pattern = {"type": "string", "pattern": "^(a?){5000}a{5000}$"}
    return [target.chat(**_tool(schema)) for schema in (pattern, _slow(), _chain(2500, lambda ref: ref))]


def eight_large_grammars_at_once(target: Target) -> list[int]:
    return _many(target, 8, lambda i: {"grammar": f'{_WORDS[:200_000].rpartition(" | ")[0]} | "{i}"'})


def forty_slow_schemas_at_once(target: Target) -> list[int]:
    return _many(target, 40, lambda i: _form(_slow(i)))


def clients_that_leave(target: Target) -> list[int | str]:
    """Clients that leave before their schemas are compiled."""
    for i in range(40):
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], **_form(_slow(i))}).encode()
        target.open(head(CHAT, f"content-length: {len(body)}") + b"\r\n" + body).close()
    target.hold()
    return ["left"]


def alternatives_compared_with_each_other(target: Target) -> list[int]:
    schema = {"oneOf": [{"const": f"word {i}"} for i in range(2000)]}
    return [target.chat(**_form(schema)), target.chat(**_tool(schema))]
