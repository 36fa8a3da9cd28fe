"""A server without `--model` answers for every installed model and preset, and gives their memory back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import ollama
import psutil
import pytest

from fakes import bert
from fakes.server import WORKER_PROGRAM, Server, children_running, serving_any
from fakes.waiting import wait_until
from galago.models.paths import presets_path
from galago.runtime.cli.main import main

PRESET = """
[pirate]
model = "builtin"
temperature = 0
system = "You are a pirate."
context = 1024
keep_alive = -1
"""
QUESTION = [{"role": "user", "content": "Opposite of big?"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server beside an embedding model, a reranker and a preset, which keeps no model for longer than a request."""
    folder = tmp_path_factory.mktemp("models")
    for name, pooling in (("embedder", "mean"), ("reranker", "rank")):
        assert main(["import", str(bert.write(folder / f"{name}.gguf", pooling))]) == 0
    presets_path().parent.mkdir(parents=True, exist_ok=True)
    presets_path().write_text(PRESET)
    # the embedding model was trained for a shorter context than this
    with serving_any("--threads", "1", "--keep-alive", "0", "--cache-ram", "8", "--context", "2048") as server:
        server.wait_until_ready()
        yield server
    presets_path().unlink()
    for name in ("embedder", "reranker"):
        assert main(["rm", name]) == 0


def workers(server: Server) -> list[psutil.Process]:
    return children_running(WORKER_PROGRAM, server.process.pid)


def states(server: Server) -> dict[str, str]:
    return {card["id"]: card["state"] for card in httpx.get(f"{server.url}/v1/models").json()["data"]}


def test_each_request_is_answered_by_the_model_that_it_names_and_its_memory_is_given_back(models: Server) -> None:
    assert states(models) == dict.fromkeys(("builtin", "embedder", "reranker", "pirate"), "unloaded")
    client = models.client()
    assert client.embeddings.create(model="embedder", input="a b").model == "embedder"
    ranked = models.post({"model": "reranker", "query": "a", "documents": ["a", "b"]}, "/v1/rerank").json()
    assert ranked["model"] == "reranker" and len(ranked["results"]) == 2
    answer = client.chat.completions.create(model="builtin", messages=QUESTION)  # type: ignore[arg-type]
    assert (answer.model, answer.choices[0].message.content) == ("builtin", "Small.")
    wait_until(lambda: set(states(models).values()) == {"unloaded"})
    assert not workers(models)


def test_a_model_that_is_not_installed_is_not_found_and_a_path_is_no_name(models: Server) -> None:
    for name in ("gpt-4o-mini", "llama3.2:1b", str(Path(__file__)), "../embedder.gguf", "x" * 300):
        answer = models.post({"model": name, "messages": QUESTION})
        assert answer.status_code == 404 and name[:20] in answer.json()["error"]["message"], answer.text


def test_a_stream_says_what_it_waits_for(models: Server) -> None:
    body = {"model": "builtin", "messages": QUESTION, "stream": True}
    with httpx.stream("POST", f"{models.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    comments = [line for line in lines if line.startswith(":")]
    assert comments and all("builtin" in line for line in comments)
    assert lines[-1] == "data: [DONE]" and '"Small' not in comments


def test_an_error_that_comes_after_a_stream_has_begun_is_its_last_event(models: Server) -> None:
    body = {"model": "embedder", "messages": QUESTION, "stream": True}
    answer = models.post(body)
    assert answer.status_code == 200 and '"error"' in answer.text and "embed" in answer.text


def test_a_preset_stays_loaded_as_it_says(models: Server) -> None:
    answer = models.post({"model": "pirate", "messages": QUESTION}).json()
    assert answer["model"] == "pirate"
    assert states(models)["pirate"] == "ready" and states(models)["builtin"] == "unloaded"
    assert httpx.post(f"{models.url}/v1/models/pirate/unload").json()["state"] == "unloaded"
    wait_until(lambda: not workers(models))


def test_a_model_that_is_not_loaded_is_already_unloaded(models: Server) -> None:
    assert httpx.post(f"{models.url}/v1/models/embedder/unload").json()["state"] == "unloaded"


def test_the_answer_to_a_load_says_how_long_the_model_stays(models: Server) -> None:
    answer = httpx.post(f"{models.url}/v1/models/embedder/load", json={"keep_alive": "2h"}).json()
    assert (answer["state"], answer["keep_alive"]) == ("ready", 7200)
    httpx.post(f"{models.url}/v1/models/embedder/unload")


def test_the_ollama_client_keeps_and_unloads_models(models: Server) -> None:
    client = ollama.Client(models.url)
    client.generate("builtin", "Opposite of big?", keep_alive="1h")
    (running,) = client.ps().models
    assert running.model == "builtin" and running.expires_at is not None
    client.embed("embedder", "a b", keep_alive=-1)
    assert {model.model for model in client.ps().models} == {"builtin", "embedder"}
    assert client.generate("builtin", keep_alive=0).done_reason == "unload"
    client.embed("embedder", "a b", keep_alive=0)
    wait_until(lambda: client.ps().models == [])
    assert client.generate("builtin", keep_alive=60).done_reason == "load"
    assert [model.model for model in client.ps().models] == ["builtin"]
    client.generate("builtin", keep_alive=0)
    client._client.close()


def test_the_commands_load_and_unload(models: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = ["--port", models.url.rpartition(":")[2]]
    assert main(["ps", *port]) == 0
    assert "no model is loaded" in capsys.readouterr().out
    assert main(["load", "embedder", "--keep-alive", "2h", *port]) == 0
    assert "embedder is loaded" in capsys.readouterr().out
    assert main(["ps", *port]) == 0
    assert "in 120 min" in capsys.readouterr().out
    assert main(["stop", "embedder", *port]) == 0
    assert "embedder is unloaded" in capsys.readouterr().out
    assert main(["load", "missing", *port]) == 1
    assert "there is no model missing" in capsys.readouterr().err


def test_a_request_is_answered_though_its_worker_is_killed_before_it_begins(models: Server) -> None:
    body = {"model": "builtin", "messages": QUESTION, "keep_alive": 60}
    assert models.post(body).status_code == 200
    (worker,) = workers(models)
    worker.kill()
    answer = models.post(body).json()
    assert answer["choices"][0]["message"]["content"] == "Small."
    httpx.post(f"{models.url}/v1/models/builtin/unload")


def test_a_whole_answer_is_begun_again_if_its_worker_is_killed(models: Server) -> None:
    body = {"model": "builtin", "messages": QUESTION, "keep_alive": 60, "temperature": 0, "cache": False}
    long = body | {"ignore_eos": True, "max_tokens": 1500}
    models.post(body)
    with ThreadPoolExecutor() as threads:
        answering = threads.submit(models.post, long)
        wait_until(lambda: models.running() == 1)
        assert not answering.done()
        workers(models)[0].kill()
        assert answering.result().json()["usage"]["completion_tokens"] == 1500
    assert 'galago_restarts_total{model="builtin"} 1' in httpx.get(f"{models.url}/metrics").text
    httpx.post(f"{models.url}/v1/models/builtin/unload")


def test_a_model_that_cannot_fit_is_refused_with_the_numbers() -> None:
    with serving_any("--memory", "100MB", "--threads", "1", HOME=os.environ["HOME"]) as server:
        server.wait_until_ready()
        answer = server.post({"model": "builtin", "messages": QUESTION})
        message = answer.json()["error"]["message"]
        assert "builtin needs" in message and "may take only" in message, answer.text
