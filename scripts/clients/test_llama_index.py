"""LlamaIndex's OpenAILike, for the chat and the Responses APIs, with its agents, programs and embeddings."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.memory import Memory
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses

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
    Call,
    Shape,
    check_script,
    recorded_tools,
)

ASKED = "How warm is it?"
HI = [ChatMessage(role=MessageRole.USER, content="Describe a shape.")]
MODELS: dict[str, Any] = {"chat": OpenAILike, "responses": OpenAILikeResponses}


@pytest.fixture(params=MODELS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_of(api: str, url: str = URL, model: str = MODEL, key: str = KEY, **options: Any) -> Any:
    """A new model; its asynchronous client belongs to one event loop."""
    named = {"model": model, "api_base": url, "api_key": key, "max_retries": 0, "context_window": 4096}
    return MODELS[api](**named, is_chat_model=True, is_function_calling_model=True, **options)


def scripted_agent(api: str) -> tuple[list[Call], FunctionAgent]:
    calls, tools = recorded_tools()
    model = model_of(api, SCRIPTED_URL, "scripted")
    return calls, FunctionAgent(tools=[*map(FunctionTool.from_defaults, tools)], llm=model, system_prompt="Be brief.")


def test_an_agent_runs_its_tools_over_several_turns(api: str) -> None:
    async def run() -> None:
        calls, agent = scripted_agent(api)
        memory = Memory.from_defaults(token_limit=3000)
        assert str(await agent.run(ASKED, memory=memory)) == FINAL_TEXT
        check_script(calls)
        assert str(await agent.run("Thank you.", memory=memory)) == NEXT_TEXT

    asyncio.run(run())


def test_the_events_of_an_agent_name_its_text_and_each_result(api: str) -> None:
    async def run() -> None:
        calls, agent = scripted_agent(api)
        handler = agent.run(ASKED)
        text, results = "", []
        async for event in handler.stream_events():
            if isinstance(event, AgentStream):
                text += event.delta or ""
            elif isinstance(event, ToolCallResult):
                results.append((event.tool_name, event.tool_kwargs))
        await handler
        assert text.endswith(FINAL_TEXT)
        check_script(results)

    asyncio.run(run())


def test_agents_run_side_by_side(api: str) -> None:
    async def run() -> None:
        agents = [scripted_agent(api) for _ in range(4)]
        results = await asyncio.gather(*(agent.run(ASKED) for _, agent in agents))
        assert [str(result) for result in results] == [FINAL_TEXT] * 4
        for calls, _ in agents:
            check_script(calls)

    asyncio.run(run())


def test_the_model_calls_a_tool_and_hands_over_its_output(api: str) -> None:
    calls, tools = recorded_tools()
    model = model_of(api, SCRIPTED_URL, "scripted")
    response = model.predict_and_call([*map(FunctionTool.from_defaults, tools)], ASKED)
    assert calls == SCRIPTED_CALLS[0] and "20 degrees in Bern" in str(response)


def test_a_streamed_call_is_put_together(api: str) -> None:
    _, tools = recorded_tools()
    model = model_of(api, SCRIPTED_URL, "scripted")
    *_, last = model.stream_chat_with_tools([*map(FunctionTool.from_defaults, tools)], user_msg=ASKED)
    made = [(call.tool_name, call.tool_kwargs) for call in model.get_tool_calls_from_response(last)]
    assert made == SCRIPTED_CALLS[0]


@pytest.mark.parametrize("native", [True, False], ids=["response format", "tool call"])
def test_an_answer_is_an_instance_of_a_model(api: str, native: bool) -> None:
    style: dict[str, Any] = {"should_use_structured_outputs": native} if api == "chat" else {}
    model = model_of(api, max_tokens=400, **style)
    assert isinstance(model.as_structured_llm(Shape).chat(HI).raw, Shape)
    assert isinstance(model.structured_predict(Shape, PromptTemplate("Describe a {thing}."), thing="shape"), Shape)


def test_an_asynchronous_answer_is_an_instance_of_a_model(api: str) -> None:
    async def run() -> None:
        model = model_of(api, max_tokens=400)
        assert isinstance((await model.as_structured_llm(Shape).achat(HI)).raw, Shape)

    asyncio.run(run())


def test_a_stream_says_the_same(api: str) -> None:
    model = model_of(api, temperature=0.0)
    whole = model.chat(HI).message.content
    pieces = [part.delta or "" for part in model.stream_chat(HI)]
    assert whole and "".join(pieces) == whole and len(pieces) > 3
    assert model.complete("Describe a shape.").text == whole

    async def run() -> str:
        return "".join([part.delta or "" async for part in await model_of(api, temperature=0.0).astream_chat(HI)])

    assert asyncio.run(run()) == whole


def test_usage_is_reported(api: str) -> None:
    usage = model_of(api).chat(HI).raw.usage
    assert usage.total_tokens == (usage.prompt_tokens if api == "chat" else usage.input_tokens) + (
        usage.completion_tokens if api == "chat" else usage.output_tokens
    )


def test_a_picture_is_shown(api: str) -> None:
    blocks = [ImageBlock(path=PICTURE, image_mimetype="image/png"), TextBlock(text="Count the shapes.")]
    response = model_of(api).chat([ChatMessage(role=MessageRole.USER, blocks=blocks)])
    usage = response.raw.usage
    assert response.message.content
    assert (usage.prompt_tokens if api == "chat" else usage.input_tokens) > 16 + 5


def test_a_prompt_is_completed() -> None:
    named: Any = {"model": MODEL, "api_base": URL, "api_key": KEY, "max_tokens": 4, "temperature": 0.0}
    model = OpenAILike(**named, is_chat_model=False)
    whole = model.complete("One two three").text
    assert whole and "".join(part.delta or "" for part in model.stream_complete("One two three")) == whole


@pytest.mark.parametrize(
    ("options", "words", "kind"),
    [
        ({"model": "gpt-4o", "url": VECTORS_URL}, "Hi", openai.NotFoundError),
        ({"key": "wrong"}, "Hi", openai.AuthenticationError),
        ({}, "word " * 5000, openai.BadRequestError),
    ],
    ids=["another model", "wrong key", "too long"],
)
def test_errors_are_of_the_class_of_their_status(api: str, options: dict[str, Any], words: str, kind: Any) -> None:
    with pytest.raises(kind):
        model_of(api, **options).complete(words)
    with pytest.raises(kind):
        list(model_of(api, **options).stream_complete(words))


def test_texts_become_vectors() -> None:
    model = OpenAILikeEmbedding(model_name="vectors", api_base=VECTORS_URL, api_key=KEY)
    documents = model.get_text_embedding_batch(["a cat sat", "the dog ran"])
    assert len(documents) == 2 and all(abs(sum(x * x for x in vector) - 1) < 1e-4 for vector in documents)
    assert max(abs(a - b) for a, b in zip(model.get_query_embedding("a cat sat"), documents[0], strict=True)) < 1e-4
    assert len(asyncio.run(model.aget_text_embedding("a cat"))) == len(documents[0])
