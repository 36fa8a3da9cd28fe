"""Chat templates that users choose, and those that stand in for a file's template that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.templates import PLAIN, model_with, shown
from galago.models.errors import ConfigError, ModelError
from galago.models.registry.resolve import resolve
from galago.runtime import load
from galago.runtime.inference.assembly import prompt_builder
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.prompt.named_templates import (
    NAMED_TEMPLATES,
    chosen_template,
    fallback_name,
    template_source,
    usable_template,
)
from galago.runtime.types.messages import Message, Text, Tool, ToolCall

GO_TEMPLATE = "{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"
BROKEN = {
    "Ollama's language": GO_TEMPLATE,
    "a missing end": "{% for m in messages %}{{ m.content }}",
    "an unknown filter": "{{ messages | frobnicate }}",
    "an unknown tag": "{% frobnicate %}",
    "too long": "x" * 600_000,
    "a missing variable": "{{ 'x' + frobnicate }}",
    "every chat refused": "{{ raise_exception('no') }}",
}


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights, 0)
    yield loaded
    loaded.close()


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_a_template_that_cannot_be_used_is_replaced_with_a_warning(weights: Weights, source: str) -> None:
    template, warning = usable_template(source, weights)
    assert template.source == NAMED_TEMPLATES["chatml"]
    assert warning is not None and "chatml" in warning and "--chat-template" in warning


def test_a_template_that_needs_a_system_message_is_kept(weights: Weights) -> None:
    source = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
    assert usable_template(source, weights)[1] is None
    text = shown(weights, prompt_builder(weights, None, source, 2048).build([Message("user", (Text("Hello"),))]))
    assert text.startswith("[[<|im_start|>]]system\n[[<|im_end|>]]\n[[<|im_start|>]]user\nHello[[<|im_end|>]]")


def test_a_file_without_a_template_uses_chatml_with_a_warning(weights: Weights) -> None:
    template, warning = usable_template(None, weights)
    assert template.source == NAMED_TEMPLATES["chatml"] and warning is not None and "no chat template" in warning


@pytest.mark.parametrize(
    ("control_text", "name"),
    [("<|im_start|>", "chatml"), ("<|start_header_id|>", "llama3"), ("<start_of_turn>", "gemma"), ("[INST]", "mistral"),
     ("<s>", "plain")],
)  # fmt: skip
def test_the_replacement_is_written_with_the_vocabularys_control_tokens(control_text: str, name: str) -> None:
    assert fallback_name([control_text]) == name
    assert control_text in NAMED_TEMPLATES[name] + "<s>"


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_named_templates_show_whole_chats(weights: Weights, name: str) -> None:
    call = ToolCall("a", "look", "{}")
    chat = (
        Message("system", (Text("Rules"),)), Message("user", (Text("Ask"),)), Message("assistant", (), None, (call,)),
        Message("tool", (Text("Result"),), tool_call_id="a"), Message("assistant", (Text("Said"),)),
        Message("user", (Text("More"),)),
    )  # fmt: skip
    prompt = prompt_builder(weights, None, NAMED_TEMPLATES[name], 2048).build(chat, tools=[Tool("look", "Looks")])
    text = shown(weights, prompt)
    places = [text.index(word) for word in ("Rules", "Ask", "look", "Result", "Said", "More")]
    assert places[:2] == sorted(places[:2]) and places[3:] == sorted(places[3:]) and not prompt.warnings


def test_a_source_is_a_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("é", "utf-8")
    assert template_source("chatml") == NAMED_TEMPLATES["chatml"] and template_source(str(path)) == "é"
    path.write_bytes(b"\xff")
    for wrong in (path, tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="neither chatml, .* nor a file"):
            template_source(str(wrong))


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_a_chosen_template_that_cannot_be_used_is_an_error(weights: Weights, source: str) -> None:
    with pytest.raises(ModelError, match="chat template") as caught:
        chosen_template(source, weights)
    assert caught.value.param == "chat-template"


def test_a_model_with_a_broken_template_is_loaded_and_answers(tmp_path: Path) -> None:
    path = model_with(GO_TEMPLATE, tmp_path)
    with load(path, threads=1) as model:
        reply = model.chat("Spell ehn.", max_tokens=4)
        assert "cannot be compiled" in reply.warnings[0] and "chatml" in model.info.warnings[0]
        expected = reply.usage.prompt_tokens
    with load(path, threads=1, chat_template="plain") as model:
        assert not model.info.warnings
        assert model.chat("Spell ehn.", max_tokens=4).usage.prompt_tokens > expected
