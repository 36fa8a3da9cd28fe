"""Remembers which commits were downloaded from a Hub other than huggingface.co, such as a mirror."""

from __future__ import annotations

from typing import Any

from ..json_file import JsonFile
from ..paths import data_folder

DEFAULT_ENDPOINT = "https://huggingface.co"


def is_mirror(endpoint: str) -> bool:
    return endpoint.rstrip("/") != DEFAULT_ENDPOINT


def remember(repository: str, commit: str, endpoint: str) -> None:
    """Records the Hub from which a commit was downloaded last."""
    key = f"{repository}@{commit}"
    if is_mirror(endpoint):
        _file().update(lambda known: known | {key: endpoint})
    elif key in _file().read():
        _file().update(lambda known: {name: value for name, value in known.items() if name != key})


def source_of(repository: str, commit: str) -> str:
    """Returns the mirror from which a commit was downloaded, or an empty text for huggingface.co."""
    return _file().read().get(f"{repository}@{commit}", "")


def _file() -> JsonFile[dict[str, str]]:
    return JsonFile(data_folder() / "mirrors.json", _parse, dict)


def _parse(content: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in content.items()}
