"""Anthropic's official client: text, images, tools, thinking, streams and errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx
import pydantic
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json as msgspec_json

from fakes import templates
from fakes.server import DATA, Server, serving
from galago.runtime.server.anthropic import convert, schema
from galago.runtime.server.anthropic.events import MessageEncoder
from galago.runtime.types.events import (
    Delta,
    Finished,
    OutputDelta,
    ReasoningDelta,
    Started,
    Timings,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)
from galago.runtime.types.messages import Image, Message, Text, ToolCall

WEATHER: Any = {
    "name": "get_weather",
    "description": "What the weather is.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}
ASKED: Any = [{"role": "user", "content": "Opposite of big?"}]


def client_of(server: Server, **options: Any) -> anthropic.Anthropic:
    settings: dict[str, Any] = {"api_key": "unused", "max_retries": 0} | options
    return anthropic.Anthropic(base_url=server.url, **settings)


@pytest.fixture(scope="module")
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[anthropic.Anthropic]:
    model = templates.model_with(templates.THINKING, tmp_path_factory.mktemp("thinker"))
    with serving("--model", str(model), "--name", "thinker", "--threads", "1") as running:
        running.wait_until_ready()
        with client_of(running) as client:
            yield client


def picture(name: str = "picture-5.png") -> Any:
    data = base64.b64encode((DATA / name).read_bytes()).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def ask(client: anthropic.Anthropic, messages: Any = ASKED, **options: Any) -> anthropic.types.Message:
    body: dict[str, Any] = {"model": "builtin", "max_tokens": 60, "messages": messages} | options
    message: anthropic.types.Message = client.messages.create(**body)
    return message


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_question_is_answered(claude: anthropic.Anthropic) -> None:
    message = ask(claude, system="Answer briefly.")
    assert (message.type, message.role, message.model) == ("message", "assistant", "builtin")
    assert text_of(message) and (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens > 0


def test_usage_counts_computed_and_cached_tokens(claude: anthropic.Anthropic) -> None:
    messages = [{"role": "user", "content": "Count the shapes that nobody has counted yet."}]
    first, again = ask(claude, messages).usage, ask(claude, messages).usage
    assert again.cache_read_input_tokens and again.input_tokens == 1
    assert first.input_tokens + (first.cache_read_input_tokens or 0) == again.cache_read_input_tokens + 1


def test_a_stream_has_the_events_of_anthropics_api(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="builtin", max_tokens=60, messages=ASKED) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    raw = [kind for kind in kinds if kind != "text"]
    assert raw[:2] == ["message_start", "content_block_start"]
    assert raw[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(raw[2:-3]) == {"content_block_delta"}
    assert text_of(message) and message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0 and message.usage.input_tokens + (
        message.usage.cache_read_input_tokens or 0
    ) == sum((u := ask(claude).usage, u.input_tokens, u.cache_read_input_tokens or 0)[1:])


def test_events_are_named_on_the_wire(server: Server) -> None:
    body = {"model": "builtin", "max_tokens": 5, "messages": ASKED, "stream": True}
    answer = server.post(body, "/v1/messages")
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        names.append(name.removeprefix("event: "))
        assert names[-1] == json.loads(data.removeprefix("data: "))["type"]
    assert names[:3] == ["message_start", "ping", "content_block_start"]


def test_images_are_read(claude: anthropic.Anthropic) -> None:
    with_image = ask(
        claude, [{"role": "user", "content": [picture(), {"type": "text", "text": "Count the shapes."}]}]
    ).usage
    text = ask(claude, [{"role": "user", "content": "Count the shapes."}]).usage
    counted = [usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in (with_image, text)]
    assert counted[0] == counted[1] + 16


def test_a_plain_text_document_is_read(claude: anthropic.Anthropic) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "The sky is green."}
    document = {"type": "document", "source": source, "title": "Facts"}
    question = {"type": "text", "text": "What color is the sky?"}
    from_document = ask(claude, [{"role": "user", "content": [document, question]}])
    written = ask(claude, [{"role": "user", "content": "Facts\nThe sky is green.\nWhat color is the sky?"}])
    assert from_document.content == written.content and written.usage.input_tokens == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_required_tool_is_called(claude: anthropic.Anthropic, seed: int) -> None:
    options: Any = {"tools": [WEATHER], "max_tokens": 300, "extra_body": {"temperature": 0.2 * seed}}
    message = ask(claude, tool_choice={"type": "any", "disable_parallel_tool_use": True}, **options)
    (block,) = message.content
    assert isinstance(block, anthropic.types.ToolUseBlock) and message.stop_reason == "tool_use"
    assert block.name == "get_weather" and set(block.input) == {"city"}
    with claude.messages.stream(
        model="builtin", messages=ASKED, tool_choice={"type": "tool", "name": "get_weather"}, **options
    ) as stream:
        deltas = [event for event in stream if event.type == "input_json"]
        (streamed,) = stream.get_final_message().content
    assert isinstance(streamed, anthropic.types.ToolUseBlock) and set(streamed.input) == {"city"}
    assert json.loads("".join(event.partial_json for event in deltas)) == streamed.input


def test_tool_results_can_be_sent_back(claude: anthropic.Anthropic) -> None:
    calling = ask(claude, tools=[WEATHER], tool_choice={"type": "tool", "name": "get_weather"}, max_tokens=300)
    result = {"type": "tool_result", "tool_use_id": calling.content[0].id, "content": "sunny"}  # type: ignore[union-attr]
    chat = [*ASKED, {"role": "assistant", "content": calling.content}, {"role": "user", "content": [result]}]
    answered = ask(claude, chat, tools=[WEATHER], tool_choice={"type": "none"}, max_tokens=20)
    assert answered.stop_reason in ("end_turn", "max_tokens") and all(b.type == "text" for b in answered.content)


def test_an_output_format_is_followed(claude: anthropic.Anthropic) -> None:
    class Count(pydantic.BaseModel):
        shapes: int
        sure: bool

    message = claude.messages.parse(model="builtin", max_tokens=200, messages=ASKED, output_format=Count)
    assert isinstance(message.parsed_output, Count)


def test_a_stop_sequence_is_named(claude: anthropic.Anthropic) -> None:
    whole = text_of(ask(claude))
    message = ask(claude, stop_sequences=["@@@", whole[2:4]])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", whole[2:4])
    assert text_of(message) == whole[: whole.index(whole[2:4])]
    with claude.messages.stream(model="builtin", max_tokens=60, messages=ASKED, stop_sequences=[whole[2:4]]) as stream:
        assert stream.get_final_message().stop_sequence == whole[2:4]


def test_a_truncated_answer_says_so(claude: anthropic.Anthropic) -> None:
    message = ask(claude, max_tokens=1)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 1)
    call = ask(claude, tools=[WEATHER], tool_choice={"type": "any"}, max_tokens=4)
    assert call.content == [] and call.stop_reason == "max_tokens"


def test_a_final_assistant_message_is_continued(claude: anthropic.Anthropic) -> None:
    whole = text_of(ask(claude))
    rest = ask(claude, [*ASKED, {"role": "assistant", "content": whole[:2]}])
    assert rest.stop_reason in ("end_turn", "max_tokens") and not text_of(rest).startswith(whole[:2])


def test_thinking_has_its_own_blocks(thinker: anthropic.Anthropic) -> None:
    options: Any = {"model": "thinker", "thinking": {"type": "enabled", "budget_tokens": 1024}}
    message = ask(thinker, **options)
    assert message.content[0].type == "thinking" and message.content[0].thinking
    details = message.usage.output_tokens_details
    assert details and details.thinking_tokens > 0
    with thinker.messages.stream(max_tokens=60, messages=ASKED, **options) as stream:
        deltas = [event.thinking for event in stream if event.type == "thinking"]
        assert "".join(deltas) == stream.get_final_message().content[0].thinking  # type: ignore[union-attr]
    again = ask(thinker, [*ASKED, {"role": "assistant", "content": message.content}, *ASKED], **options)
    assert again.usage.input_tokens > 0


def test_tokens_are_counted_as_the_model_reads_them(claude: anthropic.Anthropic) -> None:
    request: Any = [
        {"role": "user", "content": [picture(), {"type": "text", "text": "What is the weather, and how many?"}]}
    ]
    settings: list[dict[str, Any]] = [{}, {"system": "Be brief.", "tools": [WEATHER]}]
    for options in settings:
        counted = claude.messages.count_tokens(model="builtin", messages=request, **options).input_tokens
        usage = ask(claude, request, max_tokens=1, **options).usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    long = claude.messages.count_tokens(model="builtin", messages=[{"role": "user", "content": "word " * 3000}])
    assert long.input_tokens > 3000


def test_models_are_listed_in_both_formats(claude: anthropic.Anthropic, server: Server) -> None:
    (model,) = claude.models.list().data
    assert (model.id, model.type, model.max_input_tokens) == ("builtin", "model", 2048)
    assert claude.models.retrieve("builtin") == model
    assert httpx.get(f"{server.url}/v1/models").json()["object"] == "list"


def test_errors_have_the_format_of_anthropics_api(claude: anthropic.Anthropic, strict_server: Server) -> None:
    with client_of(strict_server) as strict, pytest.raises(anthropic.NotFoundError) as missing:
        ask(strict, model="claude-x")
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError) as long:
        ask(claude, [{"role": "user", "content": "word " * 3000}])
    assert long.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert "2048" in str(long.value)


def test_a_key_may_come_in_either_header() -> None:
    with serving("--api-key", "open-sesame") as guarded:
        guarded.wait_until_ready()
        for options in ({"api_key": "open-sesame"}, {"api_key": None, "auth_token": "open-sesame"}):
            assert client_of(guarded, **options).models.list().data[0].id == "builtin"
        with pytest.raises(anthropic.AuthenticationError) as error:
            ask(client_of(guarded, api_key="wrong"))
        assert error.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"messages": []}, "no message"),
        (
            {"messages": [{"role": "user", "content": [picture() | {"source": {"type": "base64", "data": "@"}}]}]},
            "base64",
        ),
        ({"extra_body": {"thread": {"id": "x"}}}, "thread is not supported"),
    ],
)
def test_an_unsupported_feature_is_refused_by_name(claude: anthropic.Anthropic, options: Any, words: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words):
        ask(claude, **options)


def test_fields_without_effect_cause_a_warning(server: Server) -> None:
    body = {"model": "builtin", "max_tokens": 5, "messages": ASKED, "colour": "red", "metadata": {"user_id": "x"}}
    answer = server.post(body, "/v1/messages")
    assert answer.json()["warnings"] == ["the field colour is unknown and was ignored"]
    assert "colour" in answer.headers["x-galago-warnings"]


def test_a_users_message_is_split_into_tool_results_and_text() -> None:
    messages = msgspec_json.decode(
        json.dumps(
            [
                {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": [picture()], "is_error": True},
                        {"type": "tool_result", "tool_use_id": "b"},
                        {"type": "text", "text": "Well?"},
                    ],
                },
            ]
        ),
        type=list[schema.AnyMessage],
    )
    call, failed, empty, request = convert.messages(messages)
    assert call == Message("assistant", (), tool_calls=(ToolCall("a", "f", '{"x": 1}'),))
    assert (failed.role, failed.tool_call_id, failed.parts[0]) == ("tool", "a", Text("Error:"))
    assert isinstance(failed.parts[1], Image) and failed.parts[1].source.endswith("content[0].content[0].source.data")
    assert (empty.tool_call_id, empty.parts) == ("b", ())
    assert request == Message("user", (Text("Well?"),))


PIECES = st.lists(
    st.builds(Delta, st.text(max_size=4)) | st.builds(ReasoningDelta, st.text(max_size=4)) | st.just("call"),
    max_size=12,
)


def deltas_of(pieces: list[Any]) -> list[OutputDelta]:
    """The deltas of an answer, with the arguments of each tool call in two pieces."""
    messages: list[OutputDelta] = []
    calls = 0
    for piece in pieces:
        if piece == "call":
            messages += [
                ToolCallStart(calls, f"id{calls}", "f"),
                ToolCallArguments(calls, '{"n": '),
                ToolCallArguments(calls, "1}"),
            ]
            calls += 1
        else:
            messages.append(piece)
    return messages


@settings(deadline=None)
@given(PIECES)
def test_the_client_assembles_a_stream_to_the_whole_answer(pieces: list[Any]) -> None:
    messages = deltas_of(pieces)
    whole, warnings = MessageEncoder("msg_1", "m", []).blocks(messages)
    encoder = MessageEncoder("msg_1", "m", [])
    events = [*encoder.start(0, Started(1)), *[e for piece in messages for e in encoder.delta(0, piece)]]
    events += encoder.finish(0, Finished("stop", Usage(3, 4, 2), Timings(0, 0, 0)))
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        parsed = json.loads(msgspec_json.encode(event))
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    assert not warnings and [b.model_dump(exclude_none=True) for b in snapshot.content] == json.loads(
        msgspec_json.encode(whole)
    )
    assert (snapshot.stop_reason, snapshot.usage.input_tokens, snapshot.usage.cache_read_input_tokens) == (
        "end_turn",
        1,
        2,
    )


CODE: dict[str, Any] = {
    "system": [
        {"type": "text", "text": "You are a coding agent.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "tools": [WEATHER | {"cache_control": {"type": "ephemeral"}, "strict": True}],
    "metadata": {"user_id": "user_1_account__session_2"},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
}
"""The options that a coding agent sends with every request."""


def test_a_coding_agents_request_is_answered_with_warnings(claude: anthropic.Anthropic) -> None:
    request: Any = {"model": "builtin", "max_tokens": 32_000, "messages": ASKED}
    with claude.beta.messages.stream(**request, betas=["context-management-2025-06-27"], **CODE) as stream:
        message = stream.get_final_message()
    assert message.stop_reason in ("end_turn", "tool_use", "max_tokens")
    from_document = " ".join((message.model_extra or {})["warnings"])
    assert "context_management" not in from_document  # its edits keep everything
    for words in ("thinking.display has no effect", "max_tokens 32000 was lowered"):
        assert words in from_document
    same = {name: value for name, value in CODE.items() if name != "metadata"}
    counted = claude.beta.messages.count_tokens(model="builtin", messages=ASKED, **same).input_tokens
    assert counted == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_the_client_runs_tools_by_itself(claude: anthropic.Anthropic) -> None:
    request = []

    @anthropic.beta_tool
    def get_weather(city: Literal["Bern", "Rom"]) -> str:
        """What the weather is.

        Args:
            city: where
        """
        request.append(city)
        return "sunny"

    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    runner = claude.beta.messages.tool_runner(
        model="builtin", max_tokens=200, messages=ASKED, tools=[get_weather], tool_choice=choice, max_iterations=2
    )
    turns = list(runner)  # it asks for a stored thread first, and sends the whole chat when the server has none
    assert len(turns) == 2 and request and set(request) <= {"Bern", "Rom"}
    assert turns[0].stop_reason == "tool_use"


def test_encrypted_thinking_is_left_out(claude: anthropic.Anthropic) -> None:
    hidden = {"type": "redacted_thinking", "data": "EmwKAhgB"}
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
    messages: Any = {"role": "assistant", "content": [hidden, signed, {"type": "text", "text": "Small."}]}
    message = ask(claude, [*ASKED, messages, {"role": "user", "content": "Sure?"}])
    warning, *_ = (message.model_extra or {})["warnings"]
    assert "content[0]: only Anthropic can decrypt these thoughts" in warning


def test_an_answer_has_a_request_id(claude: anthropic.Anthropic) -> None:
    assert (ask(claude)._request_id or "").startswith("req_")
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.models.retrieve("claude")
    assert (missing.value.request_id or "").startswith("req_")


def test_consecutive_messages_of_one_side_are_joined() -> None:
    messages: Any = [
        schema.UserMessage("One."),
        schema.UserMessage([schema.TextBlock("Two.")]),
        schema.AssistantMessage("A"),
    ]
    thought: Any = [schema.ThinkingBlock("hm"), schema.PastToolUseBlock("a", "f", {})]
    messages += [
        schema.AssistantMessage(thought),
        schema.UserMessage([schema.ToolResultBlock("a", "1")]),
        schema.UserMessage("B"),
    ]
    assert convert.messages(messages) == (
        Message("user", (Text("One."), Text("Two."))),
        Message("assistant", (Text("A"),), tool_calls=(ToolCall("a", "f", "{}"),), reasoning="hm"),
        Message("tool", (Text("1"),), tool_call_id="a"),
        Message("user", (Text("B"),)),
    )


def test_a_truncated_tool_call_is_left_out_with_a_warning() -> None:
    content, warnings = MessageEncoder("msg_1", "m", []).blocks(
        [Delta("So"), ToolCallStart(0, "a", "f"), ToolCallArguments(0, '{"n": ')]
    )
    assert content == [schema.TextBlock("So")] and "f was cut off" in warnings[0]
