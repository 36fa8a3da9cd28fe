"""Tries an unknown model in a child process first, because llama.cpp ends the process on some damaged files.

Files that passed are remembered by the hash of what llama.cpp trusts, their headers, and are not tried again, wherever
they lie. Knows nothing of what a file holds.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ...models.errors import ModelError
from ...models.files import ModelFiles
from ...models.gguf.reader import header_digest, read_header
from ...models.paths import cache_folder
from ..config import cpu_environment

_REMEMBERED = 200
_TIMEOUT = 1800.0


def try_out(files: ModelFiles) -> None:
    """Raises `ModelError` where loading or using the files would end this process. Takes as long as loading them."""
    key = _key(files)
    if files.trusted or key in _passed():
        return
    command = [sys.executable, "-P", "-m", "galago.runtime.llamacpp.programs.load_check", str(files.weights)]
    command += [str(files.projector or ""), *(str(adapter.path) for adapter in files.adapters)]
    try:
        done = subprocess.run(
            command, env=cpu_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{files.weights.name} did not load within {_TIMEOUT:.0f} s", "model") from None
    if done.returncode < 0:
        names = " with ".join(path.name for path in _paths(files))
        raise ModelError(
            f"llama.cpp crashes on {names} (killed by {signal_name(-done.returncode)}): the file is damaged or not "
            "made for this version; download it again, or see what `galago doctor` says",
            "model",
        )
    if done.returncode == 0:  # other failures are told by the real load, which knows them better
        _remember(key)


def _key(files: ModelFiles) -> str:
    digests = map(header_digest, (files.header, *map(read_header, _paths(files)[1:])))
    return " | ".join([metadata.version("llama-cpp-python"), *digests])


def _paths(files: ModelFiles) -> list[Path]:
    projector = [files.projector] if files.projector else []
    return [files.weights, *projector, *(adapter.path for adapter in files.adapters)]


def _list() -> Path:
    return cache_folder() / "tried.json"


def _passed() -> list[str]:
    try:
        keys = json.loads(_list().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []


def _remember(key: str) -> None:
    with contextlib.suppress(OSError):  # a cache folder that cannot be written only costs another trial
        _list().parent.mkdir(parents=True, exist_ok=True)
        part = _list().with_suffix(".part")
        part.write_text(json.dumps([*_passed(), key][-_REMEMBERED:]), encoding="utf-8")
        part.replace(_list())


def signal_name(number: int) -> str:
    """The signal's name as people write it: SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
