"""Tries an unknown model in a child process first, because llama.cpp aborts on some damaged files.

Files that passed are not tried again until one of them changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from ...models.registry.resolve import builtin_folder
from ...models.regular_file import check_regular
from ..process import spawn
from ..types.limits import limit_error
from .weight_faults import check_experts

_VERSION = 3
"""Increased when the check tries more, so that files that passed before are tried again."""
_MAX_REMEMBERED = 200
_BASE_SECONDS, _BYTES_PER_SECOND = 120.0, 1 << 20


def check_loading(files: ModelFiles) -> None:
    """Raises `ModelError` if loading or using the files would end this process. Takes as long as a first request."""
    if files.trusted:
        return
    for model in (files, files.draft) if files.draft else (files,):
        check_experts(model.header)
    key, file_bytes = _identify(files)
    if key in _passed_file().read():
        return
    end = spawn.run_module(
        "galago.runtime.inference.load_check_program",
        files.weights,
        files.projector or "",
        files.draft.weights if files.draft else "",
        *(adapter.path for adapter in files.adapters),
        hide_gpus=True,
        timeout_seconds=_BASE_SECONDS + file_bytes / _BYTES_PER_SECOND,
    )
    if not end.ok:
        raise _error(end, [path.name for path in files.paths])
    _passed_file().update(lambda keys: [*keys, key][-_MAX_REMEMBERED:])


def check_paths(weights: Path, projector: Path | None) -> None:
    """Checks a model and its projector as `check_loading` does, for jobs that run a model in a child process."""
    trusted = all(path.parent == builtin_folder() for path in (weights, projector or weights))
    check_loading(ModelFiles(weights.stem, weights, read_header(weights), projector, trusted))


def _error(end: spawn.ChildResult, file_names: Sequence[str]) -> ModelError:
    names = " with ".join(file_names)
    if end.out_of_cpu_time:
        return ModelError(limit_error("load_check_seconds", f"{names} took too long to try").message, "model")
    if end.killed or end.timed_out:
        return ModelError(
            f"llama.cpp crashed on {names}: the process that tried it {end.ending}. The file is damaged or not made "
            "for this version; download it again, or run `galago doctor`",
            "model",
        )
    message = end.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if message and not any(name in message for name in file_names):
        message = f"{names}: {message}"
    return ModelError(message or f"{names} cannot be used: {end.last_line}", "model")


def _identify(files: ModelFiles) -> tuple[str, int]:
    """Returns a digest that changes when one of the files is changed or replaced, and their size in bytes.

    The time of the last change of a file's status (`st_ctime`) also changes when a program sets back its modification
    time. Raises `ModelError` for anything but regular files.
    """
    try:
        statuses = [(str(path.resolve()), check_regular(path)) for path in files.paths]
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}", "model") from error
    facts = [(path, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in statuses]
    pairing = [bool(files.projector), bool(files.draft), len(files.adapters)]
    text = json.dumps([_VERSION, metadata.version("llama-cpp-python"), pairing, facts])
    return hashlib.sha256(text.encode()).hexdigest(), sum(s.st_size for _, s in statuses)


def _passed_file() -> JsonFile[list[str]]:
    """Returns the keys of files that passed the load check, oldest first."""
    return JsonFile(cache_folder() / "tried.json", _parse_keys, list)


def _parse_keys(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return [key for key in value if isinstance(key, str)]
