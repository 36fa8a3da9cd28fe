"""OpenAI's Agents SDK with Galago behind its models for the chat and the Responses APIs, also over a WebSocket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    AgentOutputSchema,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from agents.models.openai_responses import ResponsesWebSocketError
from websockets.exceptions import InvalidStatus

from clients.shared import (
    FINAL_TEXT,
    KEY,
    MODEL,
    NEXT_TEXT,
    PICTURE,
    SCRIPTED_CALLS,
    SCRIPTED_URL,
    URL,
    VECTORS_URL,
    Shape,
    check_script,
    encoded,
    recorded_tools,
)

set_tracing_disabled(True)
ASKED = "How warm is it?"
MODELS = {
    "chat": OpenAIChatCompletionsModel,
    "responses": OpenAIResponsesModel,
    "responses over a WebSocket": OpenAIResponsesWSModel,
}


@pytest.fixture(params=MODELS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_of(api: str, url: str = URL, name: str = MODEL, key: str = KEY) -> Any:
    client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
    return MODELS[api](model=name, openai_client=client)


def scripted_agent(api: str) -> tuple[list[Any], Agent[None]]:
    calls, tools = recorded_tools()
    model = model_of(api, SCRIPTED_URL, "scripted")
    return calls, Agent("Meteorologist", instructions="Be brief.", model=model, tools=[*map(function_tool, tools)])


def test_an_agent_runs_its_tools_over_several_turns(api: str) -> None:
    calls, agent = scripted_agent(api)
    result = Runner.run_sync(agent, ASKED)
    check_script(calls)
    assert result.final_output == FINAL_TEXT
    used = result.context_wrapper.usage
    assert used.requests == len(SCRIPTED_CALLS) + 1 and used.input_tokens > 100 and used.output_tokens > 10
    assert used.total_tokens == used.input_tokens + used.output_tokens


def test_an_agent_that_streams_does_the_same(api: str) -> None:
    calls, agent = scripted_agent(api)

    async def run() -> tuple[str, list[str], str]:
        result = Runner.run_streamed(agent, ASKED)
        pieces, items = "", []
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                pieces += event.data.delta
            elif event.type == "run_item_stream_event":
                items.append(event.name)
        return pieces, items, result.final_output

    pieces, items, final = asyncio.run(run())
    check_script(calls)
    assert pieces == f"Two more.{FINAL_TEXT}" and final == FINAL_TEXT
    assert items.count("tool_called") == items.count("tool_output") == len(calls)


def test_a_conversation_goes_on_in_a_session(api: str, tmp_path: Path) -> None:
    _, agent = scripted_agent(api)
    session = SQLiteSession("one", tmp_path / "sessions.db")
    assert Runner.run_sync(agent, ASKED, session=session).final_output == FINAL_TEXT
    assert Runner.run_sync(agent, "Thank you.", session=session).final_output == NEXT_TEXT


def test_a_conversation_goes_on_from_its_items(api: str) -> None:
    _, agent = scripted_agent(api)
    items = Runner.run_sync(agent, ASKED).to_input_list()
    assert Runner.run_sync(agent, [*items, {"role": "user", "content": "Thank you."}]).final_output == NEXT_TEXT


def test_an_agent_can_be_a_tool_of_another(api: str) -> None:
    """The other agent calls it by the name of the script's first tool."""
    inner = Agent("Inner", model=model_of(api))
    asked = []

    @function_tool(strict_mode=False)
    async def get_temperature(city: str, unit: str) -> str:
        asked.append(city)
        return str((await Runner.run(inner, f"{city}?")).final_output)

    @function_tool
    def add(first: int, second: int) -> int:
        return first + second

    outer = Agent("Outer", model=model_of(api, SCRIPTED_URL, "scripted"), tools=[get_temperature, add])
    assert Runner.run_sync(outer, ASKED).final_output == FINAL_TEXT
    assert len(asked) == 2


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_an_answer_is_an_instance_of_a_model(api: str, strict: bool) -> None:
    schema = AgentOutputSchema(Shape, strict_json_schema=strict)
    agent = Agent("Painter", model=model_of(api), output_type=schema)
    assert isinstance(Runner.run_sync(agent, "Describe a shape.").final_output, Shape)


def test_a_required_call_is_made(api: str) -> None:
    calls, tools = recorded_tools()
    agent = Agent(
        "Caller",
        model=model_of(api),
        tools=[function_tool(tools[1])],
        model_settings=ModelSettings(tool_choice="add", parallel_tool_calls=False, max_tokens=200),
        tool_use_behavior="stop_on_first_tool",
    )
    result = Runner.run_sync(agent, "Add two numbers.")
    (call,) = calls
    assert call[0] == "add" and str(result.final_output) == str(call[1]["first"] + call[1]["second"])


def test_a_picture_is_shown(api: str) -> None:
    agent = Agent("Viewer", model=model_of(api))
    url = f"data:image/png;base64,{encoded(PICTURE)}"
    content: Any = [
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_text", "text": "Count the shapes."},
    ]
    shown = Runner.run_sync(agent, [{"role": "user", "content": content}])
    plain = Runner.run_sync(agent, "Count the shapes.")
    assert shown.final_output
    assert shown.context_wrapper.usage.input_tokens >= plain.context_wrapper.usage.input_tokens + 16


def test_too_many_turns_end_an_agent(api: str) -> None:
    _, agent = scripted_agent(api)
    with pytest.raises(MaxTurnsExceeded):
        Runner.run_sync(agent, ASKED, max_turns=2)


@pytest.mark.parametrize(
    ("options", "words", "kind"),
    [
        ({"name": "gpt-4o", "url": VECTORS_URL}, "Hi", openai.NotFoundError),
        ({"key": "wrong"}, "Hi", openai.AuthenticationError),
        ({}, "word " * 5000, openai.BadRequestError),
    ],
    ids=["another model", "wrong key", "too long"],
)
def test_errors_are_of_the_class_of_their_status(api: str, options: dict[str, Any], words: str, kind: Any) -> None:
    if api == "responses over a WebSocket":
        kind = (ResponsesWebSocketError, InvalidStatus)
    with pytest.raises(kind):
        Runner.run_sync(Agent("A", model=model_of(api, **options)), words)


def test_agents_run_side_by_side(api: str) -> None:
    async def run() -> None:
        agents = [scripted_agent(api) for _ in range(4)]
        results = await asyncio.gather(*(Runner.run(agent, ASKED) for _, agent in agents))
        assert [result.final_output for result in results] == [FINAL_TEXT] * 4
        for calls, _ in agents:
            check_script(calls)

    asyncio.run(run())
