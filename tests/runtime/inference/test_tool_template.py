"""A separate template for chats with tools (`tokenizer.chat_template.tool_use`) is used as transformers does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes import crafted, experts, faulty_models
from fakes.crafted import STRING, Value
from fakes.templates import HERMES, PLAIN
from galago.models.gguf.reader import read_header
from galago.runtime.cli import show
from galago.runtime.config import ModelConfig
from galago.runtime.inference.generator import Generator
from galago.runtime.types.events import Started
from galago.runtime.types.messages import Message, Text, Tool
from galago.runtime.types.request import Request
from galago.runtime.types.tasks import Estimate, Tokenize

DEFAULT, TOOL_USE = "tokenizer.chat_template", "tokenizer.chat_template.tool_use"
WITH_TOOLS = "FOR TOOLS " + HERMES
TOOL = Tool("look", "Looks around")
BOTH = {DEFAULT: PLAIN, TOOL_USE: WITH_TOOLS}
REPLACED = "the model's chat template for tools cannot be compiled"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> crafted.Model:
    return crafted.read(experts.write(tmp_path_factory.mktemp("base") / "model.gguf"))


def written(base: crafted.Model, path: Path, templates: Mapping[str, str]) -> Path:
    keys = {key: value for key, value in base.keys.items() if not key.startswith(DEFAULT)}
    return base.having(keys=keys | {key: Value(STRING, text) for key, text in templates.items()}).write(path)


def opened(path: Path, chosen: str | None = None) -> Generator:
    config = ModelConfig(512, threads=1, slots=1, gpu_layers=0, chat_template=chosen)
    return Generator(faulty_models.as_trusted(path), config)


@pytest.mark.parametrize(
    ("templates", "settings", "is_tools", "tool_format", "warnings"),
    [
        (BOTH, {"tools": (TOOL,)}, True, "hermes", []),
        (BOTH, {}, False, "generic", []),
        (BOTH, {"tools": (TOOL,), "tool_choice": "none"}, False, "generic", []),
        ({DEFAULT: PLAIN}, {"tools": (TOOL,)}, False, "generic", []),
        ({TOOL_USE: WITH_TOOLS}, {}, True, "hermes", []),
        ({TOOL_USE: WITH_TOOLS}, {"tools": (TOOL,)}, True, "hermes", []),
        ({**BOTH, TOOL_USE: "{% for %}"}, {"tools": (TOOL,)}, False, "generic", [REPLACED]),
        ({DEFAULT: PLAIN, f"{DEFAULT}.rag": WITH_TOOLS}, {"tools": (TOOL,)}, False, "generic", []),
    ],
)
def test_tools_choose_the_template(
    templates: dict[str, str],
    settings: dict[str, Any],
    is_tools: bool,
    tool_format: str,
    warnings: list[str],
    base: crafted.Model,
    tmp_path: Path,
) -> None:
    """It applies to the prompt, its estimate, and how the answer is constrained and read."""
    model = opened(written(base, tmp_path / "model.gguf", templates))
    request = Request((Message("user", (Text("Hi"),)),), max_tokens=1, **settings)
    prompt = model.run_task(Tokenize(request))
    estimate = model.run_task(Estimate(request, predict_seconds=False))
    started, *_ = model.generate(request)
    assert isinstance(started, Started) and started.prompt_tokens == len(prompt.ids) == estimate.prompt_tokens
    assert b"".join(prompt.pieces).startswith(b"FOR TOOLS") is is_tools
    assert model._format_of(request).tool_format.name == tool_format
    if request.shown_tools:
        assert started.parsing is not None and started.parsing.tool_format == tool_format
    assert [found.startswith(begin) for found, begin in zip(model.info.warnings, warnings, strict=True)] == [
        True
    ] * len(warnings)
    model.close()


def test_a_template_that_the_user_chose_is_used_with_tools_too(base: crafted.Model, tmp_path: Path) -> None:
    model = opened(written(base, tmp_path / "model.gguf", BOTH), "CHOSEN " + PLAIN)
    prompt = model.run_task(Tokenize(Request((Message("user", (Text("Hi"),)),), tools=(TOOL,))))
    model.close()
    assert b"".join(prompt.pieces).startswith(b"CHOSEN")


@pytest.mark.parametrize(
    ("templates", "names"),
    [
        ({}, []),
        ({DEFAULT: PLAIN}, ["default"]),
        ({TOOL_USE: PLAIN}, ["tool_use"]),
        ({f"{DEFAULT}.rag": PLAIN, **BOTH, f"{DEFAULT}s": PLAIN}, ["default", "rag", "tool_use"]),
    ],
)
def test_show_names_the_templates_and_the_experts(
    templates: dict[str, str], names: list[str], base: crafted.Model, tmp_path: Path
) -> None:
    path = written(base, tmp_path / "model.gguf", templates)
    assert read_header(path).chat_template_names == names
    fields = show._file(path)
    assert fields["chat_templates"] == names and fields["experts"] == {"total": 4, "used": 2}
