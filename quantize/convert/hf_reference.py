"""Child program that runs Hugging Face's own libraries: `python -m galago.quantize.convert.hf_reference`.

`tokens TOKENIZER_JSON` reads texts as JSON from standard input and writes their tokens. `outputs CHECKPOINT FILE` reads
tokens and writes what transformers computes from them in float32 to FILE, in NumPy's format: a decoder's logits or an
encoder's vectors, shape [tokens, width]. A third argument is the folder of a PEFT adapter. Only this module imports
these libraries, which conversion does not need. It runs in a child process because they load slowly and take much
memory.
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


def outputs(checkpoint: str, target: str, adapter: str = "") -> None:
    import numpy as np
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    with open(f"{checkpoint}/config.json", encoding="utf-8") as file:
        encoder = json.load(file).get("model_type") == "bert"
    model_class = AutoModel if encoder else AutoModelForCausalLM
    model = model_class.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True, trust_remote_code=False)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        result = model.eval()(torch.tensor([json.load(sys.stdin)]))
    np.save(target, (result.last_hidden_state if encoder else result.logits)[0].numpy())


if __name__ == "__main__":
    if sys.argv[1] == "tokens":
        tokens(*sys.argv[2:])
    else:
        outputs(*sys.argv[2:])
