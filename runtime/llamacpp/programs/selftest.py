"""The program that computes with each weight type: `python -m ...selftest MODEL NAME=FTYPE...`

A build for another CPU, or by a faulty compiler, crashes here instead of in the user's process. Writes one JSON line
about the build, then one before and one after each type, so that the reader knows at which type it crashed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...types.prompt import BatchToken
from ..context import Context
from ..devices import backends, devices, gpu_backends
from ..library import build_info
from ..quantizer import quantize
from ..weights import Weights

F32 = 0
TEXT = "<|im_start|>user\nWhat day comes after Wednesday?<|im_end|>\n<|im_start|>assistant\nThursday."


def main(arguments: list[str]) -> None:
    model, *types = arguments
    _write_line(
        build=build_info(), backends=backends(), gpu_backends=gpu_backends(), devices=[asdict(d) for d in devices()]
    )
    with tempfile.TemporaryDirectory() as folder:
        reference = _log_probabilities(Path(model), F32, Path(folder))
        for item in types:
            name, _, ftype = item.partition("=")
            _write_line(start=name)
            logs = _log_probabilities(Path(model), int(ftype), Path(folder))
            _write_line(done=name, divergence=_divergence(reference, logs))


def _log_probabilities(model: Path, ftype: int, folder: Path) -> NDArray[np.float64]:
    """Returns log-probabilities of the next token after a prompt in one batch, and after each of three more tokens."""
    target = folder / f"{ftype}.gguf"
    quantize(model, target, ftype)
    weights = Weights(target, gpu_layers=0)
    context = Context(weights, cells=256, slots=1, threads=2)
    tokens = weights.tokenize(TEXT, parse_special=True)
    *single, end = range(len(tokens) - 3, len(tokens) + 1)
    rows = [BatchToken(token, i, 0, i == single[0] - 1) for i, token in enumerate(tokens[: single[0]])]
    context.decode(rows)
    logits = [context.logits(len(rows) - 1).astype(np.float64)]
    for position in range(single[0], end):
        context.decode([BatchToken(tokens[position], position, 0, True)])
        logits.append(context.logits(0).astype(np.float64))
    context.close()
    weights.close()
    target.unlink()
    table = np.stack(logits)
    return table - np.logaddexp.reduce(table, axis=1, keepdims=True)


def _divergence(reference: NDArray[np.float64], logs: NDArray[np.float64]) -> float | None:
    """Returns the mean KL divergence in nats, or `None` if it is not finite."""
    value = float((np.exp(reference) * (reference - logs)).sum(axis=1).mean())
    return value if np.isfinite(value) else None


def _write_line(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
