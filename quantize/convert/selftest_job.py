"""Child program that loads a converted file with llama.cpp: `python -m galago.quantize.convert.selftest_job`.

Its arguments are MODEL and optionally ADAPTER. It reads `texts` to tokenize and `tokens` to compute from standard
input, as JSON. It writes the `tokens` of each text as JSON, and what it computes to the file `outputs` in NumPy's
format: a decoder's logits or an encoder's vectors, shape [tokens, width]. It runs in a child process because llama.cpp
aborts the process on some bad files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ...models.errors import GalagoError
from ...runtime.llamacpp.lora import LoraAdapter
from ...runtime.llamacpp.memory import limit_memory
from ...runtime.llamacpp.reference import compute
from ...runtime.llamacpp.weights import Weights


def main(model: str, *adapters: str) -> None:
    request = json.load(sys.stdin)
    limit_memory(Path(path).stat().st_size for path in (model, *adapters))
    weights = Weights(Path(model), gpu_layers=0)
    loaded = [LoraAdapter(Path(path), weights) for path in adapters]
    tokens = [weights.tokenize(text, parse_special=True, add_special=True) for text in request["texts"]]
    outputs = compute(weights, request["tokens"], loaded)
    if not np.isfinite(outputs).all():
        sys.exit("it computes NaN or infinity")
    np.save(request["outputs"], outputs)
    json.dump({"tokens": tokens}, sys.stdout)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GalagoError as error:
        sys.exit(error.message)
