"""Tests a converted file before it is published: it loads, computes, and tokenizes as the original tokenizer does.

Everything runs in child processes: llama.cpp aborts the process on some bad files, and Hugging Face's libraries, if
they are installed, load slowly.
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
from .probe_texts import probe_texts

TIMEOUT_SECONDS = 3600.0

_TOKENS_TO_COMPUTE = 32


@dataclass(frozen=True, slots=True)
class SelftestResult:
    """`mismatches` are pairs of script and text that llama.cpp tokenizes differently, among `texts` compared texts.

    `largest_difference` is that of a logit (or of a value of an encoder's vectors) from transformers' result, whose
    standard deviation is `reference_std`. Both are `None` if they were not compared.
    """

    texts: int = 0
    mismatches: tuple[tuple[str, str], ...] = ()
    largest_difference: float | None = None
    reference_std: float | None = None


def run_selftest(
    file: Path,
    checkpoint: Path,
    vocabulary_size: int,
    compare_outputs: bool,
    adapter: Path | None = None,
    peft: Path | None = None,
) -> SelftestResult:
    """Tests `file`. Raises `ModelError` if it does not work, or its outputs differ from those of transformers.

    Outputs are compared only with `compare_outputs`. `adapter` is a converted adapter for the model `file`, `peft` the
    folder it was converted from.
    """
    if compare_outputs and importlib.util.find_spec("transformers") is None:
        raise ConfigError("--check compares with transformers, which is not installed: pip install transformers torch")
    texts = probe_texts()
    # ids from the whole vocabulary, so that every part of the embedding table is used
    tokens = [int(i) for i in np.linspace(0, vocabulary_size - 1, _TOKENS_TO_COMPUTE)]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.npy", Path(folder) / "theirs.npy"
        request = {"texts": [text for _, text in texts], "tokens": tokens, "outputs": str(ours)}
        reply = _ask("selftest_job", [str(file), *([str(adapter)] if adapter else [])], request)
        result = _compare_tokens(checkpoint, texts, reply["tokens"])
        if compare_outputs:
            _ask("hf_reference", ["outputs", str(checkpoint), str(theirs), *([str(peft)] if peft else [])], tokens)
            result = _compare_outputs(result, ours, theirs)
    return result


def _compare_tokens(
    checkpoint: Path, texts: Sequence[tuple[str, str]], ours: Sequence[Sequence[int]]
) -> SelftestResult:
    tokenizer = checkpoint / "tokenizer.json"
    if importlib.util.find_spec("tokenizers") is None or not tokenizer.is_file():
        return SelftestResult()
    theirs = _ask("hf_reference", ["tokens", str(tokenizer)], [text for _, text in texts])
    mismatches = (text for text, own, other in zip(texts, ours, theirs, strict=True) if own != other)
    return SelftestResult(len(texts), tuple(mismatches))


def _compare_outputs(result: SelftestResult, ours: Path, theirs: Path) -> SelftestResult:
    own, other = np.load(ours), np.load(theirs)
    if own.shape != other.shape:
        raise ModelError(f"it computes outputs of shape {own.shape}, transformers computes {other.shape}", "check")
    difference, std = float(np.abs(own - other).max()), float(other.std())
    if not difference <= 0.1 * std:
        raise ModelError(
            f"its outputs differ from those of transformers: the largest difference is {difference:.3g}, and their "
            f"standard deviation {std:.3g}",
            "check",
        )
    return replace(result, largest_difference=difference, reference_std=std)


def _ask(program: str, arguments: list[str], question: object) -> Any:
    """Returns the answer of a program of this package, `None` if it is empty. Raises `ModelError` if it fails."""
    module = f"galago.quantize.convert.{program}"
    done = spawn.run_module(module, *arguments, stdin=json.dumps(question).encode(), timeout_seconds=TIMEOUT_SECONDS)
    if done.timed_out:
        raise ModelError(f"{program} {done.ending}", "checkpoint")
    if not done.ok:
        why = f"its process {done.ending}" if done.killed else done.last_line or "no reason given"
        what = "the converted file does not work" if program == "selftest_job" else "Hugging Face's libraries refuse it"
        raise ModelError(f"{what}: {why}", "checkpoint")
    return json.loads(done.stdout) if done.stdout.strip() else None
