"""The runtime: answers text, image and audio prompts with one model on this device.

    from galago.runtime import load

    with load("builtin") as model:
        print(model.chat("What do you see?", image="cat.jpg"))

Importing this loads neither llama.cpp nor numpy; `load` does.
"""

from __future__ import annotations

from .local import LocalModel, Reply, ReplyStream, load

__all__ = ["LocalModel", "Reply", "ReplyStream", "load"]
