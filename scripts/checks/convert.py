"""Compares converted checkpoints of every model family, and adapters, with the original ones.

    python -m venv check && check/bin/pip install -e .[convert] torch transformers sentencepiece peft
    PYTHONPATH=scripts check/bin/python -m checks convert [NAME...]        `lora` checks the adapters only

transformers creates tiny checkpoints with random weights and the settings of published models
(`checks/published/models.py`), and `galago convert` converts them to F32. llama.cpp's logits (for encoders, its
embeddings) are compared with PyTorch's in float32, and its tokens with those of the tokenizers library, for 1,000 texts
in 22 scripts. PEFT makes the adapters. Exits with 1 if a number differs by more than a thousandth of the numbers'
standard deviation, if a text is tokenized differently except in scripts that a model names, or if something is left out
that no model names.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from galago.models.errors import GalagoError
from galago.quantize.convert import selftest
from galago.quantize.convert.conversion import convert_checkpoint
from galago.quantize.convert.gguf_writer import FloatType
from galago.quantize.convert.lora import convert_adapter
from galago.quantize.convert.probe_texts import WORDS
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.lora import LoraAdapter
from galago.runtime.llamacpp.reference import compute
from galago.runtime.llamacpp.weights import Weights

from .published.models import DECODERS, ENCODERS, Published
from .published.tokenizers import sentence_piece_model

Array = NDArray[np.float32]

TEXTS = 1000
TOLERANCE = 1e-3
"""Allowed difference, as a fraction of the outputs' standard deviation."""


def texts() -> list[tuple[str, str]]:
    """Pairs of (script, text). Each text mixes words of one script with numbers and punctuation, in NFC."""
    rng, pairs = random.Random(1), []
    for i in range(TEXTS):
        script = list(WORDS)[i % len(WORDS)]
        words = WORDS[script].split()
        picked = rng.choices(words, k=rng.randint(1, 9)) + rng.choices(["7", "2026", "x_1", "(a)"], k=1)
        marks = [" ", " ", " ", ", ", "  ", ". ", "\n", "! ", "-", "\n\n", "\t", "…"]
        pairs.append((script, "".join(word + rng.choice(marks) for word in picked)))
    return pairs


def make(folder: Path, published: Published) -> Any:
    """Writes a checkpoint as its publisher would, and returns the model that transformers reads from it."""
    tokenizer = published.tokenizer()
    config = published.config | ({} if published.config["vocab_size"] else {"vocab_size": tokenizer.get_vocab_size()})
    folder.mkdir()
    write_config = (folder / "config.json").write_text
    write_config(json.dumps(config))
    settings = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config["architectures"][0])._from_config(settings)
    randomize(model)
    model.save_pretrained(folder, max_shard_size="100KB" if published.shards else "5GB")
    write_config(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in ({"tokenizer_config.json": published.settings} | published.files).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    if published.sentence_piece:
        (folder / "tokenizer.model").write_bytes(sentence_piece_model())
    if published.rename is not None:
        path = folder / "model.safetensors"
        save_file({published.rename(name): values for name, values in load_file(path).items()}, path)
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()


def randomize(model: Any) -> None:
    torch.manual_seed(7)
    for name, weights in model.named_parameters():
        kind = 1 + 0.2 * torch.randn_like(weights) if "norm" in name.lower() and name.endswith("weight") else None
        scale = 0.1 if weights.dim() == 1 else 2.0 * weights.shape[-1] ** -0.5
        weights.data.copy_(kind if kind is not None else scale * torch.randn_like(weights))
    model.tie_weights()


def outputs(model: Any, tokens: list[int]) -> Array:
    """A decoder's logits or an encoder's vectors, shape [tokens, width]."""
    with torch.inference_mode():
        if model.config.model_type == "bert":
            encoder = getattr(model, "bert", model)
            return np.asarray(encoder(torch.tensor([tokens])).last_hidden_state[0].numpy())
        return np.asarray(model(torch.tensor([tokens])).logits[0].numpy())


def round_gelu(model: Any) -> bool:
    """Rounds the results of GELU as llama.cpp does, which looks them up in half precision (`ggml_vec_gelu_f32` in
    ggml/src/ggml-cpu/vec.h). Returns whether the model has any."""

    def rounded(values: Any) -> Any:
        found = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
        return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, found))

    places = [(module, name) for module in model.modules() for name in ("act_fn", "intermediate_act_fn")
              if "gelu" in type(getattr(module, name, None)).__name__.lower()]  # fmt: skip
    for module, name in places:
        delattr(module, name)
        setattr(module, name, rounded)
    return bool(places)


def tokens_for(weights: Weights) -> list[int]:
    return [int(i) for i in np.linspace(0, weights.vocab_size - 1, 32)]


def run(name: str, published: Published) -> bool:
    with tempfile.TemporaryDirectory() as place:
        with contextlib.redirect_stdout(io.StringIO()):
            model = make(Path(place) / "checkpoint", published)
        target = Path(place) / "made.gguf"
        made = convert_checkpoint(Path(place) / "checkpoint", target, FloatType.F32, False, False, no_progress)
        weights = Weights(target)
        ours, theirs = compute(weights, tokens_for(weights)), outputs(model, tokens_for(weights))
        exact = difference = float(np.abs(ours - theirs).max())
        if round_gelu(model):
            difference = float(np.abs(ours - outputs(model, tokens_for(weights))).max())
        weights.close()
    result, left_out = made.selftest, "; ".join(made.left_out)
    scripts = {script for script, _ in result.mismatches}
    tokenized = f"{len(result.mismatches)} of {result.texts} texts differ {', '.join(sorted(scripts))}".strip()
    gelu = f" (with exact GELU {exact:.1e})" if exact != difference else ""
    print(f"{name:<32} off by {difference:.1e} of {theirs.std():.2f}{gelu}, {tokenized}", flush=True)
    if left_out:
        print(f"{'':<32} left out: {left_out}", flush=True)
    tokens_agree = scripts <= published.scripts and result.texts == TEXTS
    as_expected = published.left_out in left_out and bool(left_out) == bool(published.left_out)
    return difference < TOLERANCE * theirs.std() and tokens_agree and as_expected


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("Llama-3.1-8B", {"target_modules": LINEAR}),
    "rsLoRA": ("Qwen3-8B", {"target_modules": LINEAR, "use_rslora": True}),
    "ranks and alphas": (
        "Llama-2-7b",
        {
            "target_modules": LINEAR,
            "rank_pattern": {"q_proj": 2, r".*\.1\.mlp\.down_proj": 16},
            "alpha_pattern": {"^model.layers.2.self_attn.k_proj": 3},
        },
    ),
    "some layers": ("Qwen2.5-7B with yarn", {"target_modules": ["v_proj"], "layers_to_transform": [0, 3]}),
    "output matrix": ("Mistral-7B-v0.3", {"target_modules": ["q_proj", "lm_head"]}),
    "embeddings": ("Llama-2-7b", {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "gemma": ("gemma-3-1b-it", {"target_modules": LINEAR}),
    "granite": ("granite-3.3-2b", {"target_modules": LINEAR}),
    "smollm3": ("SmolLM3-3B", {"target_modules": LINEAR}),
    "orthogonal": ("Qwen3-0.6B", {"target_modules": LINEAR, "init_lora_weights": "orthogonal"}),
}
"""Adapter -> the model it is for, and PEFT's settings."""


def run_adapter(name: str, base: str, settings: dict[str, Any]) -> bool:
    """Checks an adapter that the PEFT library writes, with random weights."""
    with tempfile.TemporaryDirectory() as place:
        folder, lora = Path(place) / "checkpoint", Path(place) / "lora"
        with contextlib.redirect_stdout(io.StringIO()):
            make(folder, DECODERS[base])
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            model = peft.get_peft_model(model, peft.LoraConfig(**{"r": 8, "lora_alpha": 24} | settings))
            for parameter, weights in model.named_parameters():
                if "lora_" in parameter:
                    weights.data.copy_(0.1 * torch.randn_like(weights))
            model.eval().save_pretrained(lora)
            round_gelu(model)
        made = convert_checkpoint(folder, Path(place) / "made.gguf", FloatType.F32, False, False, no_progress)
        adapter = convert_adapter(lora, folder, Path(place) / "lora.gguf", FloatType.F32, False, no_progress, True)
        loaded = Weights(made.path)
        tokens = tokens_for(loaded)
        theirs = outputs(model, tokens)
        ours = compute(loaded, tokens, [LoraAdapter(adapter.path, loaded)])
        change = float(np.abs(theirs - compute(loaded, tokens)).max())
    difference = float(np.abs(ours - theirs).max())
    print(f"{f'{name} on {base}':<40} off by {difference:.1e}, the adapter changes {change:.1e}", flush=True)
    return difference < TOLERANCE * float(theirs.std()) < change


def attempt(name: str, check: Callable[[], bool]) -> bool:
    try:
        return check()
    except GalagoError as error:
        print(f"{name:<32} {error.message}", flush=True)
        return False


def main(arguments: list[str]) -> int:
    setattr(selftest, "probe_texts", texts)  # noqa: B010
    transformers.utils.logging.disable_progress_bar()
    passed = []
    for name, published in (DECODERS | ENCODERS).items():
        if not arguments or any(word in name for word in arguments):
            passed.append(attempt(name, lambda n=name, p=published: run(n, p)))  # type: ignore[misc]
    for name, (base, settings) in ADAPTERS.items():
        if not arguments or "lora" in arguments:
            passed.append(attempt(name, lambda n=name, b=base, s=settings: run_adapter(n, b, s)))  # type: ignore[misc]
    print(f"{sum(passed)} of {len(passed)} agree")
    return 0 if all(passed) else 1
