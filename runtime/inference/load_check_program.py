"""Loads a model and does what first requests do: `python -m ...load_check_program MODEL PROJECTOR DRAFT ADAPTER...`

llama.cpp aborts on some damaged files; here that ends only this process. The exit code is the result, and the last line
of standard output says what is wrong.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from ...models.errors import GalagoError, InvalidRequest, ModelError
from ...models.files import AdapterFile, ModelFiles
from ...models.gguf.reader import read_header
from ..config import ModelConfig
from ..llamacpp.memory import limit_memory
from ..llamacpp.weights import Weights
from ..media.blank import gray_image, silence
from ..process.limits import limit_this_process
from ..types.events import Failed
from ..types.limits import limit, limit_error
from ..types.messages import Message, Part, Text
from ..types.request import Request
from ..types.tasks import Embed, Rerank
from .generator import Generator
from .loader import open_model

_CONTEXT = 1024
_FILE_BYTES_PER_SECOND = 2 << 20
_OUT_OF_MEMORY_TEXTS = ("std::bad_alloc", "can't start new thread")


def main(model: str, projector: str, draft: str, *adapters: str) -> None:
    """`projector` and `draft` are empty if there are none."""
    files = _files(model, projector, draft, adapters)
    sizes = [path.stat().st_size for path in files.paths]
    allowed = limit("load_check_seconds") + sum(sizes) // _FILE_BYTES_PER_SECOND
    limit_this_process(cpu_seconds=int(time.process_time()) + 1 + allowed)
    limit_memory(sizes, limit("load_check_memory"))
    context = min(files.header.context_length or _CONTEXT, _CONTEXT)
    for path in (files.weights, *((files.draft.weights,) if files.draft else ())):
        weights = Weights(path, gpu_layers=0, vocab_only=True)
        _check_tokens(weights)
        weights.close()
    loaded = open_model(files, ModelConfig(context, threads=1, slots=1, gpu_layers=0))
    if isinstance(loaded, Generator):
        _encode_media(loaded)
    elif loaded.info.kind == "embedding":
        loaded.run_task(Embed(("Hi",)))
    else:
        loaded.run_task(Rerank("Hi", ("Hi",)))


def _files(model: str, projector: str, draft: str, adapters: tuple[str, ...]) -> ModelFiles:
    """Returns the files as trusted ones, which are loaded without another check."""
    drafting = ModelFiles("draft", Path(draft), read_header(Path(draft)), None, True) if draft else None
    loras = tuple(AdapterFile(Path(adapter), 1.0) for adapter in adapters)
    path = Path(model)
    return ModelFiles(path.name, path, read_header(path), Path(projector) if projector else None, True, loras, drafting)


def _check_tokens(weights: Weights) -> None:
    """Detokenizes every token, and tokenizes characters of all kinds, each alone and all together.

    Raises `ModelError` if there is no tokenizer, or if a character becomes an id that is no token.
    """
    if not weights.has_tokenizer:
        raise ModelError(f"{weights.path.name} has no tokenizer, so it cannot read text; convert it again")
    for token in range(weights.vocab_size):
        weights.token_bytes(token)
    characters = list(_characters())
    for text in ("Hi", "".join(characters), " ".join(characters), *characters):
        for add_special in (False, True):
            tokens = weights.tokenize(text, parse_special=add_special, add_special=add_special)
            if not all(0 <= token < weights.vocab_size for token in tokens):
                raise ModelError(f"{weights.path.name} has no token for {text[:1]!r}, and none for unknown text")


def _characters() -> Iterator[str]:
    """Yields characters that together contain every byte of UTF-8, each in several of them."""
    yield from map(chr, range(128))
    for lead in range(0xC2, 0xF5):
        for rest in range(0x80, 0xC0, 3):
            others = bytes((0x80 + (rest * step + lead) % 64) for step in (5, 11))
            length = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
            text = (bytes([lead, rest]) + others)[: 1 + length].decode(errors="ignore")
            yield from text


def _encode_media(generator: Generator) -> None:
    """Answers a message with an image and one with a sound, if the model takes them. They may be too long for it."""
    media: list[Part] = [gray_image(64)] if generator.info.vision else []
    media += [silence(1)] if generator.info.audio else []
    for part in media:
        request = Request((Message("user", (part, Text("Hi"))),), max_tokens=1, cache=False)
        try:
            events = list(generator.generate(request))
        except InvalidRequest:
            continue
        for event in events:
            if isinstance(event, Failed) and not isinstance(event.error, InvalidRequest):
                raise event.error


def _describe(error: Exception) -> str:
    """Says in one line why the model cannot be used."""
    name = Path(sys.argv[1]).name
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY_TEXTS):
        error = limit_error("load_check_memory", f"{name} needs too much memory")
    unforeseen = f"{name} cannot be used: {type(error).__name__}: {error}"
    return " ".join((error.message if isinstance(error, GalagoError) else unforeseen).split())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        traceback.print_exception(error)
        print(_describe(error), flush=True)
        sys.exit(1)
