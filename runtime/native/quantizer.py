"""llama.cpp's quantizer as a function. Malformed input may end the process: call it from a child where that matters."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ...models.errors import ModelError
from .library import llama, take_errors


def quantize(source: Path, target: Path, ftype: int, threads: int = 0) -> None:
    """Writes `source` anew as `ftype` (`enum llama_ftype`); requantizes where it is quantized already.

    `threads` 0 uses all cores. An existing `target` is overwritten.
    """
    params = llama.llama_model_quantize_default_params()
    params.ftype = ftype
    params.nthread = threads
    params.allow_requantize = True
    take_errors()
    code = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise ModelError(f"llama.cpp cannot quantize {source.name}: {take_errors() or f'code {code}'}", str(source))
