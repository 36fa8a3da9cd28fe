"""A model that reads samples, in a child process: stretches of texts, and chats in its own template with their media.

Knows neither what is observed while it reads nor what its logits are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError, InvalidRequest
from ...models.gguf.reader import read_header
from ...runtime.cache.encoder_cache import EmbeddingCache
from ...runtime.inference.assembly import prompt_builder
from ...runtime.llamacpp.context import BATCH, Context
from ...runtime.llamacpp.imatrix_collector import ImatrixCollector
from ...runtime.llamacpp.projector import MediaChunk, Projector
from ...runtime.llamacpp.weights import Weights
from ...runtime.types.prompt import BatchToken, Item, MediaSpan
from .samples import ChatSample, Sample, TextSample

STEP = 128
"""Tokens computed at once. All have logits, which take as many times the vocabulary in memory."""
LONGEST_CHAT = 4096
Unit = tuple[int, ...] | ChatSample
"""What is read in one piece, with nothing before it."""
Logits = Callable[[NDArray[np.float32]], None]
"""Takes logits, rows x vocabulary: a view that is valid until it returns."""


class Reader(AbstractContextManager["Reader"]):
    """A loaded model, and the projector that gives it eyes or ears. An observer sees what both compute.

    What is in `embeddings` is not encoded again: for several models that read the same with one projector.
    """

    def __init__(
        self,
        model: Path,
        projector: Path | None,
        chunk: int,
        threads: int,
        observer: ImatrixCollector | None = None,
        embeddings: EmbeddingCache | None = None,
    ) -> None:
        self._weights = Weights(model, gpu_layers=0)
        cells = min(self._weights.context_length, max(chunk, LONGEST_CHAT))
        if chunk > cells:
            raise ConfigError(f"the model reads {cells} tokens at most, not {chunk}", "chunk")
        outputs = BATCH if projector else STEP
        self._context = Context(self._weights, cells, 1, threads, outputs=outputs, observer=observer)
        self._projector: Projector | None = None
        if projector is not None:
            largest = min(BATCH, cells)
            self._projector = Projector(projector, self._weights, threads, largest, use_gpu=False, observer=observer)
            self._projector.embeddings = embeddings or self._projector.embeddings
        self._chunk, self._observer = chunk, observer
        template = read_header(model).chat_template
        self._prompts = prompt_builder(self._weights, self._projector, template, cells)

    def __exit__(self, *_exception: object) -> None:
        if self._projector is not None:
            self._projector.close()
        self._context.close()
        self._weights.close()

    def units(self, samples: Sequence[Sample]) -> list[Unit]:
        """All texts, cut into stretches of `chunk` tokens as llama-imatrix cuts them, a shorter rest left out; then
        the chats."""
        units: list[Unit] = []
        for sample in samples:
            if isinstance(sample, TextSample):
                units += self._stretches(sample.text)
        return units + [sample for sample in samples if isinstance(sample, ChatSample)]

    def _stretches(self, text: str) -> Iterator[tuple[int, ...]]:
        begin = [self._weights.bos] if self._weights.adds_bos else []
        tokens = begin + self._weights.tokenize(text, parse_special=False)
        for at in range(0, len(tokens) - self._chunk + 1, self._chunk):
            stretch = tokens[at : at + self._chunk]
            yield tuple(begin + stretch[len(begin) :])

    def read(self, unit: Unit, logits: Logits | None = None) -> None:
        """Computes a unit. `logits` takes those of the second half of a stretch, or of what follows a chat's last
        picture or sound, or its first message."""
        items = unit if isinstance(unit, tuple) else self._prompt(unit)
        self._context.cut(0, 0)
        position, first = 0, _first_scored(items, unit)
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
                if logits is not None and at + len(piece) > first:
                    logits(self._logits(max(0, first - at), len(piece)))
            if self._observer is not None:
                self._observer.check()

    def _logits(self, begin: int, end: int) -> NDArray[np.float32]:
        return np.stack([self._context.logits(row) for row in range(begin, end)])

    def _prompt(self, chat: ChatSample) -> tuple[Item, ...]:
        last = chat.messages[-1]
        continue_last = last.role == "assistant" and len(chat.messages) > 1
        try:
            return self._prompts.build(chat.messages, continue_last=continue_last).items
        except InvalidRequest as error:
            begin = next((p.text for m in chat.messages for p in m.parts if hasattr(p, "text")), "")
            raise type(error)(f"the chat that begins {begin[:60]!r}: {error.message}", "data") from None


def _first_scored(items: Sequence[Item], unit: Unit) -> int:
    if isinstance(unit, tuple):
        return len(items) // 2
    media = [i for i, item in enumerate(items) if isinstance(item, MediaSpan)]
    return media[-1] + 1 if media else len(items) // 2


def _pieces(items: Sequence[Item]) -> Iterator[tuple[int, tuple[int, ...] | MediaSpan]]:
    """Media, and the tokens between them by steps, each with where it begins."""
    tokens: list[int] = []
    for at, item in enumerate([*items, None]):
        if isinstance(item, int):
            tokens.append(item)
        if tokens and (len(tokens) == STEP or not isinstance(item, int)):
            yield at - len(tokens) + isinstance(item, int), tuple(tokens)
            tokens = []
        if isinstance(item, MediaSpan):
            yield at, item
