"""Tries a converted file before it gets its name: it loads, computes, and reads text as its tokenizer does.

All of it in child processes: llama.cpp ends the process on some bad files, and Hugging Face's libraries, where they are
installed, take long to load.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import ConfigError, ModelError
from ...runtime.process import spawn
from .probes import probes

TIMEOUT = 3600.0  # seconds

_SAMPLE = 32  # tokens to compute with


@dataclass(frozen=True, slots=True)
class Tried:
    """`texts` were compared, of which `other` read otherwise, with their scripts. `off`: the largest difference of a
    logit (or of a value of an encoder's vectors) from transformers', and `spread` their standard deviation there."""

    texts: int = 0
    other: tuple[tuple[str, str], ...] = ()
    off: float | None = None
    spread: float | None = None


def try_out(
    file: Path, checkpoint: Path, vocabulary: int, compute: bool, adapter: Path | None = None, peft: Path | None = None
) -> Tried:
    """Raises `ModelError` where `file` does not work, and with `compute` where transformers' numbers are others.

    `adapter` is a converted adapter for the model `file`, `peft` the folder it was made from.
    """
    if compute and importlib.util.find_spec("transformers") is None:
        raise ConfigError("--check compares with transformers, which is not installed: pip install transformers torch")
    texts = probes()
    # ids from all of the vocabulary, so that every part of the embeddings is looked at
    tokens = [int(i) for i in np.linspace(0, vocabulary - 1, _SAMPLE)]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.npy", Path(folder) / "theirs.npy"
        asked = {"texts": [text for _, text in texts], "tokens": tokens, "numbers": str(ours)}
        said = _ask("loaded", [str(file), *([str(adapter)] if adapter else [])], asked)
        tried = _compare_tokens(checkpoint, texts, said["tokens"])
        if compute:
            _ask("reference", ["numbers", str(checkpoint), str(theirs), *([str(peft)] if peft else [])], tokens)
            tried = _compare_numbers(tried, ours, theirs)
    return tried


def _compare_tokens(checkpoint: Path, texts: Sequence[tuple[str, str]], ours: Sequence[Sequence[int]]) -> Tried:
    tokenizer = checkpoint / "tokenizer.json"
    if importlib.util.find_spec("tokenizers") is None or not tokenizer.is_file():
        return Tried()
    theirs = _ask("reference", ["tokens", str(tokenizer)], [text for _, text in texts])
    return Tried(len(texts), tuple(t for t, one, two in zip(texts, ours, theirs, strict=True) if one != two))


def _compare_numbers(tried: Tried, ours: Path, theirs: Path) -> Tried:
    one, two = np.load(ours), np.load(theirs)
    if one.shape != two.shape:
        raise ModelError(f"it computes numbers of the shape {one.shape}, transformers of {two.shape}", "check")
    off, spread = float(np.abs(one - two).max()), float(two.std())
    if not off <= 0.1 * spread:
        raise ModelError(
            f"it does not compute what transformers does: a number is {off:.3g} off, where they spread by {spread:.3g}",
            "check",
        )
    return replace(tried, off=off, spread=spread)


def _ask(program: str, arguments: list[str], question: object) -> Any:
    """What a program of this package answers, `None` where it answers nothing. Raises `ModelError` where it fails."""
    module = f"galago.quantize.convert.{program}"
    done = spawn.run_module(module, *arguments, stdin=json.dumps(question).encode(), timeout_seconds=TIMEOUT)
    if done.timed_out:
        raise ModelError(f"{program} {done.ending}", "checkpoint")
    if not done.ok:
        why = f"its process {done.ending}" if done.killed else done.last_line or "no reason given"
        what = "the converted file does not work" if program == "loaded" else "Hugging Face's libraries refuse it"
        raise ModelError(f"{what}: {why}", "checkpoint")
    return json.loads(done.stdout) if done.stdout.strip() else None
