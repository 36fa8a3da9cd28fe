"""Named chat templates, for models whose file has no usable one, and templates given by users."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import ConfigError, ModelError, TemplateError
from .template import ChatTemplate

if TYPE_CHECKING:
    from ..llamacpp.weights import Weights

_ANSWER = "{% if add_generation_prompt %}ANSWER{% endif %}"

NAMED_TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        + _ANSWER.replace("ANSWER", "{{ '<|im_start|>assistant\n' }}")
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] + '<|eot_id|>' }}{% endfor %}"
        + _ANSWER.replace("ANSWER", "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}")
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else 'user' %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] + '<end_of_turn>\n' }}{% endfor %}"
        + _ANSWER.replace("ANSWER", "{{ '<start_of_turn>model\n' }}")
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
        "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
    "plain": (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] + '\n\n' }}{% endfor %}"
        + _ANSWER.replace("ANSWER", "Assistant:")
    ),
}
"""Jinja sources in the formats of several families; `plain` needs no control tokens."""

_MARKERS = {"chatml": "<|im_start|>", "llama3": "<|start_header_id|>", "gemma": "<start_of_turn>", "mistral": "[INST]"}
"""A control token of each format."""

NO_TEMPLATE = "the model's file has no chat template, so ChatML is used; the model may not be trained for chats"


def template_source(name_or_file: str) -> str:
    """The source of a named template or of a file, or a source itself. Raises `ConfigError` if there is neither."""
    if name_or_file in NAMED_TEMPLATES:
        return NAMED_TEMPLATES[name_or_file]
    if "{%" in name_or_file:
        return name_or_file
    try:
        return Path(name_or_file).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the chat template {name_or_file!r} is neither {', '.join(NAMED_TEMPLATES)} nor a file that can be read: "
            f"{getattr(error, 'strerror', None) or error}",
            "chat-template",
        ) from error


def chosen_template(source: str, weights: Weights) -> ChatTemplate:
    """The template that a user gave. Raises `ModelError` if it has an error or refuses every message."""
    try:
        return _compiled(source, weights)
    except (ModelError, TemplateError) as error:
        text = error.message.replace("the model's chat template", "the given chat template")
        raise ModelError(text, "chat-template") from error


def usable_template(source: str | None, weights: Weights) -> tuple[ChatTemplate, str | None]:
    """The template of a model's file, or a named one and a warning if the file has none that can be used."""
    if source is None:
        return _compiled(NAMED_TEMPLATES["chatml"], weights), NO_TEMPLATE
    try:
        return _compiled(source, weights), None
    except (ModelError, TemplateError) as error:
        name = fallback_name((*weights.control_texts, *weights.user_defined_texts))
        warning = f"{error.message}; {name} is used instead, unless you give a template with --chat-template"
        return _compiled(NAMED_TEMPLATES[name], weights), warning


def tool_template(source: str | None, weights: Weights) -> tuple[ChatTemplate | None, str | None]:
    """The template of a model's file for chats with tools, if it has one that can be used; and a warning otherwise."""
    if source is None:
        return None, None
    try:
        return _compiled(source, weights), None
    except (ModelError, TemplateError) as error:
        text = error.message.replace("the model's chat template", "the model's chat template for tools")
        return None, f"{text}; its other template is used instead"


def template_name(source: str) -> str | None:
    """The named template with the format of a template in any language; `None` if there is none.

    Llama 2 marks users' turns as Mistral does, but puts the system message elsewhere.
    """
    return None if "<<SYS>>" in source else next((n for n, marker in _MARKERS.items() if marker in source), None)


def fallback_name(special_texts: Collection[str]) -> str:
    """The named template for a vocabulary with these control tokens."""
    return next((name for name, marker in _MARKERS.items() if marker in special_texts), "plain")


def _compiled(source: str, weights: Weights) -> ChatTemplate:
    template = ChatTemplate(source, weights.text_of(weights.bos), weights.text_of(weights.eos))
    template.check()
    return template
