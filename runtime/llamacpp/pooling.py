"""A llama.cpp context that turns tokenized texts into embeddings or reranking scores, several in a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from ...models.gguf.header import Pooling
from ..config import FlashAttention
from ..types.prompt import BatchToken
from .context import FLASH_ATTENTION, TokenBatch, new_context
from .library import NO_REASON, llama, take_errors
from .thread_pool import ThreadPool
from .weights import Weights

SEQUENCES = 64
"""Maximum number of texts in a step."""

_POOLING = {
    "mean": llama.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama.LLAMA_POOLING_TYPE_CLS,
    "last": llama.LLAMA_POOLING_TYPE_LAST,
    "rank": llama.LLAMA_POOLING_TYPE_RANK,
}


class PoolingContext:
    """Computes texts, each as a whole, in steps of up to `rows` tokens. A row of output has `width` floats."""

    def __init__(
        self,
        weights: Weights,
        pooling: Pooling,
        rows: int,
        threads: int,
        flash_attention: FlashAttention = "auto",
    ) -> None:
        params = llama.llama_context_default_params()
        # llama.cpp pools within one micro-batch, and ends the process if an encoder's text is larger
        params.n_ctx = params.n_batch = params.n_ubatch = rows
        params.n_seq_max = SEQUENCES
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = _POOLING[pooling]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.n_threads = params.n_threads_batch = threads
        self.handle = new_context(weights, params)
        self._pool = ThreadPool(threads)
        self._pool.attach(self.handle)
        self._memory = llama.llama_get_memory(self.handle)  # `None` for encoders
        self._batch = TokenBatch(rows)
        self._rows = rows
        self.width: int = weights.scores if pooling == "rank" else weights.output_width

    def close(self) -> None:
        if self.handle:
            llama.llama_free(self.handle)
            self.handle = None
        self._pool.close()

    def use_threads(self, threads: int) -> None:
        """Sets the number of threads that compute the next steps."""
        llama.llama_set_n_threads(self.handle, threads, threads)

    def compute(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Computes the texts' embeddings or scores (texts x width) in one step.

        Takes at most `SEQUENCES` texts, none of them empty, with at most `rows` tokens together.
        """
        rows = [BatchToken(token, i, number, True) for number, text in enumerate(texts) for i, token in enumerate(text)]
        if len(rows) > self._rows or len(texts) > SEQUENCES:  # llama.cpp would end the process with an assertion
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
            raise EngineError(f"llama.cpp has no embedding for text {sequence}")
        return np.ctypeslib.as_array(pointer, (self.width,)).copy()
