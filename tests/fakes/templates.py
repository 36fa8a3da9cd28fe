"""Small chat templates in the style of each model family, model files with them, and readable prompts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.prompt import MediaSpan, Prompt

_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_LOOP = "{% for m in messages %}" + _TURN + "{CALLS}<|im_end|>\n{% endfor %}" + _ASK

HERMES = "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>\n{% endif %}" + _LOOP.replace(
    "{CALLS}",
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}',
)
TEXT_ARGUMENTS = HERMES.replace("{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}")
PRINTED_ARGUMENTS = HERMES.replace("{{ c.function.arguments | tojson }}", "{{ c.function.arguments }}")
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('id') }}{% endif %}"
    "[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }}[TOOL_CONTENT]{{ m.content }}[/TOOL_RESULTS]"
    "{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}{% if m.role == 'system' and 'tools' in m %}<|system|>{{ m.content }}"
    "<|tool|>{{ m['tools'] }}<|/tool|><|end|>{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}<｜tool▁calls▁begin｜>"
    "{% for c in m.tool_calls %}{{ '<｜tool▁call▁begin｜>' + c['type'] + '<｜tool▁sep｜>' + c.function.name"
    " + '\\n```json\\n' + c.function.arguments + '\\n```<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>"
    "{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>"
    "{% else %}<｜{{ m.role }}｜>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}{# </think> #}"
)
HARMONY = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}<|end|>"
    "{% set first = messages[0] %}{% set rest = messages[1:] if first.role in ('system', 'developer') else messages %}"
    "<|start|>developer<|message|>{{ first.content if first.role in ('system', 'developer') else '' }}"
    "{% for t in tools or [] %}// {{ '' + t.function.description }}\ntype {{ t.function.name }}"
    " = {{ t.function.parameters | tojson }}\n{% endfor %}<|end|>"
    "{% for m in rest %}{% if m.role == 'assistant' and 'tool_calls' in m %}{% if m.content and m.thinking %}"
    "{{ raise_exception('both') }}{% endif %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% set c = m.tool_calls[0].function %}<|start|>assistant to=functions.{{ c.name }}<|channel|>commentary json"
    "<|message|>{{ c.arguments | tojson }}<|call|>{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final"
    "<|message|>{{ m.content + '<|end|>' }}{% elif m.role == 'tool' %}<|start|>functions to=assistant"
    "<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>{% elif m.role == 'user' %}<|start|>user<|message|>"
    "{{ m.content + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
PLAIN = _LOOP.replace("{CALLS}", "")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
THINKING = PLAIN.replace(_ASK, _ASK.replace("assistant\n", "assistant\n<think>\n")) + "{# </think> #}"
TURNS = PLAIN.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('') }}{% endif %}",
)
NAMED = PLAIN.replace("{{ m.role }}", "{{ m.name or m.role }}")
FIRST_SYSTEM = PLAIN.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}",
)
SWITCHED = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


def model_with(template: str, folder: Path) -> Path:
    """Writes the built-in text model with another chat template."""
    path = folder / "model.gguf"
    script = "from gguf.scripts.gguf_new_metadata import main; main()"
    source = resolve("builtin").weights
    command = [sys.executable, "-c", script, "--chat-template", template, str(source), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def shown(weights: Weights, prompt: Prompt) -> str:
    """A prompt as text, with control tokens in double brackets."""
    out = b""
    for item in prompt.items:
        if isinstance(item, MediaSpan):
            out += f"[[{item.kind}]]".encode()
            continue
        text = weights.text_of(item)
        out += f"[[{text}]]".encode() if text in weights.control_texts else weights.piece(item)
    return out.decode()
