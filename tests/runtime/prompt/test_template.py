"""What chat templates render, and what they cannot reach. Their limits are in `test_template_limits.py`."""

from __future__ import annotations

from typing import Any

import pytest

from galago.models.errors import GalagoError, ModelError, TemplateError
from galago.runtime.prompt.template import ChatTemplate

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_messages_are_rendered_in_order() -> None:
    messages = [{"role": "system", "content": "be brief"}, *HELLO]
    assert ChatTemplate(CHATML).render(messages) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_content_is_not_rendered_as_a_template() -> None:
    assert "{{ 7 * 7 }}" in ChatTemplate(CHATML).render([{"role": "user", "content": "{{ 7 * 7 }}"}])


def test_templates_can_write_begin_and_end_tokens() -> None:
    assert ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>", "</s>").render(HELLO) == (
        "<s>hello</s>"
    )


def test_a_template_that_requires_typed_parts_gets_them() -> None:
    source = (
        "{% for m in messages %}{% for part in m['content'] %}{% if part is mapping %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    assert ChatTemplate(source).render(HELLO) == "hello"


def test_a_templates_own_error_message_is_reported() -> None:
    source = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message must come first') }}{% endif %}"
    with pytest.raises(TemplateError, match="a system message must come first"):
        ChatTemplate(source).render(HELLO)


def test_a_template_that_does_not_compile_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="cannot be compiled"):
        ChatTemplate("{% for m in messages %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for c in ''.__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ (messages|map(attribute='__class__')|list)[0].__mro__ }}",
        "{{ '%s'|format(messages)|attr('__class__') }}",
    ],
)
def test_a_template_cannot_reach_into_python(source: str) -> None:
    try:
        rendered = ChatTemplate(source).render(HELLO)
    except GalagoError:
        return
    assert "<class" not in rendered and "builtin" not in rendered and "uid=" not in rendered


def test_a_template_cannot_change_the_messages() -> None:
    messages = [dict(HELLO[0])]
    with pytest.raises(TemplateError):
        ChatTemplate("{{ messages.append(1) }}").render(messages)
    assert messages == HELLO


def test_ordinary_arithmetic_and_repetition_are_allowed() -> None:
    assert ChatTemplate("{{ 'a' ~ 1 ~ none ~ ['b','c']|join('-') ~ 'xx'|replace('x','y') }}").render(HELLO) == (
        "a1Noneb-cyy"
    )
    source = "{{ '-' * 20 }}{{ 7 % 2 }}{{ 3 * 4 }}{{ 'a' | indent(2) }}{{ '%s!' | format(messages[0].content) }}"
    assert ChatTemplate(source).render(HELLO) == "-" * 20 + "112ahello!"
    assert ChatTemplate("{{ '%d%%' % 2 ** 3 }}").render(HELLO) == "8%"


def test_tojson_keeps_text_readable() -> None:
    assert ChatTemplate("{{ messages[0] | tojson }}").render([{"role": "user", "content": "\u00e9<"}]) == (
        '{"role": "user", "content": "\u00e9<"}'
    )


def test_tojson_accepts_the_arguments_that_transformers_does() -> None:
    source = "{{ {'b': 1, 'a': '\u00e9'} | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}"
    assert ChatTemplate(source).render(HELLO) == '{"a":"\\u00e9","b":1}'
    assert ChatTemplate("{{ [1] | tojson(indent=2) }}").render(HELLO) == "[\n  1\n]"


def test_filters_have_jinjas_parameters() -> None:
    source = "{{ ['a', 'b'] | join(d='-') }}{{ messages | join(attribute='role') }}"
    assert ChatTemplate(source).render(HELLO) == "a-buser"
    assert ChatTemplate("{{ 'xx' | replace('x', 'y', count=1) }}").render(HELLO) == "yx"
