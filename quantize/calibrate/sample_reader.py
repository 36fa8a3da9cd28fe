"""Reads samples with a model, in a child process: chunks of text, and chats in its own template with their media.

Does not know what is collected while it reads, or what its logits are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError, InvalidRequest
from ...models.gguf.reader import read_header
from ...runtime.cache.encoder_cache import EncoderCache
from ...runtime.inference.assembly import prompt_builder
from ...runtime.llamacpp.context import BATCH, Context
from ...runtime.llamacpp.imatrix_collector import ImatrixCollector
from ...runtime.llamacpp.projector import MediaChunk, Projector
from ...runtime.llamacpp.weights import Weights
from ...runtime.types.prompt import BatchToken, Item, MediaSpan
from .samples import ChatSample, Sample, TextSample

STEP_TOKENS = 128
"""Tokens computed at once. Each has logits, which take the size of the vocabulary in memory."""
MAX_CHAT_TOKENS = 4096

Segment: TypeAlias = tuple[int, ...] | ChatSample
"""The unit of reading, each with an empty context before it: a chunk of text tokens, or a chat."""
LogitsConsumer: TypeAlias = Callable[[NDArray[np.float32]], None]
"""Receives logits, rows x vocabulary: a view that is valid until it returns."""


class SampleReader(AbstractContextManager["SampleReader"]):
    """A loaded model and its projector. `collector` observes what both compute.

    `embeddings` caches encoded media, for several models that read the same media with one projector.
    """

    def __init__(
        self,
        model: Path,
        projector: Path | None,
        chunk_tokens: int,
        threads: int,
        collector: ImatrixCollector | None = None,
        embeddings: EncoderCache | None = None,
    ) -> None:
        self._weights = Weights(model, gpu_layers=0)
        cells = min(self._weights.context_length, max(chunk_tokens, MAX_CHAT_TOKENS))
        if chunk_tokens > cells:
            raise ConfigError(
                f"the model's context is {cells} tokens, so chunks of {chunk_tokens} tokens are too long", "chunk"
            )
        outputs = BATCH if projector else STEP_TOKENS
        self._context = Context(self._weights, cells, 1, threads, outputs=outputs, collector=collector)
        self._projector: Projector | None = None
        if projector is not None:
            largest = min(BATCH, cells)
            self._projector = Projector(projector, self._weights, threads, largest, use_gpu=False, collector=collector)
            self._projector.embeddings = embeddings or self._projector.embeddings
        self._chunk_tokens, self._collector = chunk_tokens, collector
        template = read_header(model).chat_template
        self._prompts = prompt_builder(self._weights, self._projector, template, cells)

    def __exit__(self, *_exception: object) -> None:
        if self._projector is not None:
            self._projector.close()
        self._context.close()
        self._weights.close()

    def segments(self, samples: Sequence[Sample]) -> list[Segment]:
        """Returns all texts, cut into chunks as llama-imatrix does (a shorter remainder is dropped), then the chats."""
        segments: list[Segment] = []
        for sample in samples:
            if isinstance(sample, TextSample):
                segments += self._chunks(sample.text)
        return segments + [sample for sample in samples if isinstance(sample, ChatSample)]

    def _chunks(self, text: str) -> Iterator[tuple[int, ...]]:
        begin = [self._weights.bos] if self._weights.adds_bos else []
        tokens = begin + self._weights.tokenize(text, parse_special=False)
        for at in range(0, len(tokens) - self._chunk_tokens + 1, self._chunk_tokens):
            chunk = tokens[at : at + self._chunk_tokens]
            yield tuple(begin + chunk[len(begin) :])

    def read(self, segment: Segment, consumer: LogitsConsumer | None = None) -> None:
        """Computes a segment. `consumer` receives the logits of its scored positions.

        Those are the second half of a chunk or of a chat; of a chat with media, everything after the last of them.
        """
        items = segment if isinstance(segment, tuple) else self._prompt(segment)
        self._context.truncate(0, 0)
        position, first = 0, _first_scored(items, segment)
        for at, piece in _pieces(items):
            if isinstance(piece, MediaSpan):
                assert isinstance(piece.payload, MediaChunk)
                if not piece.payload.ready:
                    piece.payload.projector.encode_first([piece.payload])
                self._context.decode_media(piece, position, 0)
                position += piece.positions
            else:
                self._context.decode([BatchToken(token, position + i, 0, True) for i, token in enumerate(piece)])
                position += len(piece)
                if consumer is not None and at + len(piece) > first:
                    consumer(self._logits(max(0, first - at), len(piece)))
            if self._collector is not None:
                self._collector.check()

    def _logits(self, begin: int, end: int) -> NDArray[np.float32]:
        return np.stack([self._context.logits(row) for row in range(begin, end)])

    def _prompt(self, chat: ChatSample) -> tuple[Item, ...]:
        last = chat.messages[-1]
        continue_last = last.role == "assistant" and len(chat.messages) > 1
        try:
            return self._prompts.build(chat.messages, continue_last=continue_last).items
        except InvalidRequest as error:
            begin = next((p.text for m in chat.messages for p in m.parts if hasattr(p, "text")), "")
            raise type(error)(f"the chat that begins with {begin[:60]!r}: {error.message}", "data") from None


def _first_scored(items: Sequence[Item], segment: Segment) -> int:
    if isinstance(segment, tuple):
        return len(items) // 2
    media = [i for i, item in enumerate(items) if isinstance(item, MediaSpan)]
    return media[-1] + 1 if media else len(items) // 2


def _pieces(items: Sequence[Item]) -> Iterator[tuple[int, tuple[int, ...] | MediaSpan]]:
    """Yields media, and the tokens between them in steps, each with its first position."""
    tokens: list[int] = []
    for at, item in enumerate([*items, None]):
        if isinstance(item, int):
            tokens.append(item)
        if tokens and (len(tokens) == STEP_TOKENS or not isinstance(item, int)):
            yield at - len(tokens) + isinstance(item, int), tuple(tokens)
            tokens = []
        if isinstance(item, MediaSpan):
            yield at, item
