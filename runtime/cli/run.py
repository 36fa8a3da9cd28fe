"""`galago run`: one prompt, one answer, streamed to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...models.errors import ConfigError
from ..types.messages import FRAMES
from .ui import options


def run(
    model: options.ModelArgument,
    prompt: Annotated[str, typer.Argument(help="what to ask; - reads it from standard input")],
    image: Annotated[list[Path] | None, typer.Option(help="a picture; may be repeated", metavar="FILE")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="a sound; may be repeated", metavar="FILE")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="a film; may be repeated", metavar="FILE")] = None,
    frames: Annotated[int, typer.Option(help="how many pictures of each film to show", metavar="N")] = FRAMES,
    json_schema: options.JSONSchema = None,
    grammar: options.LarkGrammar = None,
    regex: options.Regex = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    stop: options.StopOption = None,
    mmproj: options.ProjectorOption = None,
    ctx: options.ContextLength = None,
    memory: options.MemoryOption = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    kv_type: options.KVTypeOption = "f16",
    flash_attention: options.FlashAttentionOption = "auto",
    lora: options.Lora = None,
    draft: options.Draft = None,
    stats: Annotated[bool, typer.Option("--stats", help="print token counts and speed to standard error")] = False,
) -> None:
    """Answer one prompt, with pictures, sounds and films."""
    if prompt == "-":
        prompt = sys.stdin.read()
    schema = None if json_schema is None else _schema(json_schema)
    rules = None if grammar is None else _text("grammar", grammar)
    with options.load(model, mmproj, ctx, threads, gpu_layers, kv_type, flash_attention, lora, memory, draft) as loaded:
        with loaded.chat(
            prompt,
            stream=True,
            system=system,
            image=image or (),
            audio=audio or (),
            video=video or (),
            frames=frames,
            json_schema=schema,
            grammar=rules,
            regex=regex,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            stop=stop or (),
        ) as answer:
            for piece in answer:
                print(piece, end="", flush=True)
        print()
        tell(answer.reply, stats, loaded.info.warnings)


def tell(reply: Any, stats: bool, told: Sequence[str]) -> None:
    """What a user must know of an answer beside its text, without the warnings already told."""
    for warning in reply.warnings:
        if warning not in told:
            print(f"galago: {warning}", file=sys.stderr)
    if reply.finish_reason == "length":
        print("galago: the answer was cut off, for lack of tokens", file=sys.stderr)
    if stats:
        used, times = reply.usage, reply.timings
        rate = times.tokens_per_second(used.completion_tokens)
        print(
            f"time to first token {times.first_token * 1000:.0f} ms, "
            f"{'too short for a rate' if rate is None else f'{rate:.0f} tokens per second'} "
            f"({used.prompt_tokens} tokens read, {used.completion_tokens} answered)",
            file=sys.stderr,
        )


def _text(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", option) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not text in UTF-8", option) from error


def _schema(path: Path) -> Any:
    text = _text("json-schema", path)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}", "json-schema") from error
    if not isinstance(schema, dict | bool):
        raise ConfigError(f"{path} is not a JSON schema, which is an object", "json-schema")
    return schema
