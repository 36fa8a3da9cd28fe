"""Trains the built-in model from nothing, on its own world, and exports it. Needs PyTorch (`pip install -e .[train]`).

    scripts/train_builtin.py train --minutes 60      again and again: it goes on from its checkpoint
    scripts/train_builtin.py train --minutes 10 --finish      lets the learning rate fall, beside the checkpoint
    scripts/train_builtin.py export                  writes F16 and Q8_0 pairs and compares them with PyTorch

A group of batches depends on the seed and its number alone, so a rerun sees the same samples; going on from a
checkpoint begins with the next group. Speech comes from a store of clips that is spoken on the first run (espeak-ng and
flite; two to three minutes for 12,000).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from galago.quantize.schemes import find
from galago.runtime.native.quantizer import quantize
from omni.agreement import compare
from omni.batches import GROUP, IGNORED, Batch, Source, stream
from omni.config import CHUNK_TOKENS, Config
from omni.export import export
from omni.network import Omni
from omni.tokenizer import learn
from world import Maker, Sample, Split
from world import text as world_text
from world.lexicon import BEYOND, SPOKEN
from world.pictures import FACTS

WARMUP, DEV_SAMPLES = 300, 1500
FACTS_WEIGHT, WORDS_WEIGHT = 20.0, 0.3
"""Of the labelling losses beside that of the answers; the mean over hundreds of labels makes the first one small."""


def main() -> None:
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    {"train": train, "export": write_files}[options.action](options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train", "export"))
    parser.add_argument("--out", type=Path, default=Path("build/builtin"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--finish", action="store_true", help="let the learning rate fall to nothing over this run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=12_000)
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches")
    parser.add_argument("--threads", type=int, default=1, help="threads PyTorch computes with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Training:
    """The network with its optimizer, and how far it has come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.config = Config()
        self.device = torch.device(options.device)
        self.net = Omni(self.config, len(FACTS), len(SPOKEN)).to(self.device)
        matrices = [p for p in self.net.parameters() if p.ndim >= 2]
        vectors = [p for p in self.net.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95))
        self.step = self.samples = 0

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.samples = saved["step"], saved["samples"]

    def save(self, path: Path) -> None:
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "samples": self.samples}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    def learn(self, batch: Batch, rate: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            answer, facts, words, _ = self.losses(batch)
            loss = answer + FACTS_WEIGHT * facts + WORDS_WEIGHT * words
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += len(batch.tokens)
        return {"answer": answer.item(), "facts": facts.item(), "words": words.item()}

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss of the answers, of the pictures' labels, of the words said; and the answers' logits."""
        images, facts = self._see(batch)
        sounds, words = self._hear(batch)
        tokens, targets = (torch.from_numpy(a).to(self.device) for a in (batch.tokens, batch.targets))
        logits = self.net(self.net.embed(tokens, images, sounds))
        answer = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
        return answer, facts, words, logits

    def _see(self, batch: Batch) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), device=self.device)
        if not len(batch.pictures):
            return torch.zeros(0, device=self.device), zero
        seen = self.net.eye(torch.from_numpy(batch.pictures).to(self.device))
        labels = self.net.facts(seen.flatten(1)).float()
        return seen, F.binary_cross_entropy_with_logits(labels, torch.from_numpy(batch.facts).to(self.device))

    def _hear(self, batch: Batch) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), device=self.device)
        if not len(batch.sounds):
            return torch.zeros(0, device=self.device), zero
        chunks = torch.from_numpy(batch.chunks).to(self.device)
        heard = self.net.ear(torch.from_numpy(batch.sounds).to(self.device), chunks)
        said = self.net.words(heard).float().log_softmax(-1).transpose(0, 1)
        words, counts = (torch.from_numpy(a).to(self.device) for a in (batch.words, batch.word_counts))
        loss = F.ctc_loss(said, words, chunks * CHUNK_TOKENS, counts, zero_infinity=True)
        real = torch.arange(heard.shape[1], device=self.device) < (chunks * CHUNK_TOKENS)[:, None]
        return heard[real], loss


def train(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = options.out / "checkpoint.pt", options.out / "log.jsonl"
    training = Training(options)
    _export_pair(training.net, options)
    if checkpoint.exists():
        training.load(checkpoint)
        print(f"going on from {training.samples} samples", flush=True)
    development = _development(options, training.config)
    source = replace(development, split=Split.TRAIN, clip_count=options.clips)
    batches = stream(source, -(-training.step // GROUP), options.workers)
    begin = said = saved = time.monotonic()
    while (passed := (time.monotonic() - begin) / 60) < options.minutes:
        rate = options.rate * min(1, (training.step + 1) / WARMUP)
        if options.finish:
            rate *= 1 - passed / options.minutes
        losses = training.learn(next(batches), rate)
        if not math.isfinite(losses["answer"]):
            raise SystemExit(f"the loss is {losses['answer']} at step {training.step}; the last checkpoint stands")
        if time.monotonic() - said > 30:
            shown = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            print(f"{passed:.1f} min, step {training.step}, {training.samples} samples: {shown}", flush=True)
            said = time.monotonic()
        if time.monotonic() - saved > 300 and not options.finish:
            training.save(checkpoint)
            saved = time.monotonic()
    training.save(options.out / "finished.pt" if options.finish else checkpoint)
    entry = evaluate(training, development)
    with log.open("a") as out:
        out.write(json.dumps({"samples": training.samples, "finish": options.finish} | entry) + "\n")
    print(json.dumps(entry, indent=1))


@torch.no_grad()
def evaluate(training: Training, source: Source) -> dict[str, Any]:
    """Loss and exact answers on the development set, by task. An answer is exact where each token is the likeliest."""
    training.net.eval()
    make = source.open()
    right: dict[str, list[bool]] = defaultdict(list)
    loss = []
    groups = -(-DEV_SAMPLES // (source.size * GROUP))
    for batch, samples in itertools.chain.from_iterable(map(make, range(groups))):
        answer, _, _, logits = training.losses(batch)
        loss.append(float(answer))
        guess, targets = logits.argmax(-1).cpu().numpy(), batch.targets
        exact = ((guess == targets) | (targets == IGNORED)).all(1)
        for sample, ok in zip(samples, exact, strict=True):
            right[sample.task].append(bool(ok))
            right[sample.task.split("/")[0]].append(bool(ok))
    training.net.train()
    return {"loss": round(float(np.mean(loss)), 4)} | {
        task: {"right": round(float(np.mean(oks)), 3), "of": len(oks)} for task, oks in sorted(right.items())
    }


def _development(options: argparse.Namespace, config: Config) -> Source:
    return Source(
        model=options.out / "text-F16.gguf",
        config=config,
        clips=options.out,
        clip_count=options.clips // 10,
        split=Split.DEV,
        seed=options.seed,
        size=options.batch,
    )


def write_files(options: argparse.Namespace) -> None:
    training = Training(options)
    best = options.out / "finished.pt"
    training.load(best if best.exists() else options.out / "checkpoint.pt")
    _export_pair(training.net, options)
    for kind in ("text", "mmproj"):
        quantize(options.out / f"{kind}-F16.gguf", options.out / f"{kind}-Q8_0.gguf", find("Q8_0").ftype)
    make = _development(options, training.config).open()
    batch, samples = make(0)[0]
    with torch.no_grad():
        logits = training.losses(batch)[3]
    agreement = compare(logits, batch, samples, options.out / "text-F16.gguf", options.out / "mmproj-F16.gguf")
    report = {
        "samples": training.samples,
        "config": asdict(training.config),
        "bytes": {path.name: path.stat().st_size for path in sorted(options.out.glob("*.gguf"))},
        "agreement": agreement,
    }
    print(json.dumps(report, indent=1))


def _export_pair(net: Omni, options: argparse.Namespace) -> None:
    vocabulary = learn(_corpus(options.seed), net.c.vocabulary)
    export(net, vocabulary, options.out / "text-F16.gguf", options.out / "mmproj-F16.gguf")


def _corpus(seed: int) -> list[str]:
    """Questions and answers to learn the vocabulary's merges from."""
    rng = Random(seed)
    silent = Maker(rng, Split.TRAIN, lambda _: ("", np.zeros(16_000, np.float32)), {"text": 1, "image": 1})
    samples: list[Sample] = [silent.sample() for _ in range(4000)]
    asked = [p for s in samples for t in s.turns for p in (t.role, *t.parts) if isinstance(p, str)]
    return [*asked, *(s.answer for s in samples), *BEYOND, *SPOKEN, *world_text.TASKS]


if __name__ == "__main__":
    main()
