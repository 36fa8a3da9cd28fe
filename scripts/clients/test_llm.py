"""Simon Willison's `llm` with Galago in its extra-openai-models.yaml, from the command line and from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import llm
import openai
import pytest
from click.testing import CliRunner, Result
from llm.cli import cli
from llm.parts import ToolCallPart, ToolResultPart

from clients.shared import CITIES, KEY, MODEL, PICTURE, SCHEMA, SOUND, URL, VECTORS_URL, check_shape

ENTRY = f"""\
- model_id: galago
  model_name: {MODEL}
  api_base: {URL}
  api_key_name: galago
  supports_schema: true
  supports_tools: true
  vision: true
  audio: true
- model_id: elsewhere
  model_name: gpt-4o
  api_base: {VECTORS_URL}
  api_key_name: galago
"""
SENSES: dict[str, tuple[str, Path | None]] = {
    "text": ("Describe a shape.", None),
    "picture": ("Count the shapes.", PICTURE),
    "sound": ("What was said?", SOUND),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("llm")
    (path / "extra-openai-models.yaml").write_text(ENTRY)
    (path / "keys.json").write_text(json.dumps({"galago": KEY}))
    os.environ["LLM_USER_PATH"] = str(path)
    yield path
    del os.environ["LLM_USER_PATH"]


@pytest.fixture(scope="module")
def model(home: Path) -> llm.Model:
    return llm.get_model("galago")


@pytest.fixture(params=SENSES)
def sense(request: pytest.FixtureRequest) -> tuple[str, Path | None]:
    return SENSES[request.param]


def typed(*arguments: str, expected: int = 0) -> Result:
    """Runs the command line in this process, because a new one takes seconds to start."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == expected, done.output
    return done


def attached(path: Path | None) -> list[Any]:
    return [llm.Attachment(path=str(path))] if path else []


def test_the_model_is_listed_and_answers_as_a_program(home: Path) -> None:
    assert "OpenAI Chat: galago" in typed("models").stdout
    asked = ["-m", "galago", "Hi"]
    done = subprocess.run(
        [sys.executable, "-m", "llm", *asked], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.stdout and done.stdout == typed(*asked).stdout, done.stderr


def test_a_question_typed_is_answered_streamed_and_not(home: Path, sense: tuple[str, Path | None]) -> None:
    words, path = sense
    asked = ["-m", "galago", words, *(["-a", str(path)] if path else [])]
    streamed, whole = typed(*asked).stdout, typed(*asked, "--no-stream").stdout
    assert streamed.strip() and streamed == whole


def test_usage_is_reported(home: Path) -> None:
    assert "input" in typed("-m", "galago", "Hi", "--usage").stderr


def test_a_conversation_goes_on(home: Path) -> None:
    typed("-m", "galago", "Hi")
    assert typed("-m", "galago", "-c", "And you?").stdout.strip()
    logged = json.loads(typed("logs", "list", "-n", "2", "--json").stdout)
    assert len({row["conversation_id"] for row in logged}) == 1 and all(row["response"] for row in logged)


def test_a_schema_typed_is_enforced(home: Path) -> None:
    check_shape(json.loads(typed("-m", "galago", "Describe a shape.", "--schema", json.dumps(SCHEMA)).stdout))


def test_options_typed_arrive(home: Path) -> None:
    options = ["-o", "temperature", "1", "-o", "seed", "7", "-o", "max_tokens", "4", "-o", "frequency_penalty", "1"]
    assert typed("-m", "galago", "Hi", *options).stdout == typed("-m", "galago", "Hi", *options).stdout
    json.loads(typed("-m", "galago", "Hi", "-o", "json_object", "true").stdout)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_every_sense_is_answered_with_its_usage(model: llm.Model, sense: tuple[str, Path | None], stream: bool) -> None:
    words, path = sense
    response = model.prompt(words, attachments=attached(path), stream=stream, system="Be brief.")
    pieces = list(response)
    assert "".join(pieces) and (len(pieces) > 1) == stream
    used = response.usage()
    assert used.input > 5 and used.output > 1
    details = (used.details or {}).get("prompt_tokens_details", {})
    assert bool(details.get("image_tokens")) == (path == PICTURE)
    assert bool(details.get("audio_tokens")) == (path == SOUND)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_every_sense_is_answered_in_a_schema(model: llm.Model, sense: tuple[str, Path | None], stream: bool) -> None:
    words, path = sense
    check_shape(json.loads(model.prompt(words, attachments=attached(path), schema=SCHEMA, stream=stream).text()))


def get_weather(city: str) -> str:
    """Returns the weather."""
    return f"sunny in {city}"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_is_run_and_its_result_sent_back(model: llm.Model, stream: bool) -> None:
    """`llm` cannot require a call. The schema allows only one other answer, so that a call soon happens."""
    tool = llm.Tool.function(get_weather)
    tool.input_schema["properties"]["city"] = {"enum": list(CITIES)}
    asked: dict[str, Any] = {"tools": [tool], "schema": {"const": "no call"}, "stream": stream}
    for seed in range(40):
        chain = model.chain("The weather?", **asked, options={"temperature": 2, "seed": seed, "max_tokens": 200})
        try:
            responses = list(islice(chain.responses(), 2))
        except json.JSONDecodeError:  # llm raises this if an answer is truncated within a call
            continue
        calls = responses[0].tool_calls()
        assert calls or responses[0].text() == '"no call"'
        if calls:
            assert all(call.name == "get_weather" and call.arguments["city"] in CITIES for call in calls)
            assert responses[1].usage().input > responses[0].usage().input + 5
            return
    pytest.skip("the model has called nothing in 40 answers")


def test_a_call_and_its_result_can_be_sent_as_history(model: llm.Model) -> None:
    tool = llm.Tool.function(get_weather)
    call = ToolCallPart(name="get_weather", arguments={"city": "Bern"}, tool_call_id="call_1")
    result = ToolResultPart(name="get_weather", output="sunny", tool_call_id="call_1")
    history = [
        llm.user("The weather in Bern?"),
        llm.assistant(call),
        llm.tool_message(result),
    ]
    with_history = model.prompt(messages=history, tools=[tool])
    alone = model.prompt(messages=history[:1], tools=[tool])
    assert with_history.text() is not None and alone.text() is not None
    assert with_history.usage().input > alone.usage().input + 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-m", "galago", "word " * 5000), "maximum context length"),
        (("-m", "elsewhere", "Hi"), "404"),
        (("-m", "galago", "Hi", "--key", "wrong"), "401"),
        (("-m", "galago", "Hi", "--schema", '{"type": "object", "not": {}}'), "400"),
    ],
)
def test_errors_are_one_line(home: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in typed(*arguments, expected=1).stderr


def test_a_model_that_makes_no_vectors_says_so(home: Path) -> None:
    from llm.default_plugins.openai_models import OpenAIEmbeddingModel

    embedder = OpenAIEmbeddingModel("galago-embeddings", MODEL)
    embedder.api_base, embedder.needs_key, embedder.key = URL, None, KEY
    with pytest.raises(openai.BadRequestError, match="load an embedding model"):
        list(embedder.embed_batch(["red", "blue"]))
