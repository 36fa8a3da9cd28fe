"""Ollama's official client: chats, tools, output formats, images, and listing, pulling and deleting models."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json as msgspec_json

from fakes import bert, templates
from fakes.hub import LocalHub, running
from fakes.server import DATA, Server, serving
from galago.models.registry.resolve import resolve
from galago.runtime.server.ollama import convert, schema
from galago.runtime.server.ollama.events import LineContent, LineEncoder
from galago.runtime.types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from galago.runtime.types.messages import Message, Text, ToolCall

ASKED: Any = [{"role": "user", "content": "Opposite of big?"}]
COUNT = {
    "type": "object",
    "properties": {"shapes": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["shapes", "sure"],
}
LIGHT: Any = {
    "type": "function",
    "function": {
        "name": "turn_on",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string", "enum": ["kitchen", "hall"]}},
            "required": ["room"],
        },
    },
}


@pytest.fixture(scope="module")
def llama(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def get_weather(city: str) -> str:
    """Says what the weather is.

    Args:
      city: where
    """
    return f"sunny in {city}"


def chat(client: ollama.Client, messages: Any = ASKED, **options: Any) -> Any:
    return client.chat("builtin", messages, **options)


def test_a_chat_is_answered(llama: ollama.Client) -> None:
    answer = chat(llama)
    assert (answer.model, answer.message.role) == ("builtin", "assistant")
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.message.content and answer.eval_count > 0 and answer.prompt_eval_count > 0
    assert answer.total_duration == pytest.approx(answer.prompt_eval_duration + answer.eval_duration, abs=2)


def test_a_stream_has_the_same_answer_line_by_line(llama: ollama.Client, server: Server) -> None:
    lines = list(chat(llama, stream=True))
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(line.message.content for line in lines) == chat(llama).message.content
    assert lines[-1].done_reason == "stop" and lines[-1].eval_count > 0
    raw = server.post({"model": "builtin", "messages": ASKED}, "/api/chat")
    assert raw.headers["content-type"] == "application/x-ndjson"
    assert all(json.loads(line)["model"] == "builtin" for line in raw.text.strip().split("\n"))


def test_generate_answers_a_prompt(llama: ollama.Client) -> None:
    answer = llama.generate("builtin", "Opposite of big?")
    assert answer.response == chat(llama).message.content and answer.done
    lines = list(llama.generate("builtin:latest", "Opposite of big?", stream=True))
    assert "".join(line.response or "" for line in lines) == answer.response
    system = llama.generate("builtin", "Opposite of big?", system="Answer briefly.")
    assert system.prompt_eval_count > answer.prompt_eval_count  # type: ignore[operator]


def test_a_raw_prompt_is_continued_without_a_template(llama: ollama.Client) -> None:
    answer = llama.generate("builtin", "Opposite of big?", raw=True, options={"num_predict": 3})
    assert answer.prompt_eval_count < llama.generate("builtin", "Opposite of big?").prompt_eval_count  # type: ignore
    whole = "<|im_start|>user\nOpposite of big?<|im_end|>\n<|im_start|>assistant\n"
    assert llama.generate("builtin", whole, raw=True).response == chat(llama).message.content
    with pytest.raises(ollama.ResponseError, match="cannot fill in"):
        llama.generate("builtin", "def f(", suffix="return x")


def test_texts_are_embedded(tmp_path: Path) -> None:
    path = bert.write(tmp_path / "random-bert.gguf")
    with serving("--model", str(path), "--name", "bert", "--threads", "1") as running_bert:
        running_bert.wait_until_ready()
        with ollama.Client(host=running_bert.url) as client:
            answer = client.embed("bert", ["the cat sat", "a dog ran"])
            assert len(answer.embeddings) == 2 and answer.prompt_eval_count == 10
            assert client.embed("bert", "the cat sat").embeddings == [pytest.approx(answer.embeddings[0], abs=1e-5)]
            assert client.embeddings("bert", "the cat sat").embedding == pytest.approx(answer.embeddings[0], abs=1e-5)
            assert len(client.embed("bert", "the cat", dimensions=8).embeddings[0]) == 8
            assert client.embed("bert", []).embeddings == []
            assert client.show("bert").capabilities == ["embedding"]
            with pytest.raises(ollama.ResponseError, match="load a chat model"):
                client.chat("bert", ASKED)


def test_a_chat_model_refuses_to_embed(llama: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="embedding model"):
        llama.embed("builtin", "Hi")


def test_images_are_read(llama: ollama.Client) -> None:
    without = chat(llama, [{"role": "user", "content": "Count the shapes."}])
    model = chat(llama, [{"role": "user", "content": "Count the shapes.", "images": [DATA / "picture-5.png"]}])
    assert model.prompt_eval_count == without.prompt_eval_count + 16
    generated = llama.generate("builtin", "Count the shapes.", images=[(DATA / "picture-5.png").read_bytes()])
    assert generated.prompt_eval_count == model.prompt_eval_count
    with pytest.raises(ollama.ResponseError, match=r"messages\[0\].images\[0\]") as refused:
        chat(llama, [{"role": "user", "content": "Hi", "images": ["aGVsbG8="]}])
    assert refused.value.status_code == 400


def test_options_are_honoured(llama: ollama.Client) -> None:
    cut = chat(llama, options={"num_predict": 2, "temperature": 1.0, "top_k": 5, "top_p": 0.9, "seed": 3})
    assert (cut.eval_count, cut.done_reason) == (2, "length")
    whole = chat(llama, options={"num_predict": -1}).message.content
    stopped = chat(llama, options={"stop": [whole[2:4]]})
    assert stopped.message.content == whole[: whole.index(whole[2:4])]
    sampled = {
        chat(llama, options={"temperature": 2.0, "seed": s, "num_predict": 20}).message.content for s in range(5)
    }
    assert len(sampled) > 1


def test_an_output_format_is_followed(llama: ollama.Client) -> None:
    answer = json.loads(chat(llama, format=COUNT).message.content)
    assert set(answer) == {"shapes", "sure"} and isinstance(answer["sure"], bool)
    generated = llama.generate("builtin", "Count.", format="json", options={"num_predict": 300}).response
    assert generated is not None and generated.startswith("{")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_has_its_arguments_as_an_object(llama: ollama.Client, stream: bool) -> None:
    calls = []
    for seed in range(12):
        options = {"temperature": 100.0, "seed": seed, "num_predict": 200}  # so that it happens to call
        answer = chat(llama, tools=[LIGHT], options=options, stream=stream)
        calls += [call for line in (answer if stream else [answer]) for call in line.message.tool_calls or ()]
    assert calls and {call.function.name for call in calls} == {"turn_on"}
    assert {call.function.arguments["room"] for call in calls} <= {"kitchen", "hall"}


def test_tool_results_can_be_sent_back(llama: ollama.Client) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Bern"}}}
    messages = [
        *ASKED,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
    ]
    answer = chat(llama, messages, tools=[get_weather], options={"num_predict": 5})
    assert answer.prompt_eval_count > chat(llama, tools=[get_weather], options={"num_predict": 1}).prompt_eval_count


def test_logprobs_are_returned(llama: ollama.Client) -> None:
    answer = chat(llama, logprobs=True, top_logprobs=2)
    assert "".join(token.token for token in answer.logprobs) == answer.message.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in answer.logprobs)


def test_thinking_is_separate_from_the_answer(tmp_path: Path) -> None:
    model = templates.model_with(templates.THINKING, tmp_path)
    with serving("--model", str(model), "--name", "thinker", "--threads", "1") as thinking:
        thinking.wait_until_ready()
        with ollama.Client(host=thinking.url) as client:
            answer = client.chat("thinker", ASKED, think=True, options={"num_predict": 20})
            assert answer.message.thinking and answer.message.content == ""
            lines = list(client.generate("thinker", "Opposite of big?", stream=True, options={"num_predict": 20}))
            assert "".join(line.thinking or "" for line in lines) == answer.message.thinking
            assert "thinking" in (client.show("thinker").capabilities or ())


def test_models_are_listed_shown_and_reported_as_running(llama: ollama.Client, server: Server) -> None:
    (listed,) = llama.list().models
    assert listed.model == "builtin" and listed.size and listed.details
    assert (listed.details.format, listed.details.quantization_level) == ("gguf", "Q8_0")
    (loaded,) = llama.ps().models
    assert (loaded.model, loaded.context_length, loaded.digest) == ("builtin", 2048, listed.digest)
    model = llama.show("builtin:latest")
    assert {"completion", "tools", "vision", "audio"} <= set(model.capabilities or ())
    architecture = (model.modelinfo or {})["general.architecture"]
    assert (model.modelinfo or {})[f"{architecture}.context_length"] == 2048
    assert "messages" in (model.template or "")
    assert httpx.get(f"{server.url}/api/version").json()["version"].count(".") == 2


def test_an_empty_request_only_loads_the_model(llama: ollama.Client) -> None:
    assert llama.generate("builtin").done_reason == "load"
    assert chat(llama, []).done_reason == "load"
    assert llama.generate("nothing-like-it").done_reason == "load"  # the only loaded model answers


def test_options_that_are_set_at_load_get_a_warning(server: Server) -> None:
    body = {"model": "builtin", "messages": ASKED, "stream": False, "keep_alive": "5m"}
    warnings = server.post(body | {"options": {"num_ctx": 100_000, "num_gpu": 1}}, "/api/chat").json()["warnings"]
    assert len(warnings) == 3 and all(any(name in line for line in warnings) for name in ("num_ctx", "num_gpu", "keep"))
    fits = server.post(body | {"options": {"num_ctx": 512}, "keep_alive": -1}, "/api/chat").json()
    assert "warnings" not in fits


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        (lambda c: c.show("nothing-like-it"), 404, "no model"),
        (lambda c: c.pull("qwen3.5-0.8b"), 403, "--allow-pull"),
        (lambda c: list(c.pull("qwen3.5-0.8b", stream=True)), 403, "--allow-pull"),
        (lambda c: c.delete("builtin"), 403, "--allow-rm"),
        (lambda c: c.chat("builtin", ASKED, format={"not": {}}), 400, "not"),
        (lambda c: c.create("mine", from_="builtin"), 403, "--allow-create"),
    ],
)
def test_an_unsupported_feature_is_refused_by_name(llama: ollama.Client, ask: Any, status: int, words: str) -> None:
    with pytest.raises(ollama.ResponseError, match=words) as refused:
        ask(llama)
    assert refused.value.status_code == status


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub with one repository, for servers with an empty cache."""
    files = resolve("builtin")
    assert files.projector
    with running() as local:
        calls = {"omni-Q8_0.gguf": files.weights.read_bytes(), "mmproj-Q8_0.gguf": files.projector.read_bytes()}
        local.put("acme/omni-GGUF", calls)
        monkeypatch.setenv("HF_ENDPOINT", local.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield local


def test_models_can_be_pulled_and_deleted_if_allowed(hub: LocalHub) -> None:
    with serving("--allow-pull", "--allow-rm") as free:
        free.wait_until_ready()
        with ollama.Client(host=free.url) as client:
            lines = list(client.pull("hf:acme/omni-GGUF", stream=True))
            statuses = [line.status for line in lines]
            assert statuses[0] == "pulling manifest" and statuses[-1] == "success"
            ends = {line.digest: (line.completed, line.total) for line in lines if line.digest}
            assert len(ends) == 2 and all(done == total for done, total in ends.values())
            assert client.pull("hf:acme/omni-GGUF").status == "success"
            name = str(client.list().models[1].model)
            assert name.startswith("hf:acme/omni-GGUF") and "vision" in (client.show(name).capabilities or ())
            with pytest.raises(ollama.ResponseError, match="not loaded"):
                client.chat(name, ASKED)
            assert client.delete(name).status == "success"
            assert len(client.list().models) == 1
            with pytest.raises(ollama.ResponseError, match="loaded"):
                client.delete("builtin")


def test_a_failed_pull_ends_with_an_error_line(hub: LocalHub) -> None:
    with serving("--allow-pull") as free:
        free.wait_until_ready()
        with ollama.Client(host=free.url) as client:
            with pytest.raises(ollama.ResponseError, match="no repository|not found|acme/none"):
                list(client.pull("hf:acme/none", stream=True))
            with pytest.raises(ollama.ResponseError) as refused:
                client.pull("hf:acme/none")
            assert refused.value.status_code == 404


def test_the_root_page_says_that_the_server_is_running(server: Server) -> None:
    for path in ("/", "/api/version", "/api/tags"):
        assert httpx.head(f"{server.url}{path}").status_code == httpx.get(f"{server.url}{path}").status_code == 200
    assert "is running" in httpx.get(server.url).text


def test_python_functions_are_tools_and_images_come_in_any_form(llama: ollama.Client) -> None:
    def get_weather(city: str) -> str:
        """What the weather is.

        Args:
            city: where
        """
        return f"sunny in {city}"

    question = {"role": "user", "content": "How warm is it in Bern?"}
    deltas = llama.chat("builtin", [question], tools=[get_weather]).message
    assert deltas.content or deltas.tool_calls
    path = DATA / "picture-5.png"
    ways: list[Any] = [path, str(path), path.read_bytes(), base64.b64encode(path.read_bytes()).decode()]
    answers = {
        llama.chat("builtin", [{"role": "user", "content": "Count the shapes.", "images": [way]}]).message.content
        for way in ways
    }
    assert (
        answers == {llama.generate("builtin", "Count the shapes.", images=[str(path)]).response} and len(answers) == 1
    )


def test_tool_results_are_matched_to_calls_by_name_and_order() -> None:
    def call(name: str) -> schema.PastToolCall:
        return schema.PastToolCall(schema.PastFunction(name, {"x": 1}))

    request = schema.ChatRequest(
        model="m",
        messages=[
            schema.Message("assistant", tool_calls=[call("f"), call("g"), call("f")]),
            schema.Message("tool", "1", tool_name="g"),
            schema.Message("tool", "2", tool_name="f"),
            schema.Message("tool", "3"),
            schema.Message("user", "Well?"),
        ],
    )
    deltas, g, first, second, user = convert.messages(request)
    assert deltas.tool_calls[0] == ToolCall("call_0_0", "f", '{"x": 1}')
    assert (g.tool_call_id, first.tool_call_id, second.tool_call_id) == ("call_0_1", "call_0_0", "call_0_2")
    assert user == Message("user", (Text("Well?"),))


PIECES = st.lists(
    st.builds(Delta, st.text(max_size=4)) | st.builds(ReasoningDelta, st.text(max_size=4)) | st.booleans(), max_size=12
)


@settings(deadline=None)
@given(PIECES)
def test_the_lines_of_a_stream_add_up_to_the_whole_answer(pieces: list[Any]) -> None:
    deltas: list[OutputDelta] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, bool):  # a tool call, complete or truncated
            deltas += [
                ToolCallStart(i, f"id{i}", "f"),
                ToolCallArguments(i, '{"n":'),
                ToolCallArguments(i, "1}" if piece else ""),
            ]
        else:
            deltas.append(piece)
    encoder, streaming = LineEncoder("m", True, [], lambda: "now"), LineEncoder("m", True, [], lambda: "now")
    whole, warnings = encoder.whole_content(deltas), encoder.warnings
    contents = [streaming.content(delta) for delta in deltas]
    contents.append(streaming.complete_call())
    assert sum(contents, LineContent()) == whole
    assert whole.text == "".join(p.text for p in pieces if isinstance(p, Delta))
    assert len(whole.calls) == sum(piece is True for piece in pieces)
    assert all(call.name == "f" and call.id.startswith("id") for call in whole.calls)
    assert bool(warnings) == (False in [p for p in pieces if isinstance(p, bool)])
    model = json.loads(msgspec_json.encode(encoder.line(whole)))
    assert [call["function"]["arguments"] for call in model["message"].get("tool_calls", [])] == [
        {"n": 1} for _ in whole.calls
    ]
