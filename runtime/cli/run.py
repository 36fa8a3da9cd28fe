"""`galago run`: sends one prompt and streams the answer to standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ..types.load_options import FILES, MODEL_SETTINGS
from ..types.options import PROMPT, REQUEST, SAMPLING
from .ui import options

if TYPE_CHECKING:
    from ..python_api import Reply


@options.with_options(request=(*PROMPT, *REQUEST, *SAMPLING), loading=(*FILES, *MODEL_SETTINGS))
def run(
    model: options.ModelArgument,
    prompt: Annotated[str, typer.Argument(help="what to ask; - reads it from standard input")],
    request: options.OptionValues,
    loading: options.OptionValues,
    stats: Annotated[bool, typer.Option("--stats", help="print token counts and speed to standard error")] = False,
) -> None:
    """Answer one prompt, with images, audio and video."""
    if prompt == "-":
        prompt = sys.stdin.read()
    _check_media(request)
    with options.load(model, loading) as loaded:
        with loaded.chat(prompt, stream=True, **options.by_keyword(request)) as answer:
            for text in answer:
                print(text, end="", flush=True)
        print()
        print_notes(answer.reply, loaded.info.warnings)
        if stats:
            print(_stats(answer.reply), file=sys.stderr)


def _check_media(request: options.OptionValues) -> None:
    """Raises `MediaError` for a file that cannot be read, before the model is loaded, which may take minutes."""
    from ..python_api import MediaKind, read_media

    for kind in get_args(MediaKind):
        for path in request.get(kind, ()):
            read_media(kind, path)


def print_notes(reply: Reply, printed: Sequence[str]) -> None:
    """Prints the warnings of an answer that were not `printed` before, and whether it was cut off."""
    for warning in reply.warnings:
        if warning not in printed:
            print(f"galago: {warning}", file=sys.stderr)
    if reply.finish_reason == "length":
        print(
            "galago: the answer was cut off: it reached --max-tokens, or the end of the context (--context)",
            file=sys.stderr,
        )


def _stats(reply: Reply) -> str:
    used, times = reply.usage, reply.timings
    rate = times.tokens_per_second(used.completion_tokens)
    speed = "too short to measure a speed" if rate is None else f"{rate:.0f} tokens per second"
    return (
        f"time to first token {times.first_token_seconds * 1000:.0f} ms, {speed} "
        f"({used.prompt_tokens} prompt tokens, {used.completion_tokens} answer tokens)"
    )
