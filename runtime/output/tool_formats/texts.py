"""Grammar rules for texts that are written verbatim, without JSON's quotes and escapes, up to an end marker."""

from __future__ import annotations

import json
from typing import Any

from ..structured.branches import TooManyBranches, allows, branches
from ..structured.patterns import whole_text
from .notation import EnforcedTool

UNWRITABLE_NAME = "has a name that cannot be written in this model's tool-call format"
_MAX_LITERALS = 16
_HOUR, _MINUTE = "(?:[01][0-9]|2[0-3])", "[0-5][0-9]"
_DATE = "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_TIME = rf"{_HOUR}:{_MINUTE}:{_MINUTE}(?:\.[0-9]{{1,9}})?(?:Z|[+-]{_HOUR}:{_MINUTE})"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": rf"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@{_LABEL}(?:\.{_LABEL})+",
    "hostname": rf"{_LABEL}(?:\.{_LABEL})*",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+",
}
"""Regular expressions of formats: llguidance has them for JSON only. Some allow less than the format."""


def text_branches(schema: Any, definitions: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The branches of a schema that allows only texts, or `None` if it allows other values, too."""
    try:
        alternatives = branches(schema, definitions)
    except TooManyBranches:
        return None
    for branch in alternatives:
        values = branch.get("enum")
        only_texts = bool(values) and all(isinstance(value, str) for value in values or ())
        if branch.get("types", [] if only_texts else None) not in (["string"], []) or (values and not only_texts):
            return None
    return alternatives or None


def text_rule(
    branch: dict[str, Any], end: str, tool: EnforcedTool, place: str, name: str, rules: list[str]
) -> str | None:
    """Adds a rule for a text that ends with the expression `end`. Returns its name, or `None` if no text is allowed."""
    rule = f"{name}_t{len(rules)}"
    if "enum" in branch:
        values = [value for value in branch["enum"] if allows(branch, value)]
        if not values:
            return None
        for keyword in {"pattern", "format"} & branch.keys():
            tool.cannot_write(keyword, place, "next to enum ")
        rules.append(f"{rule}: {one_of(values)} {end}")
        return rule
    least, most = branch.get("minLength", 0), branch.get("maxLength", "")
    regexes = [f"/(.|\\n){{{least},{most}}}/" if least or most != "" else "/(.|\\n)*/"]
    for pattern in branch.get("pattern", ()):
        regex = whole_text(pattern)
        if regex is None:
            tool.cannot_write("pattern", place)
        else:
            regexes.append(lark_regex(regex))
    for text_format in branch.get("format", ()):
        if text_format in _FORMATS and len(regexes) == 1:  # with a pattern, it might be that no text satisfies both
            regexes.append(lark_regex(_FORMATS[text_format]))
        else:
            tool.cannot_write("format", place)
    text = regexes[0]
    if len(regexes) > 1:
        text = rule.upper()
        rules.append(f"{text}: {' & '.join(regexes)}")
    lazy = "" if end.startswith("<[") else "[lazy]"
    rules.append(f"{rule}{lazy}: {text} {end}")
    return rule


def one_of(texts: list[str]) -> str:
    """A grammar expression for any of these texts. Many become one regular expression: a step allows few rules."""
    if len(texts) <= _MAX_LITERALS:
        return f"({' | '.join(map(literal_text, texts))})"
    return lark_regex(f"(?:{'|'.join(map(_regex_literal, texts))})")


def _regex_literal(text: str) -> str:
    escapes = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "".join(escapes.get(c, c if c.isalnum() or c in " _" or c > "~" else "\\" + c) for c in text)


def literal_text(text: str) -> str:
    """A grammar expression that matches exactly this text."""
    return json.dumps(text, ensure_ascii=False) if text else '""'


def lark_regex(regex: str) -> str:
    """A regular expression as a terminal of a grammar."""
    escaped = regex.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n").replace("\r", "\\r")
    return f"/{escaped}/"


def other_names(listed: list[str], regex: str) -> str:
    """A terminal for the names of properties that are not listed."""
    excluded = "|".join(map(_regex_literal, filter(None, listed)))
    return lark_regex(regex) + (f" & ~{lark_regex(f'(?:{excluded})')}" if excluded else "")
