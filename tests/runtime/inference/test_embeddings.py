"""Embeddings: as the model defines them, the same in every batch, and over HTTP as OpenAI's clients expect."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import bert
from fakes.bert import tokens
from fakes.gguf_writing import write_and_close
from fakes.server import Server, serving
from galago.models.errors import Cancelled, EngineCrashed, EngineError, GalagoError, InvalidRequest, PromptTooLong
from galago.models.registry.resolve import resolve
from galago.runtime import LocalModel, load
from galago.runtime.config import ModelConfig
from galago.runtime.inference.embed_batcher import EmbedBatcher
from galago.runtime.inference.embedder import Embedder
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.placement import LoadPlan
from galago.runtime.types.tasks import Embed
from galago.runtime.worker.supervisor import WorkerSupervisor

TEXTS = ("the cat sat on the mat", "a big red house", "dog", "x" * 50)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert.write(tmp_path_factory.mktemp("bert") / "random-bert.gguf")


@pytest.fixture(scope="module")
def embedder(path: Path) -> Iterator[LocalModel]:
    with load(path, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def bert_server(path: Path) -> Iterator[Server]:
    with serving("--model", str(path), "--threads", "1") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def bert_client(bert_server: Server) -> Iterator[openai.OpenAI]:
    with bert_server.client() as client:
        yield client


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "none"])
def test_vectors_match_a_reference_implementation(tmp_path: Path, pooling: str) -> None:
    with load(bert.write(tmp_path / "bert.gguf", pooling), threads=1) as model:
        found = np.array(model.embed(TEXTS))
        assert bool(model.info.warnings) == (pooling == "none")
    expected = [bert.vector(tokens(text), "mean" if pooling == "none" else pooling) for text in TEXTS]
    assert np.abs(found - expected).max() < 1e-3


def test_vectors_match_transformers(embedder: LocalModel) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    shape = bert.SHAPE
    config = transformers.BertConfig(
        vocab_size=len(bert.VOCABULARY), hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.inner, max_position_embeddings=shape.context,
        layer_norm_eps=shape.epsilon,
    )  # fmt: skip
    reference = transformers.BertModel(config, add_pooling_layer=False).eval()
    names = {
        "token_embd_norm": "embeddings.LayerNorm", "token_embd": "embeddings.word_embeddings",
        "token_types": "embeddings.token_type_embeddings", "position_embd": "embeddings.position_embeddings",
        "blk": "encoder.layer", "attn_output_norm": "attention.output.LayerNorm",
        "layer_output_norm": "output.LayerNorm",
        "attn_output": "attention.output.dense",
        "attn_q": "attention.self.query", "attn_k": "attention.self.key",
        "attn_v": "attention.self.value", "ffn_up": "intermediate.dense", "ffn_down": "output.dense",
    }  # fmt: skip
    weights = {
        ".".join(names.get(part, part) for part in name.split(".")): torch.from_numpy(tensor)
        for name, tensor in bert.weights().items()
        if not name.startswith("cls")
    }
    reference.load_state_dict(weights)
    with torch.no_grad():
        rows = [reference(torch.tensor([tokens(text)])).last_hidden_state[0, 0].numpy() for text in TEXTS]
    expected = [row / np.linalg.norm(row) for row in rows]
    assert np.abs(np.array(embedder.embed(TEXTS)) - expected).max() < 1e-3


def test_a_text_has_the_same_vector_alone_and_in_a_batch(embedder: LocalModel) -> None:
    many = embedder.embed([f"{text} {i}" for i in range(40) for text in TEXTS])
    for i in (0, 77, 159):
        assert np.abs(np.array(many[i]) - embedder.embed(f"{TEXTS[i % 4]} {i // 4}")).max() < 1e-3


def test_fewer_dimensions_are_the_first_ones_normalized(embedder: LocalModel) -> None:
    whole, short = np.array(embedder.embed(TEXTS[0])), np.array(embedder.embed(TEXTS[0], 16))
    assert np.allclose(short, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
    for impossible in (0, -1, 65):
        with pytest.raises(InvalidRequest, match="64"):
            embedder.embed(TEXTS[0], impossible)


def test_the_error_for_a_long_text_names_it_and_both_lengths(embedder: LocalModel) -> None:
    with pytest.raises(PromptTooLong, match=r"input\[1\] has 202 tokens .* 128"):
        embedder.embed(["a", "a " * 200])


def test_control_tokens_in_a_text_stay_text(path: Path) -> None:
    with load(path, threads=1) as model:
        assert np.abs(np.subtract(model.embed("[SEP] cat"), model.embed("[sep] cat"))).max() < 1e-6


def test_accents_are_stripped_as_bert_does(tmp_path: Path) -> None:
    """Nonspacing marks are stripped; spacing vowels of Devanagari stay, and Hangul is decomposed."""
    more = ["▁\u0915\u093e", "▁\u1100", "\u1161"]
    weights = Weights(bert.write(tmp_path / "bert.gguf", tokens=[*bert.VOCABULARY, *more]), gpu_layers=0)

    def pieces(text: str) -> list[str]:
        names = [*bert.VOCABULARY, *more]
        return [names[token] for token in weights.tokenize(text, parse_special=False)]

    assert pieces("Á càt") == ["▁a", "▁cat"]
    assert pieces("\u0915\u0941\u093e") == ["▁\u0915\u093e"]
    assert pieces("\uac00") == ["▁\u1100", "\u1161"]
    weights.close()


def test_a_chat_model_refuses_to_embed_and_an_embedding_model_to_chat(embedder: LocalModel, model: LocalModel) -> None:
    with pytest.raises(InvalidRequest, match="load an embedding model"):
        model.embed("a")
    with pytest.raises(InvalidRequest, match="load a chat model"):
        embedder.chat("Hi")


def test_many_threads_get_their_own_vectors(path: Path) -> None:
    """Texts of several threads share steps."""
    model = Embedder(resolve(path))
    words = [word for word in bert.WORDS if len(word) > 1]
    found: dict[str, list[list[float]]] = {}

    def ask(word: str) -> None:
        found[word] = model.run_task(Embed((word, f"{word} {word}"))).rows()

    threads = [threading.Thread(target=ask, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    for word in words:
        expected = [bert.vector(tokens(text), "cls") for text in (word, f"{word} {word}")]
        assert np.abs(np.array(found[word]) - expected).max() < 1e-3


def test_an_isolated_model_computes_the_same_vectors(path: Path, embedder: LocalModel) -> None:
    with load(path, threads=1, isolated=True) as model:
        assert model.embed(TEXTS) == embedder.embed(TEXTS)
        assert model.info.kind == "embedding"


def test_a_crash_fails_running_texts_and_later_ones_are_computed(path: Path) -> None:
    worker = WorkerSupervisor(resolve(path), lambda: LoadPlan(ModelConfig(threads=1)))
    errors: list[GalagoError] = []

    def ask() -> None:
        try:
            worker.run_task(Embed(tuple("the cat sat on the mat " * 5 + str(i) for i in range(2048))))
        except GalagoError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not worker._worker._calls:
        time.sleep(0.001)
    worker._worker._process.kill()
    asking.join()
    assert [type(error) for error in errors] == [EngineCrashed]
    assert len(worker.run_task(Embed(TEXTS)).rows()) == len(TEXTS)
    worker.close()


def test_a_decoder_with_pooling_computes_vectors(tmp_path: Path) -> None:
    """Every text has its own vector, whichever texts share its step."""
    path = tmp_path / "decoder.gguf"
    source = gguf.GGUFReader(str(resolve("builtin").weights))
    architecture = source.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "tokenizer.chat_template"):
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(name, field.contents())
            else:
                writer.add_key_value(name, field.contents(), field.types[0])
    writer.add_pooling_type(gguf.PoolingType.LAST)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write_and_close(writer)
    with load(path, threads=1) as model:
        assert model.info.kind == "embedding"
        many = np.array(model.embed([f"{text} {i}" for i in range(20) for text in TEXTS]))
        alone = np.array([model.embed(f"{TEXTS[i % 4]} {i // 4}") for i in (0, 41, 79)])
    assert np.abs(many[[0, 41, 79]] - alone).max() < 5e-3
    assert np.allclose(np.linalg.norm(many, axis=1), 1) and np.abs(many[0] - many[1]).max() > 0.01


def test_openais_client_gets_vectors_and_usage(bert_client: openai.OpenAI, embedder: LocalModel) -> None:
    """The client asks for base64 and decodes it."""
    answer = bert_client.embeddings.create(model="random-bert", input=list(TEXTS))
    assert np.allclose([one.embedding for one in answer.data], embedder.embed(TEXTS), atol=1e-6)
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(tokens(text)) for text in TEXTS)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_both_encodings_hold_the_same_vectors(bert_server: Server, embedder: LocalModel, form: str) -> None:
    body = {"input": TEXTS[0], "encoding_format": form, "dimensions": 8}
    [found] = bert_server.post(body, "/v1/embeddings").json()["data"]
    vector = found["embedding"]
    if form == "base64":
        vector = np.frombuffer(base64.b64decode(vector), "<f4")
    assert np.allclose(vector, embedder.embed(TEXTS[0], 8), atol=1e-6)


def test_token_arrays_are_used_unchanged(bert_client: openai.OpenAI, embedder: LocalModel) -> None:
    one = bert_client.embeddings.create(model="random-bert", input=tokens(TEXTS[0])).data[0].embedding
    both = bert_client.embeddings.create(model="random-bert", input=[tokens(TEXTS[0]), tokens(TEXTS[2])]).data
    assert np.allclose(one, embedder.embed(TEXTS[0]), atol=1e-6)
    assert np.allclose(both[1].embedding, embedder.embed(TEXTS[2]), atol=1e-6)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": ["a", 5]}, "input"),
    ({"input": [[]]}, "input[0]"),
    ({"input": [[5, 10**6]]}, "input[0]"),
    ({"input": [-1]}, "input[0]"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": ["a", "b " * 200]}, "input[1]"),
    ({"input": {"content": []}}, "input[0]"),
    ({"input": ["a", {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "input[1]"),
    ({"input": [[{"type": "text", "text": "a"}]]}, "input[0]"),
    ({"input": "a", "dimensions": 65}, "dimensions"),
    ({"input": "a", "dimensions": 0}, "dimensions"),
    ({"input": "a", "dimensions": 2**70}, "dimensions"),
    ({"input": "a", "dimensions": -(2**70)}, "dimensions"),
    ({"input": "a", "dimensions": "x"}, "dimensions"),
    ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_a_bad_request_is_refused_with_its_field(bert_server: Server, body: dict[str, Any], param: str) -> None:
    answer = bert_server.post(body, "/v1/embeddings")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_chats_and_embeddings_are_refused_by_the_other_kind_over_http(bert_server: Server, server: Server) -> None:
    for answer in (bert_server.ask("Hi"), server.post({"input": "a"}, "/v1/embeddings")):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "model"


def test_an_unknown_field_and_an_unknown_model_are_warnings(bert_server: Server) -> None:
    answer = bert_server.post({"input": "a", "frobnicate": 1}, "/v1/embeddings")
    assert "frobnicate" in answer.json()["warnings"][0] and "x-galago-warnings" in answer.headers
    for path in ("/v1/embeddings", "/api/embed"):
        other = bert_server.post({"input": "a", "model": "text-embedding-3-small"}, path).json()
        assert "no model 'text-embedding-3-small'" in other["warnings"][0] and other["model"] == answer.json()["model"]
    assert bert_server.post({"input": "a", "model": "builtin"}, "/v1/embeddings").status_code == 404


TEXT_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(TEXT_SIZES, min_size=1, max_size=4), st.integers(1, 20), st.integers(1, 5))
def test_steps_respect_their_limits_and_every_caller_gets_its_own_results(
    callers: list[list[int]], rows: int, texts: int
) -> None:
    steps: list[list[list[int]]] = []

    def step(batch: list[Any]) -> list[tuple[int, int]]:
        steps.append(batch)
        return [(text[0], len(text)) for text in batch]

    batcher = EmbedBatcher(step, rows, texts)
    found: dict[int, list[Any]] = {}

    def ask(number: int, sizes: list[int]) -> None:
        found[number] = batcher.compute([[number] * size for size in sizes], lambda: False)

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [(number, size) for size in sizes] for number, sizes in enumerate(callers)}
    for batch in steps:
        assert len(batch) == 1 or (sum(map(len, batch)) <= rows and len(batch) <= texts)
    assert batcher.waiting == 0


def test_a_failed_step_fails_the_callers_in_it_only() -> None:
    def step(batch: list[Any]) -> list[int]:
        if any(len(text) == 3 for text in batch):
            raise EngineError("failed")
        return [len(text) for text in batch]

    batcher = EmbedBatcher(step, 3, 1)
    with pytest.raises(EngineError):
        batcher.compute([[0], [0, 0, 0]], lambda: False)
    assert batcher.compute([[0], [0, 0]], lambda: False) == [1, 2]


def test_nothing_is_computed_for_a_caller_that_has_left() -> None:
    with pytest.raises(Cancelled):
        EmbedBatcher(lambda batch: batch, 3, 1).compute([[0]], lambda: True)
