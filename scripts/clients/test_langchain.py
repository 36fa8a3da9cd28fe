"""LangChain's ChatOpenAI and OpenAIEmbeddings, and its agents, with Galago's chat and Responses APIs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from clients.shared import (
    FINAL_TEXT,
    KEY,
    MODEL,
    NEXT_TEXT,
    PICTURE,
    SCHEMA,
    SCRIPTED_CALLS,
    SCRIPTED_URL,
    URL,
    VECTORS_URL,
    Call,
    Shape,
    check_script,
    check_shape,
    encoded,
    recorded_tools,
)

LOOP = asyncio.Runner()
"""LangChain keeps its asynchronous clients, so that all must run in one event loop."""
ASKED = {"messages": [{"role": "user", "content": "How warm is it?"}]}


@pytest.fixture(params=["chat", "responses"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_of(api: str, url: str = URL, model: str = MODEL, key: Any = KEY, **options: Any) -> ChatOpenAI:
    named: Any = {"base_url": url, "api_key": key, "model": model, "max_retries": 0}
    return ChatOpenAI(**named, use_responses_api=api == "responses", **options)


def scripted_agent(api: str) -> tuple[list[Call], Any]:
    calls, tools = recorded_tools()
    model = model_of(api, SCRIPTED_URL, "scripted")
    return calls, create_agent(model, [*tools], system_prompt="Be brief.")


def test_an_agent_runs_its_tools_over_several_turns(api: str) -> None:
    calls, agent = scripted_agent(api)
    messages = agent.invoke(ASKED)["messages"]
    check_script(calls)
    assert messages[-1].text == FINAL_TEXT
    answers = [message for message in messages if isinstance(message, AIMessage)]
    assert len(answers) == len(SCRIPTED_CALLS) + 1
    assert all(answer.usage_metadata and answer.usage_metadata["input_tokens"] > 50 for answer in answers)
    again = agent.invoke({"messages": [*messages, HumanMessage("Thank you.")]})
    assert again["messages"][-1].text == NEXT_TEXT


def test_an_agent_that_streams_does_the_same(api: str) -> None:
    calls, agent = scripted_agent(api)
    text, chunks = "", 0
    for message, _ in agent.stream(ASKED, stream_mode="messages"):
        if isinstance(message, AIMessageChunk):
            text += message.text
            chunks += 1
    check_script(calls)
    assert text == f"Two more.{FINAL_TEXT}" and chunks > 12


def test_an_asynchronous_agent_does_the_same(api: str) -> None:
    async def run() -> None:
        agents = [scripted_agent(api) for _ in range(4)]
        results = await asyncio.gather(*(agent.ainvoke(ASKED) for _, agent in agents))
        assert [result["messages"][-1].text for result in results] == [FINAL_TEXT] * 4
        for calls, _ in agents:
            check_script(calls)

    LOOP.run(run())


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_is_an_instance_of_a_model(api: str, method: Any) -> None:
    structured = model_of(api).with_structured_output(Shape, method=method, include_raw=True)
    answer: Any = structured.invoke("Describe a shape.")
    assert isinstance(answer["parsed"], Shape) and answer["parsing_error"] is None


def test_a_schema_is_enforced(api: str) -> None:
    schema = {"title": "shape", "description": "A shape.", **SCHEMA}
    for strict in (None, True):
        structured = model_of(api).with_structured_output(schema, method="json_schema", strict=strict)
        check_shape(structured.invoke("A shape?"))


def test_json_mode_answers_with_json(api: str) -> None:
    model = model_of(api, max_tokens=300)
    answer: Any = model.with_structured_output(None, method="json_mode", include_raw=True).invoke("JSON, please.")
    assert isinstance(answer["parsed"], dict) or answer["raw"].usage_metadata["output_tokens"] == 300


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
def test_an_agent_answers_in_a_model(api: str, strategy: Any) -> None:
    agent: Any = create_agent(model_of(api), [], response_format=strategy(Shape))
    assert isinstance(agent.invoke(ASKED)["structured_response"], Shape)


def test_a_required_call_and_its_result_sent_back(api: str) -> None:
    @tool
    def add(first: int, second: int) -> int:
        """Adds two numbers."""
        return first + second

    model = model_of(api, max_tokens=200)
    first: Any = model.bind_tools([add], tool_choice="add", parallel_tool_calls=False).invoke("Add.")
    (call,) = first.tool_calls
    assert call["name"] == "add" and set(call["args"]) == {"first", "second"}
    alone: Any = model.invoke("Add.")
    second: Any = model.invoke([HumanMessage("Add."), first, ToolMessage("3", tool_call_id=call["id"])])
    assert second.usage_metadata["input_tokens"] > alone.usage_metadata["input_tokens"] + 10


def test_a_streamed_call_is_put_together(api: str) -> None:
    calls, tools = recorded_tools()
    model = model_of(api, SCRIPTED_URL, "scripted").bind_tools([*tools])
    whole: Any = None
    for chunk in model.stream("How warm is it?"):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == SCRIPTED_CALLS[0]


def test_a_stream_says_the_same_and_its_usage(api: str) -> None:
    whole: Any = model_of(api, temperature=0.0).invoke("Describe a shape.")
    chunks = list(model_of(api, temperature=0.0, stream_usage=True).stream("Describe a shape."))
    assert "".join(chunk.text for chunk in chunks) == whole.text and len(chunks) > 3
    (used,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert used["total_tokens"] == whole.usage_metadata["total_tokens"]


def test_a_picture_is_shown(api: str) -> None:
    picture = {"type": "image", "base64": encoded(PICTURE), "mime_type": "image/png"}
    question = {"type": "text", "text": "Count the shapes."}
    model = model_of(api)
    shown: Any = model.invoke([HumanMessage([picture, question])])
    plain: Any = model.invoke([HumanMessage([question])])
    assert shown.text
    assert shown.usage_metadata["input_tokens"] >= plain.usage_metadata["input_tokens"] + 16


def test_settings_arrive() -> None:
    model = model_of("chat", max_tokens=4, temperature=1, top_p=0.9, seed=3, n=2, logprobs=True, top_logprobs=2)
    result = model.generate([[HumanMessage("Hi")]])
    assert len(result.generations[0]) == 2
    metadata = result.generations[0][0].message.response_metadata
    assert metadata["finish_reason"] == "length" and len(metadata["logprobs"]["content"]) == 4


def test_batches_are_answered(api: str) -> None:
    answers = model_of(api).batch(["Opposite of big?", "Opposite of hot?"])
    assert all(answer.text for answer in answers)


@pytest.mark.parametrize(
    ("options", "words", "kind"),
    [
        ({"model": "gpt-4o", "url": VECTORS_URL}, "Hi", openai.NotFoundError),
        ({"key": "wrong"}, "Hi", openai.AuthenticationError),
        ({}, "word " * 5000, openai.BadRequestError),
        ({"extra_body": {"stop": ["x"] * 300}}, "Hi", openai.BadRequestError),
    ],
    ids=["another model", "wrong key", "too long", "too many stops"],
)
def test_errors_are_of_the_class_of_their_status(api: str, options: dict[str, Any], words: str, kind: Any) -> None:
    with pytest.raises(kind):
        model_of(api, **options).invoke(words)
    with pytest.raises(kind):
        list(model_of(api, **options).stream(words))


def test_a_prompt_is_completed() -> None:
    options: Any = {"base_url": URL, "api_key": KEY, "model": MODEL, "max_tokens": 4, "temperature": 0}
    whole = OpenAI(**options).invoke("One two three")
    assert whole and "".join(OpenAI(**options).stream("One two three")) == whole


def test_texts_become_vectors() -> None:
    options: Any = {"base_url": VECTORS_URL, "api_key": KEY, "model": "vectors", "check_embedding_ctx_length": False}
    embeddings = OpenAIEmbeddings(**options)
    documents = embeddings.embed_documents(["a cat sat", "the dog ran"])
    assert len(documents) == 2 and all(abs(sum(x * x for x in vector) - 1) < 1e-4 for vector in documents)
    assert max(abs(a - b) for a, b in zip(embeddings.embed_query("a cat sat"), documents[0], strict=True)) < 1e-4
    assert len(LOOP.run(OpenAIEmbeddings(**options).aembed_query("a cat"))) == len(documents[0])


def test_messages_survive_json(api: str) -> None:
    """A conversation that was saved and read again goes on."""
    from langchain_core.messages import messages_from_dict, messages_to_dict

    _, agent = scripted_agent(api)
    saved = json.dumps(messages_to_dict(agent.invoke(ASKED)["messages"]))
    again = agent.invoke({"messages": [*messages_from_dict(json.loads(saved)), HumanMessage("Thank you.")]})
    assert again["messages"][-1].text == NEXT_TEXT
