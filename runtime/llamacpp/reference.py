"""Computes a few tokens as exactly as llama.cpp can, to compare with other implementations.

The KV cache is float32 and flash attention is off; a context that answers requests rounds both to float16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from ..types.prompt import BatchToken
from .context import TokenBatch
from .library import NO_REASON, llama, take_errors
from .lora import LoraAdapter
from .weights import Weights


def compute(weights: Weights, tokens: Sequence[int], adapters: Sequence[LoraAdapter] = ()) -> NDArray[np.float32]:
    """Returns logits for each token, shape [tokens, vocabulary]; for an encoder, embeddings, shape [tokens, width].

    Adapters are applied with scale 1. Raises `EngineError` if llama.cpp cannot compute.
    """
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = max(64, len(tokens))
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.pooling_type = llama.LLAMA_POOLING_TYPE_NONE
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = encodes = weights.metadata("general.architecture") == "bert"
    take_errors()
    context = llama.llama_init_from_model(weights.handle, params)
    if not context:
        raise EngineError(f"llama.cpp cannot compute with {weights.path.name}: {take_errors() or NO_REASON}")
    try:
        if adapters:
            handles = (llama.llama_adapter_lora_p_ctypes * len(adapters))(*(adapter.handle for adapter in adapters))
            llama.llama_set_adapters_lora(
                context, handles, len(adapters), (ctypes.c_float * len(adapters))(*[1.0] * len(adapters))
            )
        batch = TokenBatch(len(tokens)).fill([BatchToken(token, i, 0, True) for i, token in enumerate(tokens)])
        code = llama.llama_encode(context, batch) if encodes else llama.llama_decode(context, batch)
        if code != 0:
            raise EngineError(f"llama.cpp failed to compute (code {code}): {take_errors() or NO_REASON}")
        get = llama.llama_get_embeddings_ith if encodes else llama.llama_get_logits_ith
        width = llama.llama_model_n_embd(weights.handle) if encodes else weights.vocab_size
        return np.stack([np.ctypeslib.as_array(get(context, i), (width,)).copy() for i in range(len(tokens))])
    finally:
        llama.llama_free(context)
