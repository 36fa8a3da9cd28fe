"""Loads a text model: its weights, metadata and vocabulary."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.files import weight_parts
from ...models.gguf.header import END_TOKENS_KEY
from .library import NO_REASON, llama, take_errors
from .memory import release_file_pages
from .vocab import Vocab

ProgressCallback = Callable[[float], None]

_LOWERCASE, _STRIP_ACCENTS = "tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents"
_EOS = "tokenizer.ggml.eos_token_id"
_BOOLEAN = 2  # of enum llama_model_kv_override_type in llama.h


class Weights(Vocab):
    """A model file mapped into memory, with its vocabulary. Close it after every context made from it.

    `split` says how many of the layers on GPUs go to each of them; without it, llama.cpp distributes them. With
    `vocab_only` nothing but the vocabulary is loaded.
    """

    def __init__(
        self,
        path: Path,
        gpu_layers: int = -1,
        progress: ProgressCallback | None = None,
        split: Sequence[int] = (),
        vocab_only: bool = False,
    ) -> None:
        params = llama.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = gpu_layers
        if gpu_layers == 0:  # or llama.cpp still takes GPU memory, to compute long prompts there
            params.split_mode, params.main_gpu = llama.LLAMA_SPLIT_MODE_NONE, -1
        if split:
            self._split = (ctypes.c_float * llama.LLAMA_MAX_DEVICES)(*split)  # llama.cpp keeps the pointer
            params.tensor_split = self._split

        def report(fraction: float, _user_data: ctypes.c_void_p) -> bool:
            if progress is not None:
                progress(fraction)
            return True

        overrides = (llama.llama_model_kv_override * 2)()  # an empty entry ends the list
        overrides[0].key, overrides[0].tag = _STRIP_ACCENTS.encode(), _BOOLEAN
        overrides[0].value.val_bool = False
        params.kv_overrides = overrides
        callback = llama.llama_progress_callback(report)
        params.progress_callback = callback
        take_errors()
        self.path = path
        self.gpu_layers = gpu_layers
        self.handle = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelError(f"llama.cpp cannot load {path.name}: {take_errors() or NO_REASON}", str(path))
        for part in weight_parts(path):
            release_file_pages(part)
        vocab = llama.llama_model_get_vocab(self.handle)
        strips_accents, end_tokens = self._should_strip_accents(vocab), self._listed_end_tokens(vocab)
        super().__init__(vocab, strips_accents, self._names_eos(vocab), end_tokens)

    def close(self) -> None:
        if self.handle:
            llama.llama_model_free(self.handle)
            self.handle = None

    def _should_strip_accents(self, vocab: Any) -> bool:
        """Whether words lose their accents. llama.cpp's own stripping is turned off, because it would also remove the
        vowels of Indic scripts; `tokenize` does it instead."""
        if llama.llama_vocab_type(vocab) != llama.LLAMA_VOCAB_TYPE_WPM:
            return False
        return (self.metadata(_STRIP_ACCENTS) or self.metadata(_LOWERCASE) or "true") == "true"

    def _names_eos(self, vocab: Any) -> bool:
        """Whether the file names the end-of-text token. If not, llama.cpp assumes a fixed id, whatever its meaning."""
        token = llama.llama_vocab_eos(vocab)
        return self.metadata(_EOS) == str(token) or (token >= 0 and llama.llama_vocab_is_control(vocab, token))

    def _listed_end_tokens(self, vocab: Any) -> frozenset[int]:
        """The end tokens that the file lists beyond those that llama.cpp reads."""
        ids = {int(text) for text in (self.metadata(END_TOKENS_KEY) or "").split() if text.isdecimal()}
        return frozenset(ids & set(range(llama.llama_vocab_n_tokens(vocab)))) if ids else frozenset()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the file has a tokenizer. Without one, any use of the vocabulary ends the process."""
        return bool(llama.llama_vocab_type(self.vocab) != llama.LLAMA_VOCAB_TYPE_NONE)

    @property
    def attention_values(self) -> float:
        """Values that a row's attention reads for each token before it, per weight of the layers. Too low for models
        with experts, or whose heads together are wider than the model."""
        width = llama.llama_model_n_embd(self.handle)
        values = 2 * width * llama.llama_model_n_layer(self.handle)
        return float(values / max(llama.llama_model_n_params(self.handle) - self.vocab_size * width, 1))

    @property
    def context_length(self) -> int:
        """Tokens of context the model was trained for."""
        return int(llama.llama_model_n_ctx_train(self.handle))

    @property
    def recurrent(self) -> bool:
        """Whether all or some layers have a recurrent state, which cannot be truncated."""
        return bool(llama.llama_model_is_recurrent(self.handle) or llama.llama_model_is_hybrid(self.handle))

    @property
    def embedding_width(self) -> int:
        """Floats per media embedding row; wider than the model itself if a projector feeds several layers."""
        return int(llama.llama_model_n_embd_inp(self.handle))

    @property
    def output_width(self) -> int:
        """Floats of a text's embedding."""
        return int(llama.llama_model_n_embd_out(self.handle))

    @property
    def scores(self) -> int:
        """Number of scores that a reranking model gives a text."""
        return int(llama.llama_model_n_cls_out(self.handle))

    @property
    def parameters(self) -> int:
        return int(llama.llama_model_n_params(self.handle))

    @property
    def size_bytes(self) -> int:
        return int(llama.llama_model_size(self.handle))

    @property
    def type(self) -> str:
        """The quantization type as llama.cpp names it: Q8_0, Q4_K - Medium."""
        name = llama.llama_ftype_name(llama.llama_model_ftype(self.handle))
        return name.decode() if name else "unknown type"

    def metadata(self, key: str) -> str | None:
        """A metadata value of the file in llama.cpp's printed form."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, room)
            if count < room:
                return buffer.value.decode("utf-8", "replace") if count >= 0 else None
            room = count + 1

    def metadata_number(self, key: str) -> float | None:
        value = self.metadata(key)
        return float(value) if value is not None and re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", value) else None
