"""Loads the llama.cpp libraries once, and keeps their last logged errors for error messages."""

from __future__ import annotations

import ctypes
import re
import sys
from collections import deque
from collections.abc import Callable

from ...models.errors import ConfigError
from ..environment import prepare_native_environment, wants_native_log

prepare_native_environment()
try:
    from llama_cpp import llama_cpp as llama
    from llama_cpp import mtmd_cpp as mtmd
except (ImportError, OSError, RuntimeError) as error:
    raise ConfigError(
        f"llama.cpp cannot be loaded ({error}); run scripts/bootstrap, or `galago doctor` to find out why"
    ) from error

__all__ = ["NO_REASON", "build_info", "features", "listen", "llama", "mtmd", "take_errors"]

NO_REASON = "it gave no reason"

SHOW_LOG = wants_native_log()
"""Whether llama.cpp's log goes to standard error."""
_LOG_ERROR, _LOG_CONTINUED = 4, 5  # enum ggml_log_level in ggml.h

_recent: deque[str] = deque(maxlen=8)
_level = 0
_listener: Callable[[str], None] | None = None


def listen(listener: Callable[[str], None] | None) -> None:
    """Calls `listener` with every piece of text that llama.cpp logs from now on; it must not raise. `None` stops it."""
    global _listener
    _listener = listener


def _log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    global _level
    if level != _LOG_CONTINUED:
        _level = level
    line = text.decode("utf-8", "replace").strip()
    if _level >= _LOG_ERROR and line:
        _recent.append(line)
    if _listener is not None:
        _listener(text.decode("utf-8", "replace"))
    if SHOW_LOG:
        sys.stderr.write(text.decode("utf-8", "replace"))


_callback = llama.llama_log_callback(_log)
llama.llama_log_set(_callback, ctypes.c_void_p(0))
mtmd.mtmd_log_set(_callback, ctypes.c_void_p(0))
mtmd.mtmd_helper_log_set(_callback, ctypes.c_void_p(0))
llama.llama_backend_init()


def take_errors() -> str:
    """Returns the last errors llama.cpp logged, joined, and forgets them; empty if there were none."""
    text = "; ".join(_recent)
    _recent.clear()
    return text


def build_info() -> str:
    """The version of llama.cpp, and the CPU features and backends it was compiled with, as it prints them."""
    return f"{llama.llama_version().decode()} | {llama.llama_print_system_info().decode()}"


def features() -> frozenset[str]:
    """The features of llama.cpp's CPU code, as it names them: AVX2, DOTPROD, REPACK."""
    return frozenset(re.findall(r"(\w+) = 1", llama.llama_print_system_info().decode()))
