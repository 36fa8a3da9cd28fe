"""Answers tasks with one loaded embedding or reranking model: vectors for texts, or scores for documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
import psutil
from numpy.typing import NDArray

from ...models.device import IdleCores
from ...models.errors import ConfigError, EngineError, InvalidRequest, ModelError, PromptTooLong
from ...models.files import ModelFiles
from ..config import ModelConfig, default_threads
from ..engine.tuning import EngineMetrics, ThreadTuner
from ..llamacpp.context import BATCH
from ..llamacpp.pooling import SEQUENCES, PoolingContext
from ..llamacpp.weights import Weights
from ..prompt.completion import check_tokens, query_document_tokens, translate
from ..sampling.sampler import not_finite
from ..types.events import Failed, Finished, Timings, Usage
from ..types.model_info import ModelInfo, Stats
from ..types.placement import ON_CPU, Placement
from ..types.request import Request
from ..types.tasks import Detokenize, Embed, R, Rerank, Scores, Task, TokenIds, Tokenize, Vectors
from .assembly import context_length, description
from .embed_batcher import EmbedBatcher, TokenSequence
from .generator import Lease
from .load_check import check_loading
from .stream import Stream
from .weight_faults import ONLY_ZEROS

STEP_TOKENS = BATCH
"""Tokens of a step. An encoder's attention spans all texts of a step, so that larger steps are slower per token."""

_NO_POOLING = "the model's file does not say how token vectors are pooled, so their mean is taken"


class Embedder:
    """A loaded model that has computed its first vector. It has the methods of a `Generator`."""

    ready = True

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig | None = None,
        placement: Placement = ON_CPU,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        config = config or ModelConfig()
        for given, name in ((files.adapters, "lora"), (files.draft, "draft"), (files.projector, "mmproj")):
            if given:
                raise ConfigError(f"{files.id} is an embedding or reranking model, which takes no --{name}", name)
        pooling = files.header.pooling
        assert pooling is not None
        check_loading(files)
        self._threads = config.threads or default_threads()
        self._thread_tuner = ThreadTuner(self._threads, idle_cores=IdleCores()) if config.threads is None else None
        self._metrics = EngineMetrics()
        self._steps = 0
        self._step_began: float | None = None
        template = files.header.get("tokenizer.chat_template.rerank")
        self._rerank_template = template if isinstance(template, str) else None
        self._lease = Lease()
        self._weights = Weights(files.weights, placement.gpu_layers, progress, placement.split)
        self._thread = ThreadPoolExecutor(1, "galago-embed")
        self._batcher = EmbedBatcher(self._compute_on_thread, STEP_TOKENS, SEQUENCES)
        try:
            length = context_length(config, self._weights)
            rows = max(length, STEP_TOKENS)
            self._context = PoolingContext(self._weights, pooling, rows, self._threads, config.flash_attention)
        except BaseException:
            self._weights.close()
            raise
        warnings = [*placement.warnings] if files.header.says_pooling else [*placement.warnings, _NO_POOLING]
        try:
            warnings += self._compute_first()
        except BaseException:
            self.close()
            raise
        self.info = ModelInfo(
            id=files.id,
            description=description(files, self._weights),
            context_length=length,
            parameters=self._weights.parameters,
            size_bytes=self._weights.size_bytes,
            vision=False,
            audio=False,
            created=int(files.weights.stat().st_mtime),
            warnings=tuple(warnings),
            kind="rerank" if pooling == "rank" else "embedding",
        )
        self._metrics = EngineMetrics()

    def close(self) -> None:
        """Waits for the step in progress, then frees everything."""
        self._lease.close()
        self._thread.shutdown()
        self._context.close()
        self._weights.close()

    def stats(self) -> Stats:
        """Returns the model's state and counters, and the memory of this process."""
        began = self._step_began
        stats = self._metrics.stats(
            slots=SEQUENCES,
            running=self._batcher.waiting,
            waiting=0,
            threads=self._threads,
            steps=self._steps,
            step_seconds=0.0 if began is None else time.perf_counter() - began,
        )
        return replace(stats, memory_bytes=psutil.Process().memory_info().rss)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Raises `InvalidRequest`: such a model generates no text."""
        use = "scores documents (/v1/rerank)" if self.info.kind == "rerank" else "computes embeddings (/v1/embeddings)"
        raise InvalidRequest(f"{self.info.id} {use} and generates no text; load a chat model for that", "model")

    def run_task(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """Returns a task's result. Raises `InvalidRequest` for a task of another kind of model."""
        with self._lease.hold():
            result: Any = self._run_task(task, lambda: self._lease.closed or cancelled())
            return cast(R, result)

    def _run_task(self, task: Task[Any], cancelled: Callable[[], bool]) -> object:
        match task:
            case Tokenize(str()) | Detokenize():
                return translate(task, self._weights)
            case Embed(texts, dimensions) if self.info.kind == "embedding":
                return self._embed(texts, dimensions, cancelled)
            case Rerank(query, documents) if self.info.kind == "rerank":
                return self._rerank(query, documents, cancelled)
            case Rerank():
                raise InvalidRequest(
                    f"{self.info.id} is an embedding model; load a reranking model to score documents", "model"
                )
            case Embed():
                raise InvalidRequest(
                    f"{self.info.id} is a reranking model; load an embedding model for embeddings", "model"
                )
        raise InvalidRequest(f"{self.info.id} generates no text; load a chat model for this", "model")

    def _embed(self, texts: Sequence[str | TokenIds], dimensions: int | None, cancelled: Callable[[], bool]) -> Vectors:
        width = self._context.width
        if dimensions is not None and not 1 <= dimensions <= width:
            raise InvalidRequest(f"dimensions is {dimensions}; this model's vectors have 1 to {width}", "dimensions")
        tokens = [self._tokens(text, f"input[{i}]") for i, text in enumerate(texts)]
        vectors = np.stack(self._compute(tokens, cancelled))[:, :dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        data = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32).tobytes()
        return Vectors(data, vectors.shape[1], sum(map(len, tokens)))

    def _rerank(self, query: str, documents: Sequence[str], cancelled: Callable[[], bool]) -> Scores:
        texts = [query_document_tokens(query, document, self._rerank_template, self._weights) for document in documents]
        tokens = [self._check_length(text, f"documents[{i}]") for i, text in enumerate(texts)]
        scores = self._compute(tokens, cancelled)
        return Scores(tuple(float(score[0]) for score in scores), sum(map(len, tokens)))

    def _tokens(self, text: str | TokenIds, name: str) -> TokenSequence:
        """Returns a text's tokens with the model's special tokens around them, or the given ids."""
        if isinstance(text, str):
            tokens: TokenSequence = self._weights.tokenize(text, parse_special=False, add_special=True)
        else:
            tokens = check_tokens(text, self._weights, name)
        return self._check_length(tokens, name)

    def _check_length(self, tokens: TokenSequence, name: str) -> TokenSequence:
        if not tokens:
            raise InvalidRequest(f"{name} is empty", name)
        limit = self.info.context_length
        if len(tokens) > limit:
            raise PromptTooLong(f"{name} has {len(tokens)} tokens and the model takes {limit}; shorten it", name)
        return tokens

    def _compute(self, texts: Sequence[TokenSequence], cancelled: Callable[[], bool]) -> list[NDArray[np.float32]]:
        begin = time.perf_counter()
        try:
            vectors: list[NDArray[np.float32]] = self._batcher.compute(texts, cancelled)
            _check_finite(vectors)
        except (EngineError, ModelError) as error:
            self._metrics.record_end(Failed(error))
            raise
        seconds = time.perf_counter() - begin
        usage = Usage(prompt_tokens=sum(map(len, texts)), completion_tokens=0)
        self._metrics.record_end(Finished("stop", usage, Timings(0.0, seconds, seconds)))
        return vectors

    def _compute_first(self) -> list[str]:
        """Checks that the model computes. Returns the faults that its first result reveals."""
        first = self._compute_on_thread([[0]])
        _check_finite([first])
        return [] if first.any() else [ONLY_ZEROS]

    def _compute_on_thread(self, batch: list[TokenSequence]) -> NDArray[np.float32]:
        """Computes a step on the one thread for all steps. OpenMP keeps a team of threads for each thread that has
        computed; with more threads than cores they wait for each other differently, which costs 5 %."""
        return self._thread.submit(self._step, batch).result()

    def _step(self, batch: list[TokenSequence]) -> NDArray[np.float32]:
        """Computes a step. The batcher computes one at a time."""
        rows = sum(map(len, batch))
        if self._thread_tuner is not None:
            self._threads = self._thread_tuner.threads(0, rows)
            self._context.use_threads(self._threads)
        self._steps += 1
        self._step_began = begin = time.perf_counter()
        try:
            vectors = self._context.compute(batch)
        finally:
            self._step_began = None
        seconds = time.perf_counter() - begin
        self._metrics.record_step(seconds)
        if self._thread_tuner is not None:
            self._thread_tuner.record(0, rows, seconds)
        return vectors


def _check_finite(vectors: Sequence[NDArray[np.float32]]) -> None:
    """Raises `ModelError` if the model computed NaN or infinity."""
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise not_finite("vectors or scores")
