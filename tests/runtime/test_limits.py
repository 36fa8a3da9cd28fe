"""What is as large as a limit allows is done, and what exceeds it is refused with an error that names the limit."""

from __future__ import annotations

import multiprocessing

import pytest

from galago.models.errors import EngineError, TemplateError
from galago.runtime.process.channel import BufferedChannel, encode
from galago.runtime.process.messages import TaskDone
from galago.runtime.prompt.template import RENDERERS, ChatTemplate
from galago.runtime.types.tasks import Vectors

# result_bytes


def test_a_result_may_be_as_large_as_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    result, larger = (TaskDone(0, Vectors(bytes(size), 1, 1)) for size in (1000, 1001))
    monkeypatch.setenv("GALAGO_LIMIT_RESULT_BYTES", str(len(encode(result)) + 5))  # a list of messages
    here, there = multiprocessing.Pipe()
    channel = BufferedChannel(here)
    assert channel.encode(result)
    with pytest.raises(EngineError, match="result_bytes"):
        channel.encode(larger)
    channel.close()
    there.close()


# template_characters, template_memory, template_seconds


def test_a_template_may_be_as_long_as_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_TEMPLATE_CHARACTERS", "100")
    assert ChatTemplate("x" * 100).render([]) == "x" * 100
    with pytest.raises(TemplateError, match="template_characters"):
        ChatTemplate("x" * 101)


@pytest.mark.parametrize(
    ("name", "value", "fits", "exceeds"),
    [
        ("template_memory", "64MiB", "{{ ('x' * n * 10 ** 6) | length }}", "{{ ('x' * n * 10 ** 8) | length }}"),
        ("template_seconds", "1", "{% for i in range(9) %}{% endfor %}", "{{ range(99999) | slice(10 ** 12) | list }}"),
    ],
)
def test_a_template_may_use_what_its_limits_allow(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fits: str, exceeds: str
) -> None:
    monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", value)
    RENDERERS.close()  # renderers that run have other limits
    assert ChatTemplate(fits).render([], n=1) is not None
    with pytest.raises(TemplateError, match=name):
        ChatTemplate(exceeds).render([], n=1)
    RENDERERS.close()
