"""The computing state of a model that turns texts into vectors, several in a step. Knows no texts, only tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError, ModelError
from ...models.gguf.header import Pooling
from ..config import FlashAttention
from ..types.prompt import BatchToken
from .batch import TokenBatch
from .context import FLASH_ATTENTION
from .library import NO_REASON, llama, take_errors
from .weights import Weights

SEQUENCES = 64
"""Texts in a step at most."""

_POOLING = {
    "mean": llama.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama.LLAMA_POOLING_TYPE_CLS,
    "last": llama.LLAMA_POOLING_TYPE_LAST,
    "rank": llama.LLAMA_POOLING_TYPE_RANK,
}


class PoolingContext:
    """A llama.cpp context that computes texts, each whole, in steps of up to `rows` tokens."""

    def __init__(
        self,
        weights: Weights,
        pooling: Pooling,
        rows: int,
        threads: int,
        flash_attention: FlashAttention = "auto",
    ) -> None:
        params = llama.llama_context_default_params()
        # llama.cpp pools what stands in one micro-batch, and ends the process where an encoder's text is larger
        params.n_ctx = params.n_batch = params.n_ubatch = rows
        params.n_seq_max = SEQUENCES
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = _POOLING[pooling]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.n_threads = params.n_threads_batch = threads
        take_errors()
        self.handle = llama.llama_init_from_model(weights.handle, params)
        if not self.handle:
            raise ModelError(
                f"llama.cpp cannot make a context of {rows} tokens for {weights.path.name}: "
                f"{take_errors() or NO_REASON}; try a smaller --ctx",
                str(weights.path),
            )
        self._memory = llama.llama_get_memory(self.handle)  # encoders have none
        self._batch = TokenBatch(rows)
        self._rows = rows
        self.width: int = weights.scores if pooling == "rank" else weights.output_width

    def close(self) -> None:
        if self.handle:
            llama.llama_free(self.handle)
            self.handle = None

    def use_threads(self, threads: int) -> None:
        """So many threads compute the following steps."""
        llama.llama_set_n_threads(self.handle, threads, threads)

    def compute(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The texts' vectors (texts x width), or their scores, in one step: at most `SEQUENCES` texts, none of them
        empty, and `rows` tokens together."""
        rows = [BatchToken(token, i, number, True) for number, text in enumerate(texts) for i, token in enumerate(text)]
        if len(rows) > self._rows or len(texts) > SEQUENCES:  # llama.cpp asserts it, and so ends the process
            raise EngineError(f"a step of {len(rows)} rows is larger than the batch of {self._rows}")
        if self._memory:
            llama.llama_memory_clear(self._memory, False)
        code = llama.llama_decode(self.handle, self._batch.fill(rows))
        if code != 0:
            raise EngineError(f"llama.cpp failed to compute a step (code {code}): {take_errors() or NO_REASON}")
        return np.stack([self._vector(number) for number in range(len(texts))])

    def _vector(self, sequence: int) -> NDArray[np.float32]:
        pointer = llama.llama_get_embeddings_seq(self.handle, sequence)
        if not pointer:
            raise EngineError(f"llama.cpp has no vector for text {sequence}")
        return np.ctypeslib.as_array(pointer, (self.width,)).copy()
