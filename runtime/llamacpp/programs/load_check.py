"""The program that loads files and uses them once: `python -m ...load_check MODEL PROJECTOR ADAPTER...`

llama.cpp ends its process on some damaged files, which is this one then. How it exits is its result.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ....models.errors import GalagoError
from ....models.gguf.reader import read_header
from ...process.limits import limit_this_process
from ...types.prompt import BatchToken, Item, MediaSpan
from ..context import BATCH, Context
from ..devices import gpus
from ..lora import LoraAdapter
from ..pooling import PoolingContext
from ..projector import MediaChunk, Projector, encode_first
from ..weights import Weights

_BASE_BYTES = 4 << 30
"""For libraries, stacks of threads, and the working memory of a small context."""


def main(model: str, projector: str, *adapters: str) -> None:
    """`projector` is empty if there is none."""
    cap(path.stat().st_size for path in map(Path, (model, projector, *adapters)) if path.is_file())
    weights = Weights(Path(model), gpu_layers=0)
    pooling = read_header(Path(model)).pooling
    if pooling:
        PoolingContext(weights, pooling, rows=256, threads=1).compute([[0, 1], [1]])
        return
    loaded = [LoraAdapter(Path(adapter), weights) for adapter in adapters]
    context = Context(weights, cells=256, slots=1, threads=1, adapters=loaded)
    context.use_adapters((1.0,) * len(loaded))
    context.decode([BatchToken(0, 0, 0, False), BatchToken(1, 1, 0, True)])
    if projector:
        _use(Projector(Path(projector), weights, threads=1, largest_image=BATCH, use_gpu=False))


def cap(sizes: Iterable[int]) -> None:
    """Limits this process's memory to what loading files of these sizes can take, because a header may ask for more.

    llama.cpp keeps at most a second copy of the weights, repacked. There is no limit where the system has none (macOS,
    Windows), nor with a GPU, whose driver reserves memory as it likes.
    """
    if not gpus():
        limit_this_process(data_bytes=_BASE_BYTES + 3 * sum(sizes))


def _use(projector: Projector) -> None:
    """Encodes a gray image and a second of silence, if the projector takes them."""
    items: list[Item] = []
    if projector.vision:
        items += projector.cut_picture(np.full((64, 64, 3), 128, np.uint8))
    if projector.audio:
        items += projector.cut_sound(np.zeros(projector.sample_rate, np.float32))
    for item in items:
        if isinstance(item, MediaSpan) and isinstance(item.payload, MediaChunk):
            encode_first([item.payload])


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GalagoError as error:
        sys.exit(error.message)
