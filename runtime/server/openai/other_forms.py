"""Brings requests in the forms of other programs' clients into the documented form: settings and the answer's format.

Works on decoded JSON of any shape. Values that have no known form are left as they are, for the error that follows.
Entered only if a request does not have the documented form.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ....models.errors import InvalidRequest
from ...types.warnings import Warnings

_SAME_MEANING = {
    "repetition_penalty": "repeat_penalty",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "random_seed": "seed",
}
"""Fields of vLLM, llama-server, Text Generation Inference and Mistral, with Galago's name for them."""
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "ebnf": "grammar",
    "json_schema": "json",
}
"""Fields of vLLM, SGLang and llama-server for the answer's form, with their names in vLLM's `structured_outputs`."""
_NO_FORMAT = ("", "auto", "default", "none", "null")
_KEYWORDS = frozenset(("type", "properties", "anyOf", "oneOf", "allOf", "$ref", "$defs", "enum", "const", "items"))
"""Members that identify an object without `schema` as a schema itself."""


def settings(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """A copy of a request with the documented settings and format of the answer."""
    raw = {**raw}
    for alias, name in _SAME_MEANING.items():
        value = raw.pop(alias, None)
        if value is None:
            continue
        if raw.get(name) not in (None, value):
            problem = f"{alias} and {name} have the same meaning and different values"
            warnings.add_unless_strict(problem, alias, instead=f"{name} is used")
        else:
            raw[name] = value
    if isinstance(raw.get("logit_bias"), list):
        raw["logit_bias"] = _biases(raw["logit_bias"])
    if "response_format" in raw:
        raw["response_format"] = _answer_format(raw["response_format"], warnings)
    warnings.caller_fields = _set_guided_form(raw)
    return raw


def _biases(pairs: list[Any]) -> Any:
    """llama-server's list of pairs as an object; `false` forbids a token."""
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int) for pair in pairs):
        return pairs
    return {str(token): -100 if bias is False else bias for token, bias in pairs}


def _set_guided_form(raw: dict[str, Any]) -> dict[str, str]:
    """Replaces the fields that determine the answer's form by `response_format`, `regex` or `grammar`.

    Returns the replaced field of each.
    """
    replaced = {}
    outputs = raw.pop("structured_outputs", None)
    forms = {name: value for name, value in outputs.items() if value} if isinstance(outputs, dict) else {}
    fields = dict.fromkeys(forms, "structured_outputs")
    given = raw.get("response_format")
    kind = given.get("type") if isinstance(given, dict) else None
    if isinstance(given, dict) and kind in ("regex", "grammar"):
        raw["response_format"] = None
        forms[kind] = next((given[name] for name in (kind, "pattern", "value") if name in given), None)
        fields[kind] = "response_format"
    for field, name in _GUIDED.items():
        value = raw.pop(field, None)
        if value is not None:
            forms[name], fields[name] = value, field
    for name, value in forms.items():
        target, form = _form(name, value, fields[name])
        if raw.get(target) is not None:
            raise InvalidRequest(f"{fields[name]} and {target} exclude each other; give only one of them", fields[name])
        raw[target], replaced[target] = form, fields[name]
    return replaced


def _form(name: str, value: Any, field: str) -> tuple[str, Any]:
    """The documented field for a form of the answer, and its value."""
    match name, value:
        case "json", str():
            try:
                return _form(name, json.loads(value), field)
            except ValueError:
                pass
        case "json", dict() | bool():
            return "response_format", {"type": "json_schema", "json_schema": {"schema": value}}
        case "json_object", _:
            return "response_format", {"type": "json_object"}
        case "regex" | "grammar", str():
            return name, value
        case "choice", [*texts] if texts and all(isinstance(text, str) for text in texts):
            return "regex", "|".join(map(re.escape, texts))
    raise InvalidRequest(f"{field}: {name} has no form that is supported here", field)


def _asks_for_no_format(given: Any) -> bool:
    kind = given.get("type") if isinstance(given, dict) else given
    return isinstance(kind, str) and kind.strip().lower() in _NO_FORMAT


def _answer_format(given: Any, warnings: Warnings) -> Any:
    if given is False or given in ("", []) or _asks_for_no_format(given):
        shown = json.dumps(given, ensure_ascii=False)
        warnings.add_unless_strict(f"response_format is {shown:.60}", "response_format", instead="the answer is text")
        return None
    if isinstance(given, str):
        given = {"type": given}
    if not isinstance(given, dict):
        return given
    kind = given.get("type", "json_schema" if "json_schema" in given else None)
    kind = kind.strip().lower() if isinstance(kind, str) else kind
    schema = given.get("schema", given.get("value"))
    if kind == "json":
        kind, given = ("json_schema", {"schema": schema}) if schema is not None else ("json_object", given)
    if kind is None:
        return None if not given or given == {"type": None} else given
    if kind != "json_schema":
        return {**given, "type": kind}
    inner = given.get("json_schema")
    if not isinstance(inner, dict):
        inner = {name: value for name, value in given.items() if name not in ("type", "json_schema")}
    elif "schema" not in inner and _KEYWORDS & inner.keys():
        inner = {"schema": inner}
    if inner.get("schema") is None:
        problem = "response_format has no schema"
        warnings.add_unless_strict(problem, "response_format", instead="the answer is any JSON object")
        return {"type": "json_object"}
    return {"type": kind, "json_schema": inner}
