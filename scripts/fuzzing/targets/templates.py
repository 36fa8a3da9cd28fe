"""Chat templates of all of Jinja's statements, expressions, filters and tests: each is rendered in bounded memory and
time, or refused.
"""

from __future__ import annotations

import os
import re
import resource
import time
from typing import Any

from hypothesis import strategies as st

from galago.models.errors import ModelError, TemplateError
from galago.runtime.prompt.template import ChatTemplate

from ..target import Target

LIMITS = {"GALAGO_LIMIT_TEMPLATE_SECONDS": "0", "GALAGO_LIMIT_TEMPLATE_MEMORY": "64MiB"}
MAX_BYTES = 64 << 20
"""Most memory that one input may add to this process. The operating system limits a renderer to the same."""
MAX_SECONDS = 60.0
"""A renderer that is not stopped runs forever. This is far more than all limits together."""

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello <b>there</b> 'x' \u00e9\u6f22\U0001f600"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, None]}}}],
    },
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]

_START = "{% set ns = namespace(x=[], y=1) %}{% set x = messages | length %}{% set r = range(99999) %}"

_NAMES = "messages tools m x y ns ns.x ns.y loop r f varargs caller self nothing".split()
_FILTERS = (
    "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format "
    "groupby indent int items join last length list lower map max min pprint random reject rejectattr replace reverse "
    "round safe select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode "
    "urlize wordcount wordwrap xmlattr"
).split()
_TESTS = (
    "boolean callable defined divisibleby eq equalto escaped even false filter float ge greaterthan gt in integer "
    "iterable le lessthan lower lt mapping ne none number odd sameas sequence string test true undefined upper"
).split()
_METHODS = (
    "append casefold center copy count encode expandtabs extend find format format_map get index items join keys ljust "
    "lower partition pop replace rjust rsplit split splitlines startswith strip swapcase title translate update upper "
    "values zfill __class__ __init__ __globals__ __mro__ __subclasses__ cycle previtem changed role content"
).split()
_CONSTANTS = (
    "0 1 2 9 99999 (10**9) -1 1.5 1e308 true false none '' 'a' '%s' '%1000000000d' '%*d' '{:>9999999999}' "
    "'{0.__class__}' '<b>' 'a.b' '\\n' [] {} ()"
).split()

_EXPRESSIONS = [
    *(f"(E {operator} E)" for operator in "+ - * / // % ** ~ == != < <= > >= in and or".split()),
    *("(E not in E)", "(E < E <= E)", "(E == E == E)", "(not E)", "(- E)", "(E if E else E)"),
    *("E | F", "E | F(E)", "E | F(E, E)", "E | F(attribute=E)", "E | F(start=E)", "E | F(indent=E)"),
    *("(E is T)", "(E is not T)", "(E is T(E))", "E.M", "E.M()", "E.M(E)", "E.M(E, E)", "E[E]", "E[E:E]", "E[::E]"),
    *("[E, E]", "(E,)", "{E: E}", "dict(x=E)", "range(E)", "range(E, E, E)", "namespace(x=E)", "cycler(E, E)"),
    *("joiner(E)", "lipsum(E)", "raise_exception(E)", "strftime_now(E)", "f(E)", "loop(E)", "caller(E)", "self.b()"),
]
"""Patterns. E stands for an expression, F for a filter, T for a test, M for a method or attribute."""

_STATEMENTS = [
    *("{{ E }}", "{{ E }}", "BB", "{% set x = E %}B", "{% set ns.x = E %}B", "{% set x, y = E %}B", "{% set f = E %}B"),
    *("{% if E %}B{% elif E %}B{% else %}B{% endif %}", "{% with x = E %}B{% endwith %}"),
    *("{% for m in E %}B{% else %}B{% endfor %}", "{% for x, y in E if E %}B{% endfor %}"),
    *("{% for m in E recursive %}B{{ loop(m) }}{% endfor %}", "{% for x in r %}B{% endfor %}"),
    "{% for m in r %}B{% if E %}{% break %}{% endif %}{% if E %}{% continue %}{% endif %}B{% endfor %}",
    "{% for x in r %}{% set ns.x = E %}{% set ns.y = E %}{% endfor %}B",
    *("{% set x %}B{% endset %}B", "{% set x | F %}B{% endset %}B", "{% filter F %}B{% endfilter %}"),
    *("{% macro f(x, y=E) %}B{{ f(E) }}{% endmacro %}B", "{% call(x) f(E) %}B{% endcall %}"),
    *("{% block b %}B{{ self.b() }}{% endblock %}", "{% generation %}B{% endgeneration %}", "{% raw %}B{% endraw %}"),
    *("{% include E %}", "{% include E ignore missing %}", "{% import E as x %}", "{% extends E %}", "{# B #}"),
    *("{%- if E -%}B{% endif %}", "{% do E %}", "{{ E"),
]
"""Patterns. B stands for statements, the other letters for what they do in expressions."""


@st.composite
def _template(draw: st.DrawFn) -> str:
    """A template of at most a few hundred patterns, filled at random."""
    choices = {"F": _FILTERS, "T": _TESTS, "M": _METHODS}
    left = draw(st.integers(1, 60))

    def fill(pattern: str) -> str:
        return re.sub(r"\b[EFTM]\b|B", lambda match: replacement(match[0]), pattern)

    def replacement(letter: str) -> str:
        nonlocal left
        left -= 1
        if letter == "E":
            return fill(draw(st.sampled_from(_EXPRESSIONS))) if left > 0 else draw(st.sampled_from(_NAMES + _CONSTANTS))
        if letter == "B":
            return fill(draw(st.sampled_from(_STATEMENTS))) if left > 0 else draw(st.text(max_size=5))
        return draw(st.sampled_from(choices[letter]))

    return _START + fill("B") * draw(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 20]))


def _check(source: str) -> None:
    os.environ |= LIMITS
    bytes_before, begin = _peak_bytes(), time.monotonic()
    try:
        template = ChatTemplate(source)
        for tools in (None, TOOLS):
            assert isinstance(template.render(MESSAGES, tools=tools), str)
    except (TemplateError, ModelError):
        pass
    assert time.monotonic() - begin < MAX_SECONDS
    assert _peak_bytes() < bytes_before + MAX_BYTES


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


TARGET = Target(inputs=_template(), check=_check, suite_inputs=25)
