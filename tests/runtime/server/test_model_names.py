"""Other people's model names: a request for a model that is not here is answered by the loaded one, with a warning."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fakes.server import Server

HI: Any = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 1},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 1},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 1},
    "/api/chat": {"messages": HI, "stream": False, "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "a", "stream": False, "options": {"num_predict": 1}},
    "/v1/tokenize": {"content": "a"},
    "/v1/detokenize": {"tokens": [5]},
}
UNKNOWN = (
    "gpt-3.5-turbo", "gpt-4o-mini", "gpt-5.1-codex", "claude-haiku-4-5-20251001", "text-embedding-3-small",
    "llama3.2:3b", "meta-llama/Llama-3.1-8B-Instruct", "hf:nobody/nothing", "nobody/nothing:Q4_K_M@main",
    "models/gemini-2.0-flash", "model.gguf", "../x", "/etc/passwd", "C:\\model.gguf", "modèle à moi", "m" * 3000, " ",
)  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN, ids=[name[:20] for name in UNKNOWN])
def test_an_unknown_name_is_answered_with_a_warning_that_names_both(
    server: Server, strict_server: Server, name: str
) -> None:
    body = BODIES["/v1/chat/completions"] | {"model": name}
    answer = server.post(body).json()
    assert answer["model"] == "builtin"
    (warning,) = answer["warnings"]
    assert repr(name)[:60] in warning and "'builtin'" in warning
    refused = strict_server.post(body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", BODIES)
def test_every_api_answers_to_names_that_it_does_not_know(server: Server, strict_server: Server, path: str) -> None:
    answer = server.post(BODIES[path] | {"model": "gpt-4o-mini"}, path)
    assert answer.status_code == 200, answer.text
    assert "gpt-4o-mini" in answer.headers["x-galago-warnings"]
    assert strict_server.post(BODIES[path] | {"model": "gpt-4o-mini"}, path).status_code == 404


OWN = (
    None, "", "default", "builtin", "friend", "second/friend", "builtin:latest", "Builtin", "BUILTIN:Latest",
    "friend:latest", "Second/Friend",
)  # fmt: skip


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("path", BODIES)
def test_every_api_answers_to_no_name_and_to_its_own_names_in_any_spelling_without_a_warning(
    strict_server: Server, path: str, name: str | None
) -> None:
    answer = strict_server.post(BODIES[path] | {"model": name}, path)
    assert answer.status_code == 200, answer.text
    assert "x-galago-warnings" not in answer.headers
    assert answer.json().get("model", "builtin") == "builtin"


def test_aliases_are_listed_by_every_api(strict_server: Server) -> None:
    url = strict_server.url
    names = ["builtin", "friend", "second/friend"]
    listed = [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
    assert listed[:3] == names  # other tests may have left models and presets, which come behind
    anthropic = httpx.get(f"{url}/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert [model["id"] for model in anthropic["data"]] == names
    assert [model["name"] for model in httpx.get(f"{url}/api/tags").json()["models"]][:3] == names
    assert httpx.get(f"{url}/v1/models/second/friend").json()["id"] == "second/friend"
    assert httpx.get(f"{url}/v1/models/builtin:latest").json()["id"] == "builtin"
    assert strict_server.post({"model": "friend"}, "/api/show").status_code == 200
    assert httpx.get(f"{url}/v1/models/stranger").status_code == 404
