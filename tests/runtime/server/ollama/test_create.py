"""Presets over HTTP: what they set, and Ollama's `create`, `show`, `list` and `delete` of them, with its client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from fakes.presets import EVERYTHING
from fakes.server import Server, serving
from galago.models.presets import read_tables
from galago.runtime.prompt.named_templates import NAMED_TEMPLATES

QUESTION: list[Any] = [{"role": "user", "content": "Opposite of big?"}]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "galago/models.toml"
    path.parent.mkdir()
    path.write_text(f'{EVERYTHING}\n[bad]\nmodel = "builtin"\ntop_k = 1.5\n', "utf-8")
    return path


@pytest.fixture(scope="module")
def mario(file: Path) -> Iterator[Server]:
    """A server of the preset with every setting, which lets clients make and delete presets."""
    options = ("--model", "mario", "--allow-create", "--allow-rm", "--alias", "third")
    with serving(*options, XDG_CONFIG_HOME=str(file.parent.parent)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def llama(mario: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=mario.url) as client:
        yield client


def names(server: Server) -> set[str]:
    return {model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]}


def test_a_preset_s_names_and_context_are_the_server_s(mario: Server, file: Path) -> None:
    assert names(mario) >= {"mario", "it-is-me", "Luigi:latest", "third"}
    shown = httpx.get(f"{mario.url}/v1/models/mario").json()
    assert 512 in shown.values()
    number = file.read_text("utf-8").split("\n").index("top_k = 1.5") + 1
    assert any(f"line {number}: top_k is 1.5" in line for line in mario.lines)


def test_requests_get_what_they_do_not_say(mario: Server) -> None:
    answer = mario.post({"messages": QUESTION}).json()
    assert answer["usage"]["completion_tokens"] <= 3 and answer["model"] == "mario"
    system = [{"role": "system", "content": "Answer only yes."}, *QUESTION]
    same = mario.post({"messages": system}).json()
    other = mario.post(
        {"messages": [{"role": "system", "content": "Answer only yes, or no, or so."}, *QUESTION]}
    ).json()
    assert answer["usage"]["prompt_tokens"] == same["usage"]["prompt_tokens"] < other["usage"]["prompt_tokens"]
    assert answer["choices"] == same["choices"], "the seed makes it repeatable"
    longer = mario.post({"messages": QUESTION, "max_tokens": 5, "temperature": 0, "ignore_eos": True}).json()
    assert longer["usage"]["completion_tokens"] == 5
    anthropic = mario.post({"model": "mario", "messages": QUESTION, "max_tokens": 1}, "/v1/messages").json()
    used = anthropic["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == answer["usage"]["prompt_tokens"]
    response = mario.post({"model": "mario", "input": "Opposite of big?"}, "/v1/responses").json()
    assert response["usage"]["input_tokens"] == answer["usage"]["prompt_tokens"]
    assert (response["temperature"], response["top_p"]) == (0.7, 0.9)
    assert (response["presence_penalty"], response["frequency_penalty"]) == (0.2, 0.1)


def test_show_describes_a_preset_as_ollama_does(llama: ollama.Client) -> None:
    shown = llama.show("mario").model_dump() | {"system": None}
    raw = httpx.post(f"{llama._client.base_url}/api/show".replace("//api", "/api"), json={"model": "mario"}).json()
    assert raw["system"] == "Answer only yes." and raw["template"] == NAMED_TEMPLATES["plain"]
    assert raw["messages"][0] == {"role": "user", "content": "Is it?"}
    assert {"temperature 0.7", "top_k 5", "num_ctx 512", "num_predict 3", "stop END"} <= set(
        raw["parameters"].splitlines()
    )
    assert shown["modelfile"].startswith("FROM builtin\n") and "SYSTEM Answer only yes.\n" in shown["modelfile"]


def test_the_client_creates_lists_shows_and_deletes_presets(llama: ollama.Client, file: Path) -> None:
    lines = list(
        llama.create(
            "pirate:latest",
            from_="builtin",
            system="You are a pirate.",
            parameters={"temperature": 0.1, "stop": ["a", "b"], "num_ctx": 1024, "mirostat": 1},
            license=["MIT", "free"],
            messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr"}],
            template="<|im_start|>{{ .System }}",
            stream=True,
        )
    )
    statuses = [line.status for line in lines]
    assert statuses[0] == "using the model builtin" and statuses[-1] == "success"
    assert any("'mirostat' is left out" in str(status) for status in statuses)
    table = next(table for table in read_tables(file).tables if table.name == "pirate")
    assert table.values == {
        "model": "builtin", "system": "You are a pirate.", "temperature": 0.1, "stop": ["a", "b"], "context": 1024,
        "license": "MIT\n\nfree",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr"}],
    }  # fmt: skip
    assert "pirate" in [model.model for model in llama.list().models]
    shown = llama.show("pirate")
    assert "You are a pirate." in (shown.modelfile or "") and shown.license == "MIT\n\nfree"
    assert llama.create("second", from_="pirate", parameters={"stop": "c"}).status == "success"
    table = next(table for table in read_tables(file).tables if table.name == "second")
    assert table.values["stop"] == ["c"] and table.values["system"] == "You are a pirate."
    for name in ("pirate", "second"):
        assert llama.delete(name).status == "success"
    assert "pirate" not in [model.model for model in llama.list().models]


def test_the_older_form_with_the_text_of_a_modelfile_works(mario: Server, file: Path) -> None:
    body = {"name": "old", "modelfile": "FROM builtin\nSYSTEM S\nPARAMETER top_k 2\n", "stream": False}
    assert mario.post(body, "/api/create").json() == {"status": "success"}
    table = next(table for table in read_tables(file).tables if table.name == "old")
    assert table.values == {"model": "builtin", "system": "S", "top_k": 2}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"from": "builtin"}, 400, "model is missing"),
        ({"model": "x"}, 400, "from is missing"),
        ({"model": "x", "from": "nothing-like-it"}, 404, "nothing-like-it"),
        ({"model": "x", "from": "/etc/passwd"}, 400, "is a file"),
        ({"model": "x", "from": "builtin", "files": {"a.gguf": "sha256:0"}}, 400, "takes no files"),
        ({"model": "x", "from": "builtin", "adapters": {"a.gguf": "sha256:0"}}, 400, "takes no files"),
        ({"model": "x", "modelfile": "FROM builtin\nADAPTER /a.gguf\n"}, 400, "is a file"),
        ({"model": "x", "modelfile": "FROM builtin\nHELLO\n"}, 400, "line 2: 'HELLO'"),
        ({"model": "./x", "from": "builtin"}, 400, "cannot be the name of a preset"),
        ({"model": "builtin", "from": "builtin"}, 400, "always means another model"),
        ({"model": "x", "from": "builtin", "parameters": {"temperature": "hot"}}, 400, "temperature is 'hot'"),
        ({"model": "x", "from": "builtin", "parameters": {"top_k": [1]}}, 400, "top_k is"),
        ({"model": "x", "from": "builtin", "parameters": {"stop": 1}}, 400, "stop"),
    ],
)
def test_what_cannot_be_created_is_refused(mario: Server, file: Path, body: Any, status: int, words: str) -> None:
    before = file.read_bytes()
    answer = mario.post(body, "/api/create")
    assert answer.status_code == status and words in answer.json()["error"], answer.text
    assert file.read_bytes() == before


def test_quantize_has_no_effect_and_says_so(mario: Server) -> None:
    lines = mario.post({"model": "q", "from": "builtin", "quantize": "q4_K_M"}, "/api/create").text
    assert "quantize has no effect: galago quantize makes smaller variants" in lines and "success" in lines
