"""Chat templates composed from rules, which `tests/data/template_rules.json` lists for the templates of 71 models.

A rule says what a model's template does with a kind of message, not how it writes it:

- `format`: the tool format; without one the template's form of calls is not known.
- `system`: "anywhere", "first" (refused later), "one" (only the first message is shown), "last" (the last one is shown,
  at the top), "first user" and "last user" (shown in that message), "refused".
- `other_roles`: "shown", "dropped" or "refused". With `developer` that role is shown all the same.
- `turns`: user and assistant must alternate, "all" messages or those "without calls". `needs_user`: one must be there.
- `silence`: "refused" for empty messages of the assistant.
- `calls`: "object" or "text", the type of arguments; without it, none are shown. `text_beside_calls`: "shown",
  "dropped", or "alone" (the text is shown and the calls are not). `several_calls`: "shown", "dropped" or "refused".
  `call_id_length`: other ids are refused.
- `results`: "shown", "dropped", "after calls" (others are refused), "of known calls" (others are dropped).
- `reasoning`: "never", "always" or "last answer". `reasoning_and_text`: "refused" beside calls.
- `tools`: "shown", "dropped", "refused", "first user", "last user" (shown in that message).
- `reads`: variables without which the template fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from galago.runtime.output.tool_formats.detect import tool_format_named

Rules = dict[str, Any]
RULES: dict[str, Rules] = json.loads((Path(__file__).parent.parent / "data/template_rules.json").read_text("utf-8"))

_DEFAULTS: Rules = {
    "system": "anywhere", "other_roles": "shown", "results": "shown", "reasoning": "never", "tools": "shown",
    "calls": None, "text_beside_calls": "shown", "several_calls": "shown",
}  # fmt: skip


def composed(rules: Rules) -> str:
    """The Jinja source of a template with these rules."""
    rules = _DEFAULTS | rules
    markers = tool_format_named(rules["format"]).template_markers[:1] if "format" in rules else ()
    return "".join(
        [
            *(f"{{# {marker} #}}" for marker in markers),
            *(_read(name) for name in rules.get("reads", ())),
            _checks(rules),
            _heading(rules),
            "{% for m in messages %}",
            "{% if m.role == 'system' %}" + _system(rules),
            "{% elif m.role == 'user' %}" + _user(rules),
            "{% elif m.role == 'assistant' %}" + _assistant(rules),
            "{% elif m.role == 'tool' %}" + _result(rules),
            "{% elif m.role == 'developer' %}" + _shown("developer") if rules.get("developer") else "",
            "{% else %}" + {"shown": _shown("other"), "dropped": "", "refused": _refuse("role")}[rules["other_roles"]],
            "{% endif %}{% endfor %}",
            "{% if add_generation_prompt %}[assistant]{% endif %}",
        ]
    )


def _read(name: str) -> str:
    if name == "tools":
        return "{% for tool in tools %}{% endfor %}"
    return "{% set ignored = 'x' + " + name + " %}"


def _refuse(reason: str, condition: str = "") -> str:
    refusal = "{{ raise_exception('" + reason + "') }}"
    return "{% if " + condition + " %}" + refusal + "{% endif %}" if condition else refusal


def _shown(role: str, content: str = "m.content") -> str:
    return "{{ '[" + role + "]' + (" + content + " or '') + '[end]\\n' }}"


def _checks(rules: Rules) -> str:
    source = ""
    if "turns" in rules:
        counted = "m.role != 'system'"
        if rules["turns"] == "without calls":
            counted += " and m.role != 'tool' and not m.tool_calls"
        check = _refuse("turns", "(m.role == 'user') != (ns.n % 2 == 0)") + "{% set ns.n = ns.n + 1 %}"
        source += "{% set ns = namespace(n=0) %}{% for m in messages %}{% if " + counted + " %}" + check
        source += "{% endif %}{% endfor %}"
    if rules.get("needs_user"):
        source += _refuse("no user", "not (messages | selectattr('role', 'equalto', 'user') | list)")
    if rules["tools"] == "refused":
        source += _refuse("tools", "tools")
    return source


def _heading(rules: Rules) -> str:
    """What comes before all messages."""
    source = "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    source += "{% set systems = messages | selectattr('role', 'equalto', 'system') | list %}"
    if rules["reasoning"] == "last answer":
        source += _LAST_USER
    if rules["system"] == "last":
        source += "{% if systems %}{{ systems[-1].content }}{% endif %}"
    if rules["tools"] == "shown":
        source += "{% if tools %}" + _TOOLS + "{% endif %}"
    if rules["tools"] == "first user":
        source += _refuse("no user for tools", "tools and not users")
    return source


_TOOLS = "[tools]{{ tools | tojson }}[end]\n"


def _system(rules: Rules) -> str:
    return {
        "anywhere": _shown("system"),
        "first": _refuse("late", "not loop.first") + _shown("system"),
        "one": "{% if loop.first %}" + _shown("system") + "{% endif %}",
        "last": "",
        "first user": _refuse("late", "not loop.first"),
        "last user": _refuse("late", "not loop.first"),
        "refused": _refuse("system"),
    }[rules["system"]]


def _user(rules: Rules) -> str:
    first, last = "m == users[0]", "m == users[-1]"
    source = ""
    if rules["tools"] in ("first user", "last user"):
        place = first if rules["tools"] == "first user" else last
        source += "{% if tools and " + place + " %}" + _TOOLS + "{% endif %}"
    if rules["system"] in ("first user", "last user"):
        place = first if rules["system"] == "first user" else "loop.last"
        source += "{% if systems and " + place + " %}{{ systems[0].content + '\n\n' }}{% endif %}"
    return source + _shown("user")


def _assistant(rules: Rules) -> str:
    reasoning = {
        "never": "",
        "always": "{% if m.reasoning_content %}" + _THOUGHT + "{% endif %}",
        "last answer": "{% if m.reasoning_content and loop.index0 > last_user.index %}" + _THOUGHT + "{% endif %}",
    }[rules["reasoning"]]
    plain = _refuse("silence", "not m.content") if rules.get("silence") == "refused" else ""
    plain += reasoning + _shown("assistant")
    if rules["calls"] is None:
        return plain
    return "{% if m.tool_calls %}" + reasoning + _calls(rules) + "{% else %}" + plain + "{% endif %}"


_THOUGHT = "<think>{{ m.reasoning_content }}</think>"
_LAST_USER = (
    "{% set last_user = namespace(index=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set last_user.index = loop.index0 %}{% endif %}{% endfor %}"
)


def _calls(rules: Rules) -> str:
    source = _refuse("reasoning and text", "m.content and m.thinking") if "reasoning_and_text" in rules else ""
    if rules["several_calls"] == "refused":
        source += _refuse("one call", "m.tool_calls | length != 1")
    if length := rules.get("call_id_length"):
        source += "{% for c in m.tool_calls %}" + _refuse("id", f"c.id | length != {length}") + "{% endfor %}"
    calls = "m.tool_calls[:1]" if rules["several_calls"] == "dropped" else "m.tool_calls"
    arguments = "c.function.arguments" if rules["calls"] == "text" else "c.function.arguments | tojson"
    written = "{% for c in " + calls + " %}[call]{{ c.function.name }}{{ '' + (" + arguments + ") }}{% endfor %}[end]\n"
    text = "[assistant]{{ m.content or '' }}"
    if rules["text_beside_calls"] == "alone":
        return source + "{% if m.content is none %}" + written + "{% else %}" + text + "[end]\n{% endif %}"
    return source + ("[assistant]" if rules["text_beside_calls"] == "dropped" else text) + written


def _result(rules: Rules) -> str:
    known = "{% set known = namespace(ids=[]) %}{% for x in messages %}{% for c in x.tool_calls or [] %}"
    known += "{% set known.ids = known.ids + [c.id] %}{% endfor %}{% endfor %}"
    length = rules.get("call_id_length")
    id_check = _refuse("id", f"m.tool_call_id | length != {length}") if length else ""
    return (
        id_check
        + {
            "shown": _shown("tool"),
            "dropped": "",
            "after calls": "{% set before = messages[loop.index0 - 1] %}"
            + _refuse("result", "not before.tool_calls and before.role != 'tool'")
            + _shown("tool"),
            "of known calls": known + "{% if m.tool_call_id in known.ids %}" + _shown("tool") + "{% endif %}",
        }[rules["results"]]
    )
