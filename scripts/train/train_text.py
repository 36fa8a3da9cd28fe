"""Trains a small text model on freely licensed text, to measure quantization on a second model.

    scripts/train/train_text.py --out build/text          continues from its checkpoint; repeat as needed
    galago convert build/text/hf -o build/text/text-F16.gguf

Needs PyTorch and tokenizers (`pip install -e .[train,convert]`). Writes a Hugging Face checkpoint of a Llama with 6.8
million weights, rows of multiples of 256, and a vocabulary of 4,096. It reads each window of text at most once. The
order depends only on the packages (`texts.py`) and the seed. Held-out texts are written next to the checkpoint as
manuals.txt, prose.txt and dictionaries.txt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

import texts
from omni.config import Config
from omni.network import RMSNorm, TextBlock

WINDOW, BATCH, WARMUP = 512, 8, 100
END = "<|endoftext|>"
CONFIG = Config(layers=6, feed_forward=768, context=1024, vocabulary=4096)


class Text(nn.Module):
    """A Llama with separate input and output embeddings."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(c.vocabulary, c.width)
        self.blk = nn.ModuleList(TextBlock(c) for _ in range(c.layers))
        self.output_norm = RMSNorm(c.width, 1e-5)
        self.output = nn.Linear(c.width, c.vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * c.layers) ** 0.5 if last else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x)
        return torch.as_tensor(self.output(self.output_norm(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/text"))
    parser.add_argument("--steps", type=int, default=2400, help=f"batches of {BATCH} windows of {WINDOW} tokens")
    parser.add_argument("--until", type=int, help="stop after this many of the --steps")
    parser.add_argument("--rate", type=float, default=2e-3, help="of Muon and AdamW; decays in the second half")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    tokens, held_out = data(options.out)
    net = Text(CONFIG).to(options.device)
    print(f"{sum(p.numel() for p in net.parameters()):,} weights, {len(tokens):,} tokens of text")
    train(net, tokens, held_out, options)
    export(net, options.out)


def data(out: Path) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Training and held-out tokens. The first run collects the texts and trains the tokenizer."""
    kept, tokenizer = out / "tokens.npz", out / "hf" / "tokenizer.json"
    if not kept.exists():
        pieces = list(texts.collect(out / "packages"))
        tokenizer.parent.mkdir(exist_ok=True)
        _tokenizer(piece.text for piece in pieces if not piece.held_out).save(str(tokenizer))
        made = Tokenizer.from_file(str(tokenizer))
        by_domain: dict[str, list[str]] = defaultdict(list)
        for piece in pieces:
            if piece.held_out:
                by_domain[piece.domain].append(piece.text)
        for domain, found in by_domain.items():
            (out / f"{domain}.txt").write_text("\n\n".join(found), encoding="utf-8")
        learned = [p.text + END for p in pieces if not p.held_out]
        sample = [p.text + END for p in pieces if p.held_out][::4]
        arrays = [np.concatenate([np.array(e.ids, np.uint16) for e in made.encode_batch(t)]) for t in (learned, sample)]
        np.savez(kept, learned=arrays[0], held_out=arrays[1])
    found = np.load(kept)
    return found["learned"], found["held_out"]


def _tokenizer(pieces: Iterator[str]) -> Tokenizer:
    """Trains a byte-level BPE with GPT-2's pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=CONFIG.vocabulary, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(pieces, trainer)
    return tokenizer


def train(net: Text, tokens: NDArray[np.uint16], held_out: NDArray[np.uint16], options: argparse.Namespace) -> None:
    inner = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("blk")]
    outer = [p for name, p in net.named_parameters() if p.ndim < 2 or not name.startswith("blk")]
    optimizers = (
        torch.optim.Muon(inner, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, betas=(0.9, 0.95), weight_decay=0.0),
    )
    checkpoint, step = options.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=options.device)
        net.load_state_dict(saved["net"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step = saved["step"]
    order = np.random.default_rng(options.seed).permutation((len(tokens) - 1) // WINDOW)
    if options.steps * BATCH > len(order):
        raise SystemExit(f"the texts suffice for {len(order) // BATCH} steps")
    begin = time.monotonic()
    last = min(options.steps, options.until or options.steps)
    while step < last:
        rate = options.rate * min(1, (step + 1) / WARMUP, 2 * (1 - step / options.steps))
        loss = _loss(net, _windows(tokens, order[step * BATCH : (step + 1) * BATCH]))
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {loss} at step {step}; the last checkpoint stands")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        step += 1
        if step % 20 == 0:
            print(f"{(time.monotonic() - begin) / 60:.1f} min, step {step}: {loss.item():.3f}", flush=True)
        if step % 100 == 0 or step == last:
            state = {"net": net.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
        if step % 400 == 0 or step == last:
            print(f"step {step}: {evaluate(net, held_out):.3f} nats a token of held-out text", flush=True)


def _windows(tokens: NDArray[np.uint16], which: NDArray[np.int64]) -> Tensor:
    rows = [tokens[i * WINDOW : (i + 1) * WINDOW + 1] for i in which]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def _loss(net: Text, windows: Tensor) -> Tensor:
    device = net.output.weight.device
    windows = windows.to(device)
    halves = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=halves):
        logits = net(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(net: Text, held_out: NDArray[np.uint16]) -> float:
    count = (len(held_out) - 1) // WINDOW
    batches = np.array_split(np.arange(count), -(-count // BATCH))[:16]
    return float(np.mean([_loss(net, _windows(held_out, batch)).item() for batch in batches]))


def export(net: Text, out: Path) -> None:
    """Writes a checkpoint as transformers does. Its rotary embedding pairs halves of a head, ours pairs neighbors."""
    from safetensors.torch import save_file

    c = net.blk[0].c
    assert isinstance(c, Config)
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
        "token_embd": "embed_tokens", "output_norm": "norm",
    }  # fmt: skip
    weights = {}
    for name, tensor in net.state_dict().items():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = tensor.unflatten(0, (-1, c.head_width // 2, 2)).transpose(1, 2).flatten(0, 2)
        *layer, kind, _ = name.split(".")
        where = f"layers.{layer[1]}." if layer else ""
        key = "lm_head.weight" if kind == "output" else f"model.{where}{names[kind]}.weight"
        weights[key] = tensor.half().cpu().contiguous()
    folder = out / "hf"
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": c.width,
        "intermediate_size": c.feed_forward, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "vocab_size": c.vocabulary, "max_position_embeddings": c.context,
        "rms_norm_eps": 1e-5, "rope_theta": c.rope_base, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "eos_token": END, "bos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    print(f"{folder} is a checkpoint; galago convert {folder} -o {out / 'text-F16.gguf'}")


if __name__ == "__main__":
    main()
