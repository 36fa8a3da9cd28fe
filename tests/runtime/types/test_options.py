"""The options table agrees with every typed signature that must repeat it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from galago.models.errors import InvalidRequest
from galago.runtime.cli.ui.options import with_options
from galago.runtime.config import DEFAULT_CONTEXT, DEFAULT_SLOTS, FlashAttention, KVType, ModelConfig
from galago.runtime.python_api import ChatOptions, load
from galago.runtime.server.anthropic import schema as anthropic
from galago.runtime.server.ollama import schema as ollama
from galago.runtime.server.openai.chat import schema
from galago.runtime.server.openai.completions import schema as completions_schema
from galago.runtime.server.openai.responses import schema as responses
from galago.runtime.types.load_options import LOADING, SETTINGS
from galago.runtime.types.options import PROMPT, REQUEST, SAMPLING, Dialect, bounds, markdown
from galago.runtime.types.request import Request, Sampling, request_fields_from, sampling_from
from galago.runtime.types.warnings import Warnings

PROTOCOL_FIELDS: dict[Dialect, tuple[type[msgspec.Struct], set[str]]] = {
    "chat": (schema.ChatRequest, {"model", "messages", "n", "stream", "stream_options", "logprobs", "keep_alive"}),
    "completions": (
        completions_schema.CompletionRequest,
        {"model", "prompt", "suffix", "echo", "best_of", "n", "stream", "stream_options", "keep_alive"},
    ),
    "responses": (
        responses.ResponsesRequest,
        {
            "model", "input", "instructions", "include", "metadata", "stream", "store", "background",
            "previous_response_id", "truncation", "max_tool_calls", "safety_identifier", "prompt_cache_key", "user",
            "keep_alive",
        },
    ),
    "anthropic": (anthropic.MessagesRequest, {"model", "messages", "system", "stream"}),
    "ollama": (ollama.ChatRequest, {"model", "messages", "stream", "logprobs", "keep_alive"}),
}  # fmt: skip
"""The request type of each dialect, with its fields that are not options."""


def test_the_table_has_exactly_the_fields_of_the_values() -> None:
    assert [option.field_name for option in SAMPLING] == [field.name for field in dataclasses.fields(Sampling)]
    others = {"messages", "sampling", "completion", "background", "allowed_tools", "effort_field", "strict", "client"}
    fields = {field.name: field for field in dataclasses.fields(Request) if field.name not in others}
    assert {option.field_name for option in REQUEST} == set(fields)
    settings = {f.name: f.default for f in dataclasses.fields(ModelConfig) if f.name != "request_defaults"}
    assert {option.name: option.default for option in SETTINGS} == settings


def test_the_python_keywords_are_the_table_s() -> None:
    names = {option.python_name for option in (*PROMPT, *SAMPLING, *REQUEST)} - {""}
    assert names == set(get_type_hints(ChatOptions))
    parameters = inspect.signature(load).parameters
    keywords = {option.python_name for option in LOADING if option.python_name}
    assert keywords == set(parameters) - {"model", "isolated", "progress"}
    assert {parameters[name].default for name in keywords} == {None}, "a preset's value would lose to a default"


@pytest.mark.parametrize("dialect", get_args(Dialect))
def test_the_wire_fields_are_the_table_s(dialect: Dialect) -> None:
    struct, others = PROTOCOL_FIELDS[dialect]
    paths = [path for option in (*SAMPLING, *REQUEST) for path in option.wire.get(dialect, ())]
    assert {path.partition(".")[0] for path in paths} == set(struct.__struct_fields__) - others
    for path in paths:
        first, _, rest = path.partition(".")
        if rest:
            kinds = [kind for kind in get_args(get_type_hints(struct)[first]) if hasattr(kind, "__struct_fields__")]
            assert any(rest in kind.__struct_fields__ for kind in kinds), path
    if dialect == "ollama":
        options = {path.removeprefix("options.") for path in paths if path.startswith("options.")}
        assert options == set(ollama.Options.__struct_fields__) - {"num_ctx"}


def test_a_dialect_s_request_is_read_by_the_table() -> None:
    asked = ollama.ChatRequest(model="m", options=ollama.Options(min_p=0.1, top_k=3, num_predict=5, stop="end"))
    assert sampling_from(asked, "ollama", Warnings()) == Sampling(min_p=0.1, top_k=3)
    assert request_fields_from(asked, "ollama", Warnings())["stop"] == ("end",)
    assert request_fields_from(asked, "ollama", Warnings())["max_tokens"] == 5
    nothing = ollama.ChatRequest(model="m")
    assert sampling_from(nothing, "ollama", Warnings()) == Sampling()


def test_a_warning_or_an_error_has_the_dialect_s_name_of_the_field() -> None:
    asked = ollama.ChatRequest(model="m", options=ollama.Options(min_p=2))
    warnings = Warnings()
    assert sampling_from(asked, "ollama", warnings) == Sampling(min_p=1)
    assert warnings == ["options.min_p is 2, out of range; 1 is used"]
    strict = Warnings()
    strict.strict = True
    with pytest.raises(InvalidRequest, match=r"^options\.min_p is 2") as error:
        sampling_from(asked, "ollama", strict)
    assert error.value.param == "options.min_p"


def values(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


@pytest.mark.parametrize("option", [o for o in SAMPLING if o.bounds], ids=lambda option: option.name)
def test_every_sampling_number_is_checked(option: Any) -> None:
    for value in (option.minimum, option.maximum):
        Sampling(**values(option.name, value))
    for value in (option.minimum - 1, option.maximum + 1, True, "1"):
        with pytest.raises(InvalidRequest, match=f"^{option.name} is "):
            Sampling(**values(option.name, value))


def test_choices_and_defaults_in_the_table_are_those_of_the_types() -> None:
    table = {option.name: option for option in (*LOADING, *REQUEST)}
    assert table["kv_type"].choices == get_args(KVType)
    assert table["flash_attention"].choices == get_args(FlashAttention)
    assert str(DEFAULT_CONTEXT) in table["context_length"].unset and table["slots"].unset == str(DEFAULT_SLOTS)


def test_a_command_gets_the_options_of_the_table() -> None:
    @with_options(request=SAMPLING)
    def command(model: str, request: dict[str, Any]) -> dict[str, Any]:
        return {"model": model} | request

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["model", *(option.name for option in SAMPLING if option.flags)]
    given = dict.fromkeys(list(parameters)[1:]) | {"top_k": 3}
    assert command(model="m", **given) == {"model": "m", "top_k": 3}


def test_flags_and_names_are_unique() -> None:
    for options in ((*PROMPT, *SAMPLING, *REQUEST), LOADING):
        names = [option.name for option in options]
        flags = [flag for option in options for flag in option.flags]
        assert len(set(names)) == len(names) and len(set(flags)) == len(flags)


def test_the_reference_has_a_row_for_every_option() -> None:
    text = markdown(SAMPLING)
    assert len(text.splitlines()) == 2 + len(SAMPLING)
    assert "| `min_p` | `--min-p` | `min_p`, `options.min_p` | from 0 to 1 | Drop tokens" in text


def test_bounds_are_known_by_the_name_on_the_wire() -> None:
    assert bounds("responses")["max_output_tokens"] == (0, 2**31 - 1)
    assert bounds("ollama")["top_p"] == (0, 1)
