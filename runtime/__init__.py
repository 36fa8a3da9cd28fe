"""The runtime: runs a model on this device and answers prompts with text, images, audio and video.

    from galago.runtime import load

    with load("builtin") as model:
        print(model.chat("What do you see?", image="cat.jpg"))

Importing this package loads neither llama.cpp nor numpy; `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .python_api import LocalModel, Reply, ReplyStream, load

__all__ = ["LocalModel", "Reply", "ReplyStream", "load"]


def __getattr__(name: str) -> Any:
    """Imports the Python API on first use, so that workers and commands start without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import python_api

    return getattr(python_api, name)
