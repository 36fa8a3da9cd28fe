"""One loaded model that turns texts into vectors, or scores documents: weights and context. Knows no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import numpy as np
import psutil
from numpy.typing import NDArray

from ...models.errors import ConfigError, EngineError, InvalidRequest, PromptTooLong
from ...models.files import ModelFiles
from ..config import ModelConfig, default_threads
from ..engine.metrics import EngineMetrics
from ..engine.thread_tuner import ThreadTuner
from ..llamacpp.context import BATCH
from ..llamacpp.pooling import SEQUENCES, PoolingContext
from ..llamacpp.weights import Weights
from ..prompt.completion import check_tokens, paired, translate
from ..types.events import Finished, Timings, Usage
from ..types.model_info import ModelInfo, Stats
from ..types.placement import ON_CPU, Placement
from ..types.request import Request
from ..types.tasks import Detokenize, Embed, R, Rerank, Scores, Task, TokenIds, Tokenize, Vectors
from .embed_batcher import EmbedBatcher, TokenSequence
from .generator import context_length, description
from .lease import Lease
from .load_check import try_out
from .stream import Stream

STEP = BATCH
"""Tokens of a step: an encoder's attention goes over all texts of a step, so that more take longer, not shorter."""

_NO_POOLING = "the model's file does not say how a text's rows become one vector, so their mean is taken"


class Embedder:
    """A model that has made a first vector; to those who hold it, as `Model`."""

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
                raise ConfigError(f"{files.id} makes vectors, for which --{name} is not offered", name)
        pooling = files.header.pooling
        assert pooling is not None
        try_out(files)
        self._threads = config.threads or default_threads()
        self._governor = ThreadTuner(self._threads) if config.threads is None else None
        self._tally = EngineMetrics()
        template = files.header.get("tokenizer.chat_template.rerank")
        self._template = template if isinstance(template, str) else None
        self._users = Lease()
        self._weights = Weights(files.weights, placement.gpu_layers, progress, placement.split)
        self._thread = ThreadPoolExecutor(1, "galago-vectors")
        self._gatherer = EmbedBatcher(self._on_thread, STEP, SEQUENCES)
        try:
            length = context_length(config, self._weights)
            rows = max(length, STEP)
            self._context = PoolingContext(self._weights, pooling, rows, self._threads, config.flash_attention)
        except BaseException:
            self._weights.close()
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
            warnings=(*placement.warnings, *(() if files.header.says_pooling else (_NO_POOLING,))),
            kind="rerank" if pooling == "rank" else "embedding",
        )
        self._on_thread([[0]])  # proves that the model computes; what it says does not matter
        self._tally = EngineMetrics()

    def close(self) -> None:
        """Waits for the step being computed and frees everything."""
        self._users.close()
        self._thread.shutdown()
        self._context.close()
        self._weights.close()

    def stats(self) -> Stats:
        """What it is doing and has done, and the memory of this process."""
        stats = self._tally.stats(slots=SEQUENCES, running=self._gatherer.waiting, waiting=0, threads=self._threads)
        return replace(stats, memory_bytes=psutil.Process().memory_info().rss)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Refuses: such a model has no words."""
        what = "scores documents (/v1/rerank)" if self.info.kind == "rerank" else "makes vectors (/v1/embeddings)"
        raise InvalidRequest(f"{self.info.id} {what} and cannot answer; load a chat model for that", "model")

    def run_task(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """A task's answer. Raises `InvalidRequest` for those of other kinds of models."""
        with self._users.one():
            result: Any = self._run_task(task, lambda: self._users.closed or cancelled())
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
                raise InvalidRequest(f"{self.info.id} makes embeddings and scores no documents", "model")
            case Embed():
                raise InvalidRequest(f"{self.info.id} scores documents and makes no embeddings", "model")
        raise InvalidRequest(f"{self.info.id} makes vectors; it cannot do this", "model")

    def _embed(self, texts: Sequence[str | TokenIds], dimensions: int | None, cancelled: Callable[[], bool]) -> Vectors:
        width = self._context.width
        if dimensions is not None and not 1 <= dimensions <= width:
            raise InvalidRequest(f"dimensions is {dimensions}; this model's vectors have {width}", "dimensions")
        tokens = [self._tokens(text, f"input[{i}]") for i, text in enumerate(texts)]
        vectors = np.stack(self._computed(tokens, cancelled))[:, :dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        data = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32).tobytes()
        return Vectors(data, vectors.shape[1], sum(map(len, tokens)))

    def _rerank(self, query: str, documents: Sequence[str], cancelled: Callable[[], bool]) -> Scores:
        texts = [paired(query, document, self._template, self._weights) for document in documents]
        tokens = [self._fitting(text, f"documents[{i}]") for i, text in enumerate(texts)]
        scores = self._computed(tokens, cancelled)
        return Scores(tuple(float(score[0]) for score in scores), sum(map(len, tokens)))

    def _tokens(self, text: str | TokenIds, name: str) -> TokenSequence:
        """A text with the tokens that stand around every one, or token ids as they are given."""
        if isinstance(text, str):
            tokens: TokenSequence = self._weights.tokenize(text, parse_special=False, add_special=True)
        else:
            tokens = check_tokens(text, self._weights, name)
        return self._fitting(tokens, name)

    def _fitting(self, tokens: TokenSequence, name: str) -> TokenSequence:
        if not tokens:
            raise InvalidRequest(f"{name} is empty", name)
        most = self.info.context_length
        if len(tokens) > most:
            raise PromptTooLong(f"{name} has {len(tokens)} tokens and the model takes {most}; shorten it", name)
        return tokens

    def _computed(self, texts: Sequence[TokenSequence], cancelled: Callable[[], bool]) -> list[NDArray[np.float32]]:
        begin = time.perf_counter()
        try:
            found: list[NDArray[np.float32]] = self._gatherer.compute(texts, cancelled)
        except EngineError:
            self._tally.failed()
            raise
        seconds = time.perf_counter() - begin
        usage = Usage(prompt_tokens=sum(map(len, texts)), completion_tokens=0)
        self._tally.finished(Finished("stop", usage, Timings(0.0, seconds, seconds)))
        return found

    def _on_thread(self, texts: list[TokenSequence]) -> NDArray[np.float32]:
        """A step on the one thread that computes all of them: OpenMP keeps helpers for each thread that has computed,
        and lets them wait for each other less patiently once there are more than cores, which costs 5 %."""
        return self._thread.submit(self._step, texts).result()

    def _step(self, texts: list[TokenSequence]) -> NDArray[np.float32]:
        """Computes a step; the gatherer has no other computed meanwhile."""
        rows = sum(map(len, texts))
        if self._governor is not None:
            self._threads = self._governor.threads(0, rows)
            self._context.use_threads(self._threads)
        begin = time.perf_counter()
        vectors = self._context.compute(texts)
        seconds = time.perf_counter() - begin
        self._tally.computed(seconds)
        if self._governor is not None:
            self._governor.measured(0, rows, seconds)
        return vectors
