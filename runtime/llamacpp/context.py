"""The computing state of one model: KV cache and step execution. Knows rows and sequence numbers, no requests."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError, ModelError
from ..config import FlashAttention, KVType
from ..types.prompt import BatchToken, MediaSpan, SavedState
from .batch import TokenBatch
from .imatrix_collector import ImatrixCollector
from .library import NO_REASON, llama, mtmd, take_errors
from .lora import LoraAdapter
from .projector import MediaChunk
from .weights import Weights

BATCH = 512
"""Rows per step and llama.cpp micro-batch, its own default: larger ones cost memory and gain nothing on a CPU."""

_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type in llama.h


class Context:
    """A llama.cpp context whose KV cache is shared by `slots` sequences, `cells` tokens in all.

    A step gives logits for a row of each sequence, and for `guesses` more; with `outputs`, for every row of a step of
    at most so many, those of pictures and sounds included. An `observer` sees every product of it.
    """

    def __init__(
        self,
        weights: Weights,
        cells: int,
        slots: int,
        threads: int,
        kv_type: KVType = "f16",
        flash_attention: FlashAttention = "auto",
        adapters: Sequence[LoraAdapter] = (),
        guesses: int = 0,
        outputs: int = 0,
        observer: ImatrixCollector | None = None,
    ) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = slots
        self.in_tiles = kv_type == "f16" and flash_attention != "off"
        """Whether attention is computed in tiles on a CPU, where a step has rows enough."""
        self.outputs = outputs or slots + guesses
        params.n_outputs_max = self.outputs  # the default reserves logits for a whole batch
        params.embeddings = bool(outputs)  # has llama.cpp compute every row to its end
        if observer is not None:
            params.cb_eval = observer.callback
        params.kv_unified = True
        params.type_k = params.type_v = _KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.n_threads = params.n_threads_batch = threads
        take_errors()
        self.handle = llama.llama_init_from_model(weights.handle, params)
        if not self.handle:
            raise ModelError(
                f"llama.cpp cannot make a context of {cells} tokens for {weights.path.name}: "
                f"{take_errors() or NO_REASON}; try a smaller --ctx{'' if kv_type == 'f16' else ' or --kv-type f16'}",
                str(weights.path),
            )
        self._memory = llama.llama_get_memory(self.handle)
        if not self._memory:
            self.close()
            raise ModelError(
                f"{weights.path.name} is a model that turns text into vectors; it cannot answer", str(weights.path)
            )
        self._vocab_size = weights.vocab_size
        self.batch: int = llama.llama_n_batch(self.handle)
        self._batch = TokenBatch(self.batch)
        self._adapters = adapters
        self._scales: tuple[float, ...] = ()
        self.cells: int = llama.llama_n_ctx_seq(self.handle)

    def close(self) -> None:
        if self.handle:
            llama.llama_free(self.handle)
            self.handle = None

    def use_adapters(self, scales: tuple[float, ...]) -> None:
        """Applies the adapters in these strengths from the next step on; those beyond the scales given, not at all.

        All rows of a step share them. Costs nothing while they stay the same, else the next step is laid out anew.
        """
        if scales != self._scales:
            count = len(self._adapters)
            handles = (llama.llama_adapter_lora_p_ctypes * count)(*(adapter.handle for adapter in self._adapters))
            strengths = (ctypes.c_float * count)(*scales)
            llama.llama_set_adapters_lora(self.handle, handles, count, strengths)
            self._scales = scales

    def decode(self, rows: Sequence[BatchToken]) -> None:
        """Computes a step of at most `batch` token rows, to its end: a GPU is only given its work by `llama_decode`."""
        if len(rows) > self.batch:  # llama.cpp asserts it, and so ends the process
            raise EngineError(f"a step of {len(rows)} rows is larger than the batch of {self.batch}")
        self._check(llama.llama_decode(self.handle, self._batch.fill(rows)))
        llama.llama_synchronize(self.handle)

    def decode_media(self, media: MediaSpan, position: int, sequence: int) -> None:
        """Computes all rows of an encoded picture or sound."""
        chunk = media.payload
        assert isinstance(chunk, MediaChunk) and chunk.embeddings is not None
        end = llama.llama_pos(0)
        code = mtmd.mtmd_helper_decode_image_chunk(
            chunk.projector.handle,
            self.handle,
            chunk.handle,
            chunk.embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            position,
            sequence,
            self.batch,
            ctypes.byref(end),
            mtmd.mtmd_helper_post_decode_callback(0),
            None,
        )
        self._check(code)

    def _check(self, code: int) -> None:
        if code == 1:
            raise EngineError("the KV cache has no room for this step")
        if code != 0:
            raise EngineError(f"llama.cpp failed to compute a step (code {code}): {take_errors() or NO_REASON}")

    def logits(self, row: int) -> NDArray[np.float32]:
        """Logits of a row of the last step that asked for them: a writable view, valid until the next step."""
        pointer = llama.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise EngineError(f"llama.cpp has no logits for row {row}")
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))

    def use_threads(self, threads: int) -> None:
        """So many threads compute the following steps."""
        llama.llama_set_n_threads(self.handle, threads, threads)

    def cut(self, sequence: int, position: int) -> None:
        """Frees the cells of a sequence from a position on. Models with a recurrent state only take 0, or its end."""
        if not llama.llama_memory_seq_rm(self._memory, sequence, position, -1):
            raise EngineError(f"llama.cpp cannot cut this model's memory at position {position}")

    def copy(self, source: int, target: int, position: int) -> None:
        """Lets an empty sequence share another one's cells up to a position."""
        llama.llama_memory_seq_cp(self._memory, source, target, 0, position)

    def save(self, sequence: int) -> memoryview:
        """What a sequence's cells hold, for `restore`. Written once: others wait for it, and it may be 100 MB."""
        size = llama.llama_state_seq_get_size(self.handle, sequence)
        data = np.empty(size, np.uint8)
        written = llama.llama_state_seq_get_data(self.handle, _bytes_at(data), size, sequence)
        return data[:written].data

    def restore(self, sequence: int, data: SavedState) -> bool:
        """Gives a sequence the cells that were saved; `False` where llama.cpp has no room for them or refuses them."""
        size, source = len(data), _bytes_at(np.frombuffer(data, np.uint8))
        return bool(size) and llama.llama_state_seq_set_data(self.handle, source, size, sequence) == size


def _bytes_at(array: NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
