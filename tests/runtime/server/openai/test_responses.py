"""The Responses API with OpenAI's client: whole, streamed and parsed answers, media, tools, and stored responses."""

from __future__ import annotations

import json
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json as msgspec_json
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import response_stream_event

from fakes import templates
from fakes.server import DATA, data_uri, serving
from galago.models.errors import EngineCrashed, InvalidRequest
from galago.runtime.server.openai.responses import convert, input_items, schema
from galago.runtime.server.openai.responses.events import ResponseEncoder
from galago.runtime.server.openai.responses.item_messages import messages
from galago.runtime.server.storage.database import Database
from galago.runtime.server.storage.responses import ResponseStore
from galago.runtime.types.events import (
    Delta,
    Finished,
    ReasoningDelta,
    Started,
    Timings,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)
from galago.runtime.types.messages import Message, Text, ToolCall
from galago.runtime.types.warnings import Warnings

QUESTION = "Opposite of big?"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "What the weather is.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "responses"


@pytest.fixture(scope="module")
def storing(folder: Path) -> Iterator[openai.OpenAI]:
    with serving("--threads", "1", "--store", str(folder)) as running:
        running.wait_until_ready()
        with running.client() as client:
            yield client


def ask(client: openai.OpenAI, given: Any = QUESTION, **options: Any) -> Any:
    return client.responses.create(model="builtin", input=given, **options)


def user(*parts: Any) -> Any:
    return [{"role": "user", "content": list(parts)}]


def picture(name: str = "picture-5.png") -> Any:
    return {"type": "input_image", "detail": "auto", "image_url": data_uri(DATA / name)}


def text_item(text: str) -> Any:
    return {"type": "input_text", "text": text}


def test_a_question_is_answered(client: openai.OpenAI) -> None:
    response = ask(client, instructions="Answer briefly.", metadata={"for": "tests"})
    assert (response.object, response.status, response.error) == ("response", "completed", None)
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert response.output_text == message.content[0].text != ""
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (response.instructions, response.metadata) == ("Answer briefly.", {"for": "tests"})
    assert (response.model_extra or {})["store"] is False


def test_the_answer_is_that_of_a_chat(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": QUESTION},
    ]
    chat = client.chat.completions.create(model="builtin", messages=messages)
    response = ask(client, messages)
    assert response.output_text == chat.choices[0].message.content
    assert chat.usage and response.usage.input_tokens == chat.usage.prompt_tokens


def test_events_have_the_order_of_openais_api(client: openai.OpenAI) -> None:
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    texts = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert texts == events[-1].response.output_text == ask(client).output_text


def test_the_clients_own_stream_ends_with_the_whole_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="builtin", input=QUESTION) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text and final.usage and final.usage.output_tokens > 0


def test_images_and_audio_are_accepted(client: openai.OpenAI) -> None:
    import base64

    sound = base64.b64encode((DATA / "sound-1.wav").read_bytes()).decode()
    audio = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    details = ask(client, user(picture(), audio, text_item("Count the shapes."))).usage.input_tokens_details
    assert (details.image_tokens, details.audio_tokens) == (16, 26)
    counted = client.responses.input_tokens.count(
        model="builtin", input=user(picture(), text_item("Count the shapes."))
    )
    assert counted.input_tokens == ask(client, user(picture(), text_item("Count the shapes."))).usage.input_tokens


def test_an_answer_is_parsed_into_the_requested_type(client: openai.OpenAI) -> None:
    class Count(pydantic.BaseModel):
        shapes: int
        sure: bool

    response = client.responses.parse(
        model="builtin", input=user(picture(), text_item("Count the shapes.")), text_format=Count
    )
    assert isinstance(response.output_parsed, Count)
    with client.responses.stream(model="builtin", input=QUESTION, text_format=Count) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Count)
    objects = ask(client, text={"format": {"type": "json_object"}}, max_output_tokens=300).output_text
    assert objects.startswith("{")


@pytest.mark.parametrize("seed", range(3))
def test_a_required_tool_is_called(client: openai.OpenAI, seed: int) -> None:
    options: Any = {"tools": [WEATHER], "parallel_tool_calls": False, "temperature": 0.2 * seed}
    (call,) = ask(client, tool_choice="required", **options).output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert set(json.loads(call.arguments)) == {"city"} and call.call_id != call.id
    named: Any = {"type": "function", "name": "get_weather"}
    with client.responses.stream(model="builtin", input=QUESTION, tool_choice=named, **options) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call" and "".join(deltas) == streamed.arguments


def test_only_allowed_tools_are_called(client: openai.OpenAI) -> None:
    other = {"type": "function", "name": "other", "parameters": {"type": "object", "properties": {}}}
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    called = ask(client, tools=[WEATHER, other], tool_choice=allowed, parallel_tool_calls=False).output
    assert [call.name for call in called] == ["other"]


def test_tool_calls_and_results_can_be_sent_back(client: openai.OpenAI) -> None:
    (call,) = ask(client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False).output
    chat = [
        *user(text_item(QUESTION)),
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    answered = ask(client, chat, tools=[WEATHER], tool_choice="none", max_output_tokens=10)
    assert {item.type for item in answered.output} <= {"message"} and answered.usage.input_tokens > 20
    assert not (answered.model_extra or {}).get("warnings")


def test_reasoning_has_its_own_items(tmp_path: Path) -> None:
    model = templates.model_with(templates.THINKING, tmp_path)
    with serving("--model", str(model), "--name", "builtin", "--threads", "1") as thinking:
        thinking.wait_until_ready()
        with thinking.client() as client:
            response = ask(client, max_output_tokens=12)
            (thought,) = response.output
            assert thought.type == "reasoning" and thought.content[0].text
            assert response.usage.output_tokens_details.reasoning_tokens > 0
            events = list(ask(client, max_output_tokens=12, stream=True))
            reasoning = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
            assert reasoning == events[-1].response.output[0].content[0].text
            again = ask(client, [*user(text_item(QUESTION)), thought, *user(text_item("Go on."))], max_output_tokens=3)
            assert again.usage.output_tokens <= 3


def test_logprobs_are_returned(client: openai.OpenAI) -> None:
    content = ask(client, include=["message.output_text.logprobs"], top_logprobs=2).output[0].content[0]
    assert "".join(token.token for token in content.logprobs) == content.text
    assert all(len(token.top_logprobs) == 2 for token in content.logprobs)


def test_a_truncated_answer_is_incomplete(client: openai.OpenAI) -> None:
    response = ask(client, max_output_tokens=1)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 1 and response.output[0].status == "incomplete"
    assert [event.type for event in ask(client, max_output_tokens=1, stream=True)][-1] == "response.incomplete"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "messages"),
        ({"input": user({"type": "input_image", "image_url": "https://a.b/c"})}, "input[0].content[0].image_url"),
        ({"input": user({"type": "input_image", "file_id": "f"})}, "input[0].content[0].file_id"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_an_unsupported_feature_is_refused_by_name(client: openai.OpenAI, options: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, given=options.pop("input", QUESTION), **options)
    assert refused.value.param == param


def test_nothing_is_stored_without_a_store(client: openai.OpenAI) -> None:
    response = ask(client, store=False)
    for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(response.id)


def test_a_stored_response_can_be_retrieved_until_it_is_deleted(storing: openai.OpenAI) -> None:
    response = ask(storing, metadata={"a": "b"})
    retrieved = storing.responses.retrieve(response.id)
    assert retrieved == response and (retrieved.model_extra or {})["store"] is True
    with pytest.raises(openai.BadRequestError, match="already ended"):
        storing.responses.cancel(response.id)
    storing.responses.delete(response.id)
    for call in (storing.responses.retrieve, storing.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(response.id)
    unkept = ask(storing, store=False)
    with pytest.raises(openai.NotFoundError):
        storing.responses.retrieve(unkept.id)


def test_input_items_are_listed(storing: openai.OpenAI) -> None:
    given = [
        *user(text_item("Hello.")),
        {"role": "assistant", "content": "Hi."},
        *user(picture(), text_item("What is it?")),
    ]
    response = ask(storing, given)
    items: Any = list(storing.responses.input_items.list(response.id, order="asc", limit=2))
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert [part.type for part in items[2].content] == ["input_image", "input_text"]
    assert items[1].content[0].text == "Hi." and len({item.id for item in items}) == 3
    newest = storing.responses.input_items.list(response.id, limit=1)
    assert newest.data[0].id == items[2].id and newest.has_more
    (text,) = storing.responses.input_items.list(ask(storing).id).data
    assert text.model_dump()["content"][0]["text"] == QUESTION
    unknown: list[tuple[str, Any]] = [(response.id, {"after": "x"}), ("resp_x", {}), (ask(storing, store=False).id, {})]
    for name, options in unknown:
        with pytest.raises(openai.NotFoundError):
            storing.responses.input_items.list(name, **options)


def test_a_conversation_continues_from_a_stored_response(storing: openai.OpenAI) -> None:
    first = ask(storing, user(picture(), text_item("Count the shapes.")), instructions="Be brief.")
    second = ask(storing, "And the colors?", previous_response_id=first.id)
    third = ask(storing, "Thanks.", previous_response_id=second.id)
    texts = [first.output_text, second.output_text]
    whole = [
        *user(picture(), text_item("Count the shapes.")),
        {"role": "assistant", "content": texts[0]},
        {"role": "user", "content": "And the colors?"},
        {"role": "assistant", "content": texts[1]},
        {"role": "user", "content": "Thanks."},
    ]
    assert third.usage.input_tokens == ask(storing, whole, store=False).usage.input_tokens
    assert third.previous_response_id == second.id and third.instructions is None
    streamed = list(ask(storing, "Thanks.", previous_response_id=second.id, stream=True))
    assert storing.responses.retrieve(streamed[-1].response.id).output_text == streamed[-1].response.output_text
    storing.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="is not stored on this server"):
        ask(storing, "Again.", previous_response_id=second.id)


def wait_until_ended(client: openai.OpenAI, name: str) -> Any:
    """Waits until a stored response has ended, and returns it."""
    deadline = time.monotonic() + 30
    while (retrieved := client.responses.retrieve(name)).status == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return retrieved


def test_a_background_response_can_be_retrieved_when_it_is_done(storing: openai.OpenAI) -> None:
    started = ask(storing, background=True)
    assert started.status == "in_progress" and started.background
    retrieved = wait_until_ended(storing, started.id)
    assert retrieved.status == "completed" and retrieved.output_text
    with pytest.raises(openai.BadRequestError, match="stored"):
        ask(storing, background=True, store=False)


LONG: Any = {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array", "minItems": 900}}}}
"""Options for an answer that fills the context."""


def test_a_response_can_be_cancelled(storing: openai.OpenAI) -> None:
    started = ask(storing, background=True, **LONG)
    assert storing.responses.cancel(started.id).status == "cancelled"
    assert wait_until_ended(storing, started.id).status == "cancelled"
    assert storing.responses.cancel(started.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cannot continue"):
        ask(storing, "Go on.", previous_response_id=started.id)


def test_a_client_that_leaves_a_stream_cancels_it(storing: openai.OpenAI) -> None:
    stream = ask(storing, stream=True, **LONG)
    name = next(iter(stream)).response.id
    stream.close()
    assert wait_until_ended(storing, name).status == "cancelled"


def test_the_store_is_private_and_survives_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with serving("--threads", "1", "--store", str(folder)) as running:
        running.wait_until_ready()
        client = running.client()
        finished = ask(client)
        lost = ask(client, background=True, **LONG)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(10)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir() if path.is_file())
    with serving("--threads", "1", "--store", str(folder)) as again:
        again.wait_until_ready()
        client = again.client()
        assert client.responses.retrieve(finished.id) == finished
        retrieved = client.responses.retrieve(lost.id)
        assert retrieved.status == "failed" and retrieved.error and "stopped" in retrieved.error.message


def no_files(name: str, field: str) -> bytes:
    raise AssertionError(f"{field} asks for {name}")


def test_deleted_responses_leave_no_bytes(tmp_path: Path) -> None:
    finished = Database(tmp_path / "store")
    store = ResponseStore(finished)
    store.add("resp_1", None, b'[{"id": "a secret of mine"}]', b"{}")
    store.update("resp_1", "completed", b'{"status": "completed", "output": [{"id": "a secret of mine"}]}')
    assert store.delete("resp_1") and not store.delete("resp_1")
    store.update("resp_1", "completed", b"{}")
    assert store.get("resp_1") is None
    finished.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir() if path.is_file())


def test_only_finished_responses_can_be_continued(tmp_path: Path) -> None:
    store = ResponseStore(Database(tmp_path / "store"))
    store.add("a", None, b'[{"id": "1"}]', b"{}")
    with pytest.raises(InvalidRequest, match="in_progress"):
        store.conversation("a")
    store.update("a", "completed", b'{"output": []}')
    store.add("b", "a", b"[]", b"{}")
    store.update("b", "incomplete", b'{"output": [{"id": "2"}]}')
    assert store.conversation("b") == [(b'[{"id": "1"}]', b'{"output": []}'), (b"[]", b'{"output": [{"id": "2"}]}')]


def test_reasoning_text_and_calls_form_one_message() -> None:
    raw = convert.rewritten(
        {
            "input": [
                {"role": "user", "content": "Hi"},
                {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
                {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "1"}]},
                {"role": "assistant", "content": "One."},
                {"role": "assistant", "content": "Two."},
            ]
        },
        Warnings(),
    )
    items = convert.to_items(raw["input"])
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}"))
    assert messages(items, "input", no_files) == (
        Message("user", (Text("Hi"),)),
        Message("assistant", (Text("Let me see."),), tool_calls=calls, reasoning="Hm"),
        Message("tool", (Text("1"),), tool_call_id="a"),
        Message("assistant", (Text("One."),)),
        Message("assistant", (Text("Two."),)),
    )


PIECES = st.lists(
    st.builds(Delta, st.text(max_size=4)) | st.builds(ReasoningDelta, st.text(max_size=4)) | st.just("call"),
    max_size=12,
)
EVENT: Any = pydantic.TypeAdapter(response_stream_event.ResponseStreamEvent)


@settings(deadline=None)
@given(PIECES, st.sampled_from(["finish", "fail", "cancel"]))
def test_the_client_assembles_a_stream_to_the_whole_response(pieces: list[Any], ending: str) -> None:
    response = schema.Response(id="resp_1", created_at=1, model="m", text={"format": {"type": "text"}}, reasoning={})
    encoder = ResponseEncoder(response, [], lambda: 2.5)
    state: Any = ResponseStreamState(input_tools=[], text_format=openai.omit)
    last: Any = None

    def send(events: Any) -> None:
        nonlocal last
        for event in events:  # encoded at once, because its response changes later
            last = EVENT.validate_python(json.loads(msgspec_json.encode(event)))
            state.handle_event(last)

    send(encoder.start(0, Started(1)))
    for index, piece in enumerate(pieces):
        if piece == "call":
            send(encoder.delta(0, ToolCallStart(index, f"id{index}", "f")))
            send(encoder.delta(0, ToolCallArguments(index, '{"n": ')))
            send(encoder.delta(0, ToolCallArguments(index, "1}")))
        else:
            send(encoder.delta(0, piece))
    match ending:
        case "finish":
            send(encoder.finish(0, Finished("stop", Usage(3, 4, 2), Timings(0, 0, 0))))
        case "fail":
            send(encoder.fail(EngineCrashed("it crashed")))
        case "cancel":
            send(encoder.cancel())
    assert last.type.endswith({"finish": "completed", "fail": "failed", "cancel": "incomplete"}[ending])
    assert [item.status for item in last.response.output[:-1]] == ["completed"] * (len(last.response.output) - 1)
    texts = "".join(piece.text for piece in pieces if isinstance(piece, Delta))
    assert last.response.output_text == texts
    calls = [item for item in last.response.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"n": 1}'] * pieces.count("call")
    items = input_items.rewritten([item.model_dump() for item in last.response.output], "input", Warnings())
    sent_back = messages(convert.to_items(items), "input", no_files)
    assert sum(len(message.tool_calls) for message in sent_back) == len(calls)
