"""`galago evaluate`: how many of the built-in world's held-out questions a model answers rightly, by sense and task."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from . import options


def evaluate(
    model: options.Model,
    mmproj: options.Projector = None,
    ctx: options.ContextLength = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    as_json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
) -> None:
    """Ask the held-out questions of the built-in world, in every sense the model has, and count right answers."""
    from ...models.ref import builtin_folder
    from ...quantize import questions
    from ..values import Audio, Image, Request, Sampling

    every = questions.read(builtin_folder() / "heldout.zip")
    with options.load(model, mmproj, ctx, threads, gpu_layers) as loaded:
        info = loaded.info
        asked = [
            question
            for question in every
            if (info.vision or not question.needs(Image)) and (info.audio or not question.needs(Audio))
        ]
        show = options.progress_line("asking")
        answered = []
        for question in asked:
            request = Request(
                question.messages, Sampling(temperature=0), max_tokens=questions.LONGEST_ANSWER, tools=question.tools
            )
            with loaded.stream(request) as answer:
                text = "".join(answer)
                answered.append((question, question.is_right(text, answer.reply.calls)))
            if show:
                show(len(answered) / len(asked))
    scores = questions.score(answered)
    print(json.dumps(questions.as_json(scores), indent=1) if as_json else questions.table(scores))
    if len(asked) < len(every):
        print(f"galago: {len(every) - len(asked)} questions need a sense this model lacks", file=sys.stderr)
