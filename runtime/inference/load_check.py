"""Tries an unknown model in a child process first, because llama.cpp ends the process on some damaged files.

Files that passed are not tried again. They are recognized by the hash of their headers, which is what llama.cpp trusts,
wherever they are stored.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.files import ModelFiles
from ...models.gguf.reader import header_digest, read_header
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from ..process import spawn

_MAX_REMEMBERED = 200
_TIMEOUT_SECONDS = 1800.0


def check_loading(files: ModelFiles) -> None:
    """Raises `ModelError` if loading or using the files would end this process. Takes as long as loading them."""
    key = _key(files)
    if files.trusted or key in _passed_file().read():
        return
    end = spawn.run_module(
        "galago.runtime.llamacpp.programs.load_check",
        files.weights,
        files.projector or "",
        *(adapter.path for adapter in files.adapters),
        hide_gpus=True,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    if end.timed_out:
        raise ModelError(f"{files.weights.name} did not load within {_TIMEOUT_SECONDS:.0f} s", "model")
    if end.killed:
        names = " with ".join(path.name for path in _paths(files))
        raise ModelError(
            f"llama.cpp crashed on {names}: the process that tried it {end.ending}. The file is damaged or not made "
            "for this version; download it again, or run `galago doctor`",
            "model",
        )
    if end.ok:  # the real load reports other failures, with more detail
        _passed_file().update(lambda keys: [*keys, key][-_MAX_REMEMBERED:])


def _key(files: ModelFiles) -> str:
    digests = map(header_digest, (files.header, *map(read_header, _paths(files)[1:])))
    return " | ".join([metadata.version("llama-cpp-python"), *digests])


def _paths(files: ModelFiles) -> list[Path]:
    projector = [files.projector] if files.projector else []
    return [files.weights, *projector, *(adapter.path for adapter in files.adapters)]


def _passed_file() -> JsonFile[list[str]]:
    """Returns the keys of files that passed the load check, oldest first."""
    return JsonFile(cache_folder() / "tried.json", _parse_keys, list)


def _parse_keys(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return [key for key in value if isinstance(key, str)]
