"""Reranking over HTTP: scores as the model defines them, and documents in the order of their scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import bert
from fakes.bert import tokens
from fakes.server import Server, serving
from galago.models.registry.resolve import resolve
from galago.runtime.inference.loader import open_model
from galago.runtime.prompt.completion import query_document_tokens
from galago.runtime.types.tasks import Rerank

QUERY = "the big house"
DOCUMENTS = ["a small cat sat on the mat", "a big red house", "dog", "the cat ran in the house"]


def scores() -> list[float]:
    return [bert.score([*tokens(QUERY), *tokens(document)[1:]]) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = bert.write(tmp_path_factory.mktemp("bert") / "random-ranker.gguf", "rank")
    with serving("--model", str(path), "--threads", "1") as running:
        running.wait_until_ready()
        yield running


def rank(server: Server, **fields: Any) -> Any:
    answer = server.post({"query": QUERY, "documents": DOCUMENTS} | fields, "/v1/rerank")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_documents_are_ordered_by_the_models_scores(ranker: Server) -> None:
    found = rank(ranker)
    expected = sorted(enumerate(scores()), key=lambda pair: -pair[1])
    assert [one["index"] for one in found["results"]] == [i for i, _ in expected]
    for one, (_, score) in zip(found["results"], expected, strict=True):
        assert one["relevance_score"] == pytest.approx(score, abs=5e-3)
        assert "document" not in one
    read = sum(len(tokens(QUERY)) + len(tokens(document)) - 1 for document in DOCUMENTS)
    assert found["usage"] == {"prompt_tokens": read, "total_tokens": read}


def test_the_number_of_documents_and_their_texts_can_be_chosen(ranker: Server) -> None:
    best = max(range(4), key=lambda i: scores()[i])
    [found] = rank(ranker, top_n=1, return_documents=True)["results"]
    assert found["index"] == best and found["document"] == {"text": DOCUMENTS[best]}
    objects = rank(ranker, documents=[{"text": text} for text in DOCUMENTS])
    assert objects["results"] == rank(ranker)["results"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": [5]}, "documents[0]"),
        ({"documents": ["a", "b " * 200]}, "documents[1]"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_a_bad_request_is_refused_with_its_field(ranker: Server, fields: dict[str, Any], param: str) -> None:
    answer = ranker.post({"query": QUERY, "documents": DOCUMENTS} | fields, "/v1/rerank")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_each_kind_of_model_refuses_the_tasks_of_others(ranker: Server, server: Server) -> None:
    asked = {"query": "a", "documents": ["b"]}
    refused = [ranker.ask("Hi"), ranker.post({"input": "a"}, "/v1/embeddings"), server.post(asked, "/v1/rerank")]
    assert [(answer.status_code, answer.json()["error"]["param"]) for answer in refused] == [(400, "model")] * 3


def test_the_models_own_rerank_template_is_used(tmp_path: Path) -> None:
    """Control tokens of the template are parsed; those in a document stay text."""
    path = bert.write(tmp_path / "ranker.gguf", "rank")
    model = open_model(resolve(path))
    weights = model._weights
    laid = query_document_tokens("cat", "[SEP] dog", "[CLS]{query}[MASK]{document}[SEP]", weights)
    cat, dog = (weights.tokenize(text, parse_special=False) for text in ("cat", "[SEP] dog"))
    assert laid == [bert.CLS, *cat, 4, *dog, bert.SEP]
    assert bert.SEP not in dog
    answer = model.run_task(Rerank("cat", ("dog",)))
    model.close()
    assert answer.scores[0] == pytest.approx(bert.score([*tokens("cat"), *tokens("dog")[1:]]), abs=5e-3)
