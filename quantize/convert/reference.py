"""A program that answers as Hugging Face's own libraries do (`python -m galago.quantize.convert.reference`).

`tokens TOKENIZER_JSON` reads texts as JSON from standard input and writes their tokens. `numbers CHECKPOINT FILE` reads
tokens and writes to FILE what transformers computes of them in float32: logits of a decoder, vectors of an encoder,
shape [tokens, width], as NumPy stores it; `ADAPTER` behind it is a PEFT adapter. The one door to these libraries, which
are not needed to convert; a program of its own, because they take long to load and much memory.
"""

from __future__ import annotations

import json
import sys


def tokens(path: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = json.load(sys.stdin)
    json.dump([tokenizer.encode(text).ids for text in texts], sys.stdout)


def numbers(checkpoint: str, target: str, adapter: str = "") -> None:
    import numpy as np
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    with open(f"{checkpoint}/config.json", encoding="utf-8") as file:
        encoder = json.load(file).get("model_type") == "bert"
    kind = AutoModel if encoder else AutoModelForCausalLM
    model = kind.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True, trust_remote_code=False)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        found = model.eval()(torch.tensor([json.load(sys.stdin)]))
    np.save(target, (found.last_hidden_state if encoder else found.logits)[0].numpy())


if __name__ == "__main__":
    if sys.argv[1] == "tokens":
        tokens(*sys.argv[2:])
    else:
        numbers(*sys.argv[2:])
