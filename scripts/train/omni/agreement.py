"""Compares PyTorch's logits with llama.cpp's on the exported files, with images and audio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galago.runtime.llamacpp.context import BATCH, Context
from galago.runtime.llamacpp.projector import MediaChunk, Projector, encode_first
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.prompt import BatchToken, MediaSpan
from world import Picture, Sample

from .batches import IGNORED, IMAGE, SOUND, Batch


def compare(
    batches: Iterable[tuple[torch.Tensor, Batch, list[Sample]]], text: Path, projector: Path
) -> dict[str, dict[str, Any]]:
    """By modality, over answer tokens: top-1 agreement, and mean and largest difference of logits.

    `batches` contain PyTorch's logits.
    """
    weights = Weights(text, gpu_layers=0)
    eyes = Projector(projector, weights, threads=2, largest_image=BATCH, use_gpu=False)
    context = Context(weights, cells=2048, slots=1, threads=2)
    seen: dict[str, list[tuple[float, float, bool]]] = defaultdict(list)
    for logits, batch, samples in batches:
        for i, sample in enumerate(samples):
            ours = _answer_logits(context, eyes, batch, i, sample)
            theirs = logits[i][torch.from_numpy(batch.targets[i] != IGNORED)].float().cpu().numpy()
            for a, b in zip(ours, theirs, strict=True):
                gap = np.abs(a - b)
                seen[sample.task.split("/")[0]].append((gap.max(), gap.mean(), a.argmax() == b.argmax()))
            context.truncate(0, 0)
    context.close()
    eyes.close()
    weights.close()
    return {
        sense: {
            "positions": len(rows),
            "top1": round(float(np.mean([r[2] for r in rows])), 4),
            "mean": round(float(np.mean([r[1] for r in rows])), 4),
            "max": round(float(np.max([r[0] for r in rows])), 4),
        }
        for sense, rows in seen.items()
    }


def _answer_logits(
    context: Context, projector: Projector, batch: Batch, i: int, sample: Sample
) -> list[NDArray[np.float32]]:
    """llama.cpp's logits at the targets of a batch, in order."""
    media = [part for turn in sample.turns for part in turn.parts if not isinstance(part, str)]
    spans = [span for part in media for span in _spans(projector, part)]
    last = int(np.flatnonzero(batch.targets[i] != IGNORED)[-1])
    out: list[NDArray[np.float32]] = []
    at = 0
    while at <= last:
        token = int(batch.tokens[i, at])
        if token in (IMAGE, SOUND):
            span = spans.pop(0)
            context.decode_media(span, at, 0)
            at += span.cells
            continue
        wanted = batch.targets[i, at] != IGNORED
        context.decode([BatchToken(token, at, 0, bool(wanted))])
        if wanted:
            out.append(context.logits(0).copy())
        at += 1
    assert not spans
    return out


def _spans(projector: Projector, part: Any) -> list[MediaSpan]:
    pieces = projector.cut_picture(part.pixels) if isinstance(part, Picture) else projector.cut_sound(part.samples)
    spans = [piece for piece in pieces if isinstance(piece, MediaSpan)]
    for span in spans:
        assert isinstance(span.payload, MediaChunk)
        encode_first([span.payload])
    return spans
