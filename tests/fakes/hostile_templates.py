"""Chat templates that run or grow without end, or reach for what is not theirs, each in some hundred characters."""

from __future__ import annotations

_START = "{% set one = messages | length %}{% set r = range(99999) %}{% set ns = namespace(x=[], y=[], s='a') %}"
_FOREVER = "{% for a in r %}{% for b in r %}"
_ENDS = "{% endfor %}{% endfor %}"
_SHARED = "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
"""A list that is small in memory, and long beyond measure when it is written or compared."""

BOMBS = {
    "list in a list": _FOREVER + "{% set ns.x = ns.x + [ns.x] %}" + _ENDS,
    "doubled list": "{% set ns.x = [one] %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "repr": _SHARED + "{{ ns.x }}",
    "tojson": _SHARED + "{{ ns.x | tojson }}",
    "pprint": _SHARED + "{{ ns.x | pprint }}",
    "comparison": _SHARED + "{{ ns.x == ns.y }}",
    "chain of comparisons": _SHARED + "{{ ns.x <= ns.y <= ns.x <= ns.y }}",
    "power of a rounded number": "{% set n = (8 + one) | round | int %}{{ n ** (n ** n) > 1 }}",
    "product": "{% set ns.x = 9 + one %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "loop": _FOREVER + _ENDS,
    "loop on one line": "{{ (r | list * 99) | map('string') | map('length') | select | unique | list | length }}" * 9,
    "loop in a filter": "{{ r | slice(one * 10 ** 12) | list }}",
    "huge range": "{% for n in range(99999) | batch(9) %}{{ range(99999) | list | length ~ '' }}{% endfor %}" * 9,
    "endless output": _FOREVER + "{{ 'xxxxxxxxxx' * 999 }}" + _ENDS,
    "repeated text": "{{ 'x' * one * 10 ** 12 }}",
    "repeated list": "{{ [one] * 10 ** 12 }}",
    "doubled text": "{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "replaced text": "{% for i in range(60) %}{% set ns.s = ns.s | replace('a', 'aaaa') %}{% endfor %}",
    "replaced text by a method": "{% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aaaa') %}{% endfor %}",
    "joined text": "{% set s = 'a' * one * 99999 %}{{ r | join(s) }}{{ s.join(['b'] * one * 99999) }}",
    "format": "{{ '{:>10000000000}'.format(one) }}",
    "format with nested width": "{{ '{:>{}}'.format(one, 10 ** 10) }}",
    "percent format": "{{ '%1000000000d' % one }}",
    "percent format with a star": "{{ '%*d' % (10 ** 9, one) }}",
    "format filter": "{{ '%1000000000d' | format(one) }}",
    "center": "{{ 'x' | center(10 ** 10 * one) }}{{ 'x'.ljust(10 ** 10) }}{{ 'x'.zfill(10 ** 10) }}",
    "tabs": "{{ '\t\t\t'.expandtabs(10 ** 9 * one) }}",
    "indent": "{{ 'x\ny' | indent(10 ** 10 * one) }}",
    "indented json": "{{ messages | tojson(indent=10 ** 11) }}",
    "date": "{{ strftime_now('%c' * one * 10 ** 9) }}",
    "batch": "{{ r | batch(10 ** 11 * one, 'x') | list }}",
    "sort and group": _FOREVER + "{{ r | map('string') | sort | groupby('length') | unique | list }}" + _ENDS,
    "pattern": "{% set s = '<!--' * one * 99999 %}{% for a in r %}{{ s | striptags | urlize | wordcount }}{% endfor %}",
    "sum of lists": "{{ ([[one] * 999] * 99999) | sum(start=[]) }}",
    "macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60 * one) }}"
    ),
    "recursive loop": "{% for a in [r, r] recursive %}{{ loop([r, r]) }}{% endfor %}",
    "nested generators": "{% for a in r %}{% set ns.x = ns.x | map('string') %}{% endfor %}{{ ns.x | list }}",
    "deep list": "{% for a in r %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "attribute path": "{{ messages | map(attribute='role.' * one * 10 ** 7) | list }}",
    "error message": "{{ raise_exception('x' * one * 10 ** 7) }}",
}
"""What a template can do once it runs, by name."""

UNCOMPILABLE = {
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "long chain": "{{ 1" + " + 1" * 50_000 + " }}",
    "long filters": "{{ 1" + " | string" * 20_000 + " }}",
    "constant power": "{{ 9 ** (9 ** 9) }}",
}
"""Templates whose compilation already needs too much."""


def bomb(name: str) -> str:
    """A template that goes off at once."""
    return _START + BOMBS[name]


def sleeping_bombs(template: str) -> str:
    """A template that goes off when the last message is the name of one of `BOMBS`, and is `template` for others."""
    cases = "".join("{% elif word == '" + name + "' %}" + body for name, body in BOMBS.items())
    start = _START + "{% set word = messages[-1].content %}"
    return start + "{% if not word %}" + cases + "{% else %}" + template + "{% endif %}"
