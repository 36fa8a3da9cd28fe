"""The eyes and ears of a model: turns pixels and samples into embeddings through libmtmd. Decodes no files."""

from __future__ import annotations

import ctypes
import threading
import weakref
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...models.errors import InvalidRequest, ModelError
from ..values import MediaSpan, Piece
from .library import NO_REASON, mtmd, take_errors
from .weights import Weights


class MediaChunk:
    """One stretch of media as libmtmd cut it; `encode` fills in its embeddings (rows x width, float32)."""

    def __init__(self, projector: Projector, handle: Any, rows: int) -> None:
        self.projector = projector
        self.handle = handle
        self.rows = rows
        self.embeddings: NDArray[np.float32] | None = None
        weakref.finalize(self, mtmd.mtmd_input_chunk_free, handle)

    def encode(self) -> None:
        """Computes the embeddings: one call that nothing can interrupt, seconds long for a picture on a small CPU."""
        self.embeddings = self.projector.encode(self)


class Projector:
    """A loaded mmproj file. One thread at a time encodes; the others wait."""

    def __init__(self, path: Path, weights: Weights, threads: int, largest_image: int, use_gpu: bool = True) -> None:
        params = mtmd.mtmd_context_params_default()
        params.n_threads = threads
        params.use_gpu = use_gpu
        params.print_timings = False
        take_errors()
        self.handle = mtmd.mtmd_init_from_file(str(path).encode(), weights.handle, params)
        if not self.handle:
            raise ModelError(
                f"the projector {path.name} does not go with {weights.path.name}: {take_errors() or NO_REASON}",
                str(path),
            )
        self.path = path
        self.vision = bool(mtmd.mtmd_support_vision(self.handle))
        self.audio = bool(mtmd.mtmd_support_audio(self.handle))
        self.sample_rate = int(mtmd.mtmd_get_audio_sample_rate(self.handle)) if self.audio else 0
        self._marker: bytes = mtmd.mtmd_get_marker(self.handle) or mtmd.mtmd_default_marker()
        self._width = weights.embedding_width
        self._largest_image = largest_image
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            if self.handle:
                mtmd.mtmd_free(self.handle)
                self.handle = None

    def cut_picture(self, pixels: NDArray[np.uint8]) -> list[Piece]:
        """Cuts RGB pixels (height x width x 3) into chunks, not encoded yet, between the model's own marker tokens."""
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels)
        bitmap = mtmd.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        return self._cut(bitmap)

    def cut_sound(self, samples: NDArray[np.float32]) -> list[Piece]:
        """The same for mono samples at `sample_rate`; fewer than two would end the process (mtmd.cpp asserts it)."""
        assert samples.size >= 2
        data = np.ascontiguousarray(samples, np.float32)
        bitmap = mtmd.mtmd_bitmap_init_from_audio(data.size, data.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        return self._cut(bitmap)

    def encode(self, chunk: MediaChunk) -> NDArray[np.float32]:
        """The embeddings of a chunk that this projector cut."""
        with self._lock:
            if mtmd.mtmd_encode_chunk(self._open(), chunk.handle) != 0:
                raise ModelError(f"{self.path.name} failed to encode: {take_errors() or NO_REASON}", str(self.path))
            output = mtmd.mtmd_get_output_embd(self.handle)
            return np.ctypeslib.as_array(output, (chunk.rows, self._width)).copy()

    def _open(self) -> Any:
        if self.handle is None:
            raise ModelError("the model is closed")
        return self.handle

    def _cut(self, bitmap: Any) -> list[Piece]:
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            with self._lock:
                self._tokenize(bitmap, chunks)
                count = mtmd.mtmd_input_chunks_size(chunks)
                return [self._piece(mtmd.mtmd_input_chunks_get(chunks, i)) for i in range(count)]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _tokenize(self, bitmap: Any, chunks: Any) -> None:
        text = mtmd.mtmd_input_text(self._marker, len(self._marker), False, True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        take_errors()
        if mtmd.mtmd_tokenize(self._open(), chunks, ctypes.byref(text), bitmaps, 1) != 0:
            raise InvalidRequest(f"{self.path.name} cannot take this media: {take_errors() or NO_REASON}")

    def _piece(self, chunk: Any) -> Piece:
        kind = mtmd.mtmd_input_chunk_get_type(chunk)
        if kind == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            return self._marker_tokens(chunk)
        return self._span(chunk, "image" if kind == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE else "audio")

    def _marker_tokens(self, chunk: Any) -> tuple[int, ...]:
        count = ctypes.c_size_t(0)
        tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        ids = tuple(tokens[: count.value])
        if any(token < 0 for token in ids):
            raise ModelError(
                f"{self.path.name} marks media with tokens that the text model does not have; it belongs to another",
                str(self.path),
            )
        return ids

    def _span(self, chunk: Any, kind: Literal["image", "audio"]) -> MediaSpan:
        rows = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        if mtmd.mtmd_decode_use_non_causal(self.handle, chunk) and rows > self._largest_image:
            # llama.cpp asserts, and so ends the process, when a non-causal span is cut into several micro-batches
            raise InvalidRequest(f"this {kind} needs {rows} tokens at once; at most {self._largest_image} fit a step")
        payload = MediaChunk(self, mtmd.mtmd_input_chunk_copy(chunk), rows)
        return MediaSpan(kind, rows, int(mtmd.mtmd_input_chunk_get_n_pos(chunk)), payload)
