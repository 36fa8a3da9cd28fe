"""A program (`python -m galago.quantize.convert.loaded MODEL [ADAPTER]`) that loads a converted file and uses it.

Reads from standard input, as JSON, `texts` to tokenize and the `tokens` of one to compute with; writes as JSON the
`tokens` of each text, and what is computed, logits of a decoder or vectors of an encoder, to the file `numbers` as
NumPy stores it, shape [tokens, width]. A program of its own, because llama.cpp ends the process on some bad files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ...models.errors import GalagoError
from ...runtime.llamacpp.lora import LoraAdapter
from ...runtime.llamacpp.programs.load_check import cap
from ...runtime.llamacpp.reference import compute
from ...runtime.llamacpp.weights import Weights


def main(model: str, *adapters: str) -> None:
    asked = json.load(sys.stdin)
    cap(Path(path).stat().st_size for path in (model, *adapters))
    weights = Weights(Path(model), gpu_layers=0)
    loaded = [LoraAdapter(Path(path), weights) for path in adapters]
    said = [weights.tokenize(text, parse_special=True, add_special=True) for text in asked["texts"]]
    numbers = compute(weights, asked["tokens"], loaded)
    if not np.isfinite(numbers).all():
        sys.exit("it computes NaN or infinity")
    np.save(asked["numbers"], numbers)
    json.dump({"tokens": said}, sys.stdout)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except GalagoError as error:
        sys.exit(error.message)
