"""The token that ends turns in a chat template ends answers too, even if the file does not name it as an end token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import crafted, faulty_models
from fakes.crafted import STRING, Value
from fakes.templates import HARMONY, PLAIN
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.inference.chat_format import chat_format
from galago.runtime.inference.generator import Generator
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.prompt.template import ChatTemplate

SPARE = "<|spare_0|>"


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights, 0)
    yield loaded
    loaded.close()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PLAIN, None),
        (PLAIN.replace("<|im_end|>", SPARE), SPARE),
        (PLAIN.replace("<|im_end|>", f" \n{SPARE}\n"), SPARE),
        (PLAIN.replace("<|im_end|>", "</think>"), "</think>"),
        (PLAIN.replace("<|im_end|>", "<|unknown|>"), None),
        (PLAIN.replace("<|im_end|>", ""), None),
        (
            "{% for m in messages %}<|{{ 'spare_0' if m.role == 'user' else 'audio_end' }}|>{{ m.content }}"
            "{% endfor %}",
            None,
        ),
        ("{% for m in messages %}{{ m.content }}{{ '<|spare_0|>' if m.role == 'user' }}{% endfor %}", None),
        ("{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}" + PLAIN, None),
        (HARMONY.replace("<|end|>", SPARE), None),
    ],
)
def test_it_follows_turns_of_the_user_and_of_the_assistant(
    weights: Weights, template: str, expected: str | None
) -> None:
    found = chat_format(weights, None, ChatTemplate(template), 512)
    found.constraints.close()
    assert found.turn_end == (None if expected is None else weights.tokenize(expected, parse_special=True)[0])


def test_a_model_says_that_answers_end_there(tmp_path: Path) -> None:
    model = crafted.read(faulty_models.without_end_token(tmp_path / "model.gguf"))
    template = model.keys["tokenizer.chat_template"].content.decode().replace("<|im_end|>", "<|x|>")
    keys = model.keys | {"tokenizer.chat_template": Value(STRING, template)}
    path = model.having(keys=keys).write(tmp_path / "model.gguf")
    loaded = Generator(faulty_models.as_trusted(path), ModelConfig(256, threads=1, slots=1, gpu_layers=0))
    loaded.close()
    assert [warning.partition(",")[0] for warning in loaded.info.warnings] == [
        "the model's file does not name <|x|> as an end token"
    ]
