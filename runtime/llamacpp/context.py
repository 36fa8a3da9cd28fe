"""A llama.cpp context: the KV cache, the steps it computes, and the runner that the engine drives it with."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError, ModelError
from ..config import FlashAttention, KVType
from ..sampling.sampler import Sampler, best_token
from ..types.prompt import AttentionTile, BatchToken, MediaPayload, MediaSpan, SampledToken, SavedState
from .imatrix_collector import ImatrixCollector
from .library import NO_REASON, llama, mtmd, take_errors
from .lora import LoraAdapter
from .projector import MediaChunk, encode_first
from .thread_pool import ThreadPool
from .weights import Weights

BATCH = 512
"""Rows per step and llama.cpp micro-batch, its own default: larger ones cost memory and gain nothing on a CPU."""

ATTENTION_TILE_ROWS = 64
"""Minimum rows with which llama.cpp's flash attention uses tiles on a CPU (`GGML_FA_TILE_Q` in ggml-cpu/common.h).
Behind 4,000 tokens, 32 rows of a 135M model, one by one, take 3.6 times as long as 64."""

TILE_SPEEDUP = 8.0
"""How many times faster a row's attention is computed in a tile: 7 to 9 were measured."""

FEW_ROWS_COST = 5.0
"""How many times longer the attention of few rows takes per value than their matrix products per weight: 5 on two cores
of an AMD EPYC (Zen 5), 16 on those of an Intel Xeon."""

_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type in llama.h


class TokenBatch:
    """A `llama_batch` of token rows, over arrays that are allocated once and refilled for every step."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._wants_logits = np.zeros(capacity, np.int8)
        self._sequence_counts = np.ones(capacity, np.int32)
        first = self._sequences.ctypes.data
        self._sequence_pointers = np.arange(first, first + 4 * capacity, 4, dtype=np.uintp)

    def fill(self, rows: Sequence[BatchToken]) -> Any:
        """The rows as a `llama_batch` by value; valid until the next call."""
        n = len(rows)
        table = np.array(rows, np.int32).reshape(n, 4)
        self._tokens[:n] = table[:, 0]
        self._positions[:n] = table[:, 1]
        self._sequences[:n] = table[:, 2]
        self._wants_logits[:n] = table[:, 3]
        return llama.llama_batch(
            n_tokens=n,
            token=_pointer(self._tokens, llama.llama_token),
            pos=_pointer(self._positions, llama.llama_pos),
            n_seq_id=_pointer(self._sequence_counts, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(llama.llama_seq_id)),
            logits=_pointer(self._wants_logits, ctypes.c_int8),
        )


def new_context(weights: Weights, params: Any, advice: str = "") -> Any:
    """The handle of a new llama.cpp context. `advice` completes the error's advice to try a smaller context."""
    take_errors()
    handle = llama.llama_init_from_model(weights.handle, params)
    if not handle:
        raise ModelError(
            f"llama.cpp cannot make a context of {params.n_ctx} tokens for {weights.path.name}: "
            f"{take_errors() or NO_REASON}; try a smaller --context{advice}",
            str(weights.path),
        )
    return handle


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


class Context:
    """A llama.cpp context whose KV cache is shared by `slots` sequences, `cells` tokens in all.

    A step gives logits for one row of each sequence, and for `draft_rows` more; with `outputs`, for every row of a step
    of at most that many rows, those of images and audio included. A `collector` sees every matrix product. Contexts
    that never compute at the same time may share a `pool` of at least `threads` threads.
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
        draft_rows: int = 0,
        outputs: int = 0,
        collector: ImatrixCollector | None = None,
        pool: ThreadPool | None = None,
    ) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = slots
        self.has_attention_tiles = kv_type == "f16" and flash_attention != "off"
        """Whether attention is computed in tiles on a CPU, if a step has enough rows."""
        self.outputs = outputs or slots + draft_rows
        params.n_outputs_max = self.outputs  # the default reserves logits for a whole batch
        params.embeddings = bool(outputs)  # makes llama.cpp compute every row to its end
        if collector is not None:
            params.cb_eval = collector.callback
        params.kv_unified = True
        params.type_k = params.type_v = _KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.n_threads = params.n_threads_batch = threads
        self.handle = new_context(weights, params, "" if kv_type == "f16" else " or --kv-type f16")
        self._pool, self._owns_pool = pool or ThreadPool(threads), pool is None
        self._pool.attach(self.handle)
        self._memory = llama.llama_get_memory(self.handle)
        if not self._memory:
            self.close()
            raise ModelError(f"{weights.path.name} is an embedding model and generates no text", str(weights.path))
        self._vocab_size = weights.vocab_size
        self.batch: int = llama.llama_n_batch(self.handle)
        self._batch = TokenBatch(self.batch)
        self._threads = threads
        self._adapters = adapters
        self._scales: tuple[float, ...] = ()
        self.cells: int = llama.llama_n_ctx_seq(self.handle)

    def close(self) -> None:
        if self.handle:
            llama.llama_free(self.handle)
            self.handle = None
        if self._owns_pool:
            self._pool.close()

    def use_adapters(self, scales: tuple[float, ...]) -> None:
        """Applies the adapters with these scales from the next step on; adapters without a scale are not applied.

        All rows of a step share them. Costs nothing if they stay the same; else llama.cpp builds its graph again.
        """
        if scales != self._scales:
            count = len(self._adapters)
            handles = (llama.llama_adapter_lora_p_ctypes * count)(*(adapter.handle for adapter in self._adapters))
            llama.llama_set_adapters_lora(self.handle, handles, count, (ctypes.c_float * count)(*scales))
            self._scales = scales

    def decode(self, rows: Sequence[BatchToken]) -> None:
        """Computes a step of at most `batch` token rows. Waits until it is done, since a GPU works asynchronously."""
        if len(rows) > self.batch:  # llama.cpp would end the process with an assertion
            raise EngineError(f"a step of {len(rows)} rows is larger than the batch of {self.batch}")
        self._check(llama.llama_decode(self.handle, self._batch.fill(rows)))
        llama.llama_synchronize(self.handle)

    def decode_media(self, media: MediaSpan, position: int, sequence: int) -> None:
        """Computes all rows of an encoded image or audio clip."""
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
        """Sets the number of threads that compute the next steps. llama.cpp logs every call."""
        if threads != self._threads:
            llama.llama_set_n_threads(self.handle, threads, threads)
            self._threads = threads

    def truncate(self, sequence: int, position: int) -> None:
        """Frees the cells of a sequence from a position on. Models with a recurrent state only take 0, or its end."""
        if not llama.llama_memory_seq_rm(self._memory, sequence, position, -1):
            raise EngineError(f"llama.cpp cannot cut this model's memory at position {position}")

    def copy(self, source: int, target: int, position: int) -> None:
        """Lets an empty sequence share another one's cells up to a position."""
        llama.llama_memory_seq_cp(self._memory, source, target, 0, position)

    def save(self, sequence: int) -> memoryview:
        """The content of a sequence's cells, for `restore`. Copied only once: it may be 100 MB, and answers wait."""
        size = llama.llama_state_seq_get_size(self.handle, sequence)
        data = np.empty(size, np.uint8)
        written = llama.llama_state_seq_get_data(self.handle, _bytes_at(data), size, sequence)
        return data[:written].data

    def restore(self, sequence: int, data: SavedState) -> bool:
        """Gives a sequence the saved cells. Returns `False` if llama.cpp has no room for them or refuses them."""
        size, source = len(data), _bytes_at(np.frombuffer(data, np.uint8))
        return bool(size) and llama.llama_state_seq_set_data(self.handle, source, size, sequence) == size


def _bytes_at(array: NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class LlamaRunner:
    """A loaded model as the engine sees it. Owns the context; the weights must outlive it."""

    def __init__(self, weights: Weights, context: Context) -> None:
        self._context = context
        cost = FEW_ROWS_COST * weights.attention_values if context.has_attention_tiles and not weights.gpu_layers else 0
        self.attention_tile = AttentionTile(ATTENTION_TILE_ROWS, TILE_SPEEDUP, cost)
        self.supports_partial_removal = not weights.recurrent
        self.use_adapters = context.use_adapters
        self.decode = context.decode
        self.decode_media = context.decode_media
        self.use_threads = context.use_threads
        self.truncate = context.truncate
        self.copy = context.copy
        self.save = context.save
        self.restore = context.restore
        self.piece = weights.piece
        self.token_bytes = weights.token_bytes

    def encode_media(self, media: list[MediaPayload]) -> None:
        encode_first([chunk for chunk in media if isinstance(chunk, MediaChunk)])

    def sample(self, row: int, sampler: Sampler) -> SampledToken:
        return sampler.sample(self._context.logits(row))

    def score(self, row: int, token: int, sampler: Sampler) -> SampledToken:
        return sampler.score(self._context.logits(row), token)

    def top_token(self, row: int) -> int:
        return best_token(self._context.logits(row))

    def close(self) -> None:
        self._context.close()
