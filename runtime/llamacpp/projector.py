"""A projector (mmproj): turns pixels and audio samples into embeddings through libmtmd. Does not decode files."""

from __future__ import annotations

import ctypes
import hashlib
import threading
import time
import weakref
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...models.errors import InvalidRequest, ModelError
from ...models.fingerprint import fingerprint
from ..cache.disk_cache import DiskCache
from ..cache.encoder_cache import EncoderCache
from ..types.prompt import Item, MediaSpan
from .imatrix_collector import ImatrixCollector
from .library import NO_REASON, mtmd, take_errors
from .weights import Weights

ChunkKind: TypeAlias = Literal["image", "audio"]


class MediaChunk:
    """A piece of media as libmtmd splits it, with its embeddings (rows x width, float32) once they are computed."""

    def __init__(self, projector: Projector, handle: Any, kind: ChunkKind, rows: int, digest: bytes) -> None:
        self.projector = projector
        self.kind = kind
        self.handle = handle
        self.rows = rows
        self.digest = digest
        self.embeddings = projector.embeddings.find(digest, projector.width)
        weakref.finalize(self, mtmd.mtmd_input_chunk_free, handle)

    @property
    def ready(self) -> bool:
        """Whether the embeddings are there, possibly computed for another chunk with the same content."""
        if self.embeddings is None:
            self.embeddings = self.projector.embeddings.get(self.digest)
        return self.embeddings is not None


def encode_first(chunks: list[MediaChunk]) -> None:
    """Computes the embeddings of the first chunk, and of as many of the next ones as its projector takes at once.

    The call cannot be interrupted; for an image on a small CPU it takes seconds.
    """
    chunks[0].projector.encode_first(chunks)


def embedded_by(path: Path, use_gpu: bool) -> tuple[str, ...]:
    """Identifies what embeddings depend on besides the llama.cpp build, for a disk cache. Not the text model."""
    return fingerprint(path), "media on a GPU" if use_gpu else "media on the CPU"


class Projector:
    """A loaded mmproj file. One thread at a time encodes; others wait. A `collector` sees every matrix product."""

    def __init__(
        self,
        path: Path,
        weights: Weights,
        threads: int,
        largest_image: int,
        use_gpu: bool = True,
        cache_bytes: int = 0,
        disk_cache: DiskCache | None = None,
        collector: ImatrixCollector | None = None,
    ) -> None:
        params = mtmd.mtmd_context_params_default()
        params.n_threads = threads
        params.use_gpu = use_gpu
        params.print_timings = False
        if collector is not None:
            params.cb_eval = collector.callback
        take_errors()
        self.handle = mtmd.mtmd_init_from_file(str(path).encode(), weights.handle, params)
        if not self.handle:
            raise ModelError(
                f"the projector {path.name} does not match {weights.path.name}: {take_errors() or NO_REASON}",
                str(path),
            )
        self.path = path
        self.vision = bool(mtmd.mtmd_support_vision(self.handle))
        self.audio = bool(mtmd.mtmd_support_audio(self.handle))
        self.sample_rate = int(mtmd.mtmd_get_audio_sample_rate(self.handle)) if self.audio else 0
        self._marker: bytes = mtmd.mtmd_get_marker(self.handle) or mtmd.mtmd_default_marker()
        self.width = weights.embedding_width
        self._largest_image = largest_image
        self.embeddings = EncoderCache(cache_bytes, disk_cache)
        self.row_seconds: dict[ChunkKind, float] = {}
        """Seconds per row of the latest encoder call."""
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            if self.handle:
                mtmd.mtmd_free(self.handle)
                self.handle = None

    def cut_picture(self, pixels: NDArray[np.uint8]) -> list[Item]:
        """Splits RGB pixels (height x width x 3) into chunks, not encoded yet, between the model's marker tokens."""
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels)
        bitmap = mtmd.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        return self._cut(bitmap, _digest(data))

    def cut_sound(self, samples: NDArray[np.float32]) -> list[Item]:
        """Splits mono samples at `sample_rate`. With fewer than two, an assertion in mtmd.cpp would end the process."""
        assert samples.size >= 2
        data = np.ascontiguousarray(samples, np.float32)
        bitmap = mtmd.mtmd_bitmap_init_from_audio(data.size, data.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        return self._cut(bitmap, _digest(data))

    def encode_first(self, chunks: list[MediaChunk]) -> None:
        with self._lock:
            batch = mtmd.mtmd_batch_init(self._open())
            try:
                batched = list(takewhile(lambda chunk: mtmd.mtmd_batch_add_chunk(batch, chunk.handle) == 0, chunks))
                begin = time.perf_counter()
                if not batched or mtmd.mtmd_batch_encode(batch) != 0:
                    raise ModelError(f"{self.path.name} failed to encode: {take_errors() or NO_REASON}", str(self.path))
                self.row_seconds[batched[0].kind] = (time.perf_counter() - begin) / sum(chunk.rows for chunk in batched)
                for chunk in batched:
                    output = mtmd.mtmd_batch_get_output_embd(batch, chunk.handle)
                    chunk.embeddings = np.ctypeslib.as_array(output, (chunk.rows, self.width)).copy()
                    self.embeddings.put(chunk.digest, chunk.embeddings)
            finally:
                mtmd.mtmd_batch_free(batch)

    def _open(self) -> Any:
        if self.handle is None:
            raise ModelError("the model is closed")
        return self.handle

    def _cut(self, bitmap: Any, digest: bytes) -> list[Item]:
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            with self._lock:
                self._tokenize(bitmap, chunks)
                count = mtmd.mtmd_input_chunks_size(chunks)
                pieces = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(count)]
                return [
                    item for i, chunk in enumerate(pieces) for item in self._items(chunk, digest + bytes([i % 256]))
                ]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _tokenize(self, bitmap: Any, chunks: Any) -> None:
        text = mtmd.mtmd_input_text(self._marker, len(self._marker), False, True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        take_errors()
        if mtmd.mtmd_tokenize(self._open(), chunks, ctypes.byref(text), bitmaps, 1) != 0:
            raise InvalidRequest(f"{self.path.name} cannot process this media: {take_errors() or NO_REASON}")

    def _items(self, chunk: Any, digest: bytes) -> list[Item]:
        kind = mtmd.mtmd_input_chunk_get_type(chunk)
        if kind == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            return list(self._marker_tokens(chunk))
        return [self._span(chunk, "image" if kind == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE else "audio", digest)]

    def _marker_tokens(self, chunk: Any) -> tuple[int, ...]:
        count = ctypes.c_size_t(0)
        tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        ids = tuple(tokens[: count.value])
        if any(token < 0 for token in ids):
            raise ModelError(
                f"{self.path.name} marks media with tokens that the text model lacks; it belongs to another model",
                str(self.path),
            )
        return ids

    def _span(self, chunk: Any, kind: ChunkKind, digest: bytes) -> MediaSpan:
        rows = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        if mtmd.mtmd_decode_use_non_causal(self.handle, chunk) and rows > self._largest_image:
            # an assertion in llama.cpp would end the process if a non-causal span were split into micro-batches
            raise InvalidRequest(
                f"this {kind} needs {rows} tokens in one step, which holds {self._largest_image}; use a smaller one"
            )
        payload = MediaChunk(self, mtmd.mtmd_input_chunk_copy(chunk), kind, rows, digest)
        return MediaSpan(kind, rows, int(mtmd.mtmd_input_chunk_get_n_pos(chunk)), digest, payload)


def _digest(data: NDArray[Any]) -> bytes:
    """Identifies decoded pixels or samples. The projector's further preprocessing is always the same."""
    return hashlib.blake2b(data.data, digest_size=16, key=f"{data.dtype} {data.shape}".encode()).digest()
