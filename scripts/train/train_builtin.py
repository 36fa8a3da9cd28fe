"""Trains the built-in model from scratch and exports it. Needs PyTorch (`pip install -e .[train]`).

    scripts/train/train_builtin.py train --minutes 60      continues from its checkpoint; repeat as needed
    scripts/train/train_builtin.py train --minutes 10 --finish      decays the learning rate; keeps the checkpoint
    scripts/train/train_builtin.py export                  writes F16 and Q8_0 pairs and compares them with PyTorch

A group of batches depends only on the seed and its number, so a rerun sees the same samples. A run that continues from
a checkpoint starts with the next group. The first run synthesizes the speech clips (espeak-ng and flite; three minutes
for 16,000).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from galago.quantize.variants.schemes import find
from galago.runtime.llamacpp.quantizer import quantize
from omni.agreement import compare
from omni.batches import GROUP, IGNORED, Batch, Group, Source, stream
from omni.config import CHUNK_TOKENS, Config
from omni.export import export
from omni.network import Omni
from omni.tokenizer import learn
from world import Maker, Sample, Split
from world import text as world_text
from world.lexicon import BEYOND, SPOKEN
from world.pictures import FACTS, MARKS

WARMUP, DEV_SAMPLES, FIRST_REPORT = 200, 1500, 20_000
COMPARED_GROUPS = 6
"""Groups of the development set, enough for more than 1,000 positions per modality."""
FACTS_WEIGHT, MARKS_WEIGHT, WORDS_WEIGHT = 10.0, 30.0, 0.3
"""Weights of the labeling losses. The first two are means over hundreds of labels, and therefore small."""


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
    parser.add_argument("--finish", action="store_true", help="let the learning rate fall to zero during this run")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens in a batch, padding included")
    parser.add_argument("--rate", type=float, default=4e-4, help="learning rate of AdamW; Muon's is twice that")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=16_000)
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare batches")
    parser.add_argument("--threads", type=int, default=1, help="threads PyTorch computes with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Losses(NamedTuple):
    """Losses of answers, image labels, image part labels and spoken words; and the answers' logits."""

    answer: Tensor
    facts: Tensor
    marks: Tensor
    words: Tensor
    logits: Tensor


_labelled = F.binary_cross_entropy_with_logits


class Training:
    """The network, its optimizers and its progress."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.config = Config()
        self.device = torch.device(options.device)
        self.half = self.device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.net = Omni(self.config, len(FACTS), len(MARKS), len(SPOKEN)).to(self.device)
        inner: list[Tensor] = []
        matrices: list[Tensor] = []
        vectors: list[Tensor] = []
        for name, parameter in self.net.named_parameters():
            (vectors if parameter.ndim < 2 else inner if "blk" in name else matrices).append(parameter)
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(inner, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, betas=(0.9, 0.95)),
        )
        self.step = self.samples = self.group = 0

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.net.load_state_dict(saved["net"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.samples, self.group = saved["step"], saved["samples"], saved["group"] + 1

    def save(self, path: Path) -> None:
        state = {"net": self.net.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        torch.save(state | {"step": self.step, "samples": self.samples, "group": self.group}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    def learn(self, batch: Batch, rate: float) -> Losses:
        for optimizer, scale in zip(self.optimizers, (2, 1), strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            losses = self.losses(batch)
            loss = losses.answer + FACTS_WEIGHT * losses.facts + MARKS_WEIGHT * losses.marks
            loss = loss + WORDS_WEIGHT * losses.words
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return losses

    def losses(self, batch: Batch) -> Losses:
        images, facts, marks = self._see(batch)
        sounds, words = self._hear(batch)
        tokens, targets = (torch.from_numpy(a).to(self.device) for a in (batch.tokens, batch.targets))
        logits = self.net(self.net.embed(tokens, images, sounds))
        answer = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
        return Losses(answer, facts, marks, words, logits)

    def _see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        zero = torch.zeros((), device=self.device)
        if not len(batch.pictures):
            return torch.zeros(0, device=self.device), zero, zero
        seen = self.net.eye(torch.from_numpy(batch.pictures).to(self.device))
        whole, parts = self.net.facts(seen.flatten(1)).float(), self.net.marks(seen).float()
        facts, marks = (torch.from_numpy(labels).to(self.device) for labels in (batch.facts, batch.marks))
        return seen, _labelled(whole, facts), _labelled(parts, marks)

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
        print(f"continuing from {training.samples} samples", flush=True)
    development = _development(options, training.config)
    source = replace(development, split=Split.TRAIN, clip_count=options.clips)
    begin = said = saved = time.monotonic()
    for batch, samples in _batches(training, stream(source, training.group, options.workers)):
        passed = (time.monotonic() - begin) / 60
        if passed > options.minutes:
            break
        rate = options.rate * min(1, (training.step + 1) / WARMUP)
        if options.finish:
            rate *= 1 - passed / options.minutes
        losses = training.learn(batch, rate)
        training.samples += len(samples)
        if not torch.isfinite(losses.answer):
            raise SystemExit(f"the loss is {losses.answer} at step {training.step}; the last checkpoint stands")
        if time.monotonic() - said > 30:
            shown = ", ".join(f"{name} {getattr(losses, name).item():.3f}" for name in Losses._fields[:-1])
            print(f"{passed:.1f} min, step {training.step}, {training.samples} samples: {shown}", flush=True)
            said = time.monotonic()
        if time.monotonic() - saved > 300 and not options.finish:
            training.save(checkpoint)
            saved = time.monotonic()
        if _doubled(training.samples, training.samples - len(samples)):
            _report(training, development, log)
    training.save(options.out / "finished.pt" if options.finish else checkpoint)
    _report(training, development, log, finish=options.finish)


def _batches(training: Training, groups: Iterator[Group]) -> Iterator[tuple[Batch, list[Sample]]]:
    for group in groups:
        yield from group
        training.group += 1


def _doubled(now: int, before: int) -> bool:
    """Whether training has reached 20,000, 40,000, 80,000 ... samples."""
    return now >= FIRST_REPORT and math.log2(now / FIRST_REPORT) // 1 > math.log2(max(before, 1) / FIRST_REPORT) // 1


def _report(training: Training, development: Source, log: Path, finish: bool = False) -> None:
    entry = {"samples": training.samples, "finish": finish} | evaluate(training, development)
    with log.open("a") as out:
        out.write(json.dumps(entry) + "\n")
    print(json.dumps(entry), flush=True)


@torch.no_grad()
def evaluate(training: Training, source: Source) -> dict[str, Any]:
    """Loss and exact answers on the development set, by task. An answer is exact if each token has the top logit."""
    training.net.eval()
    make = source.open()
    right: dict[str, list[bool]] = defaultdict(list)
    loss = []
    for batch, samples in itertools.chain.from_iterable(map(make, range(-(-DEV_SAMPLES // GROUP)))):
        losses = training.losses(batch)
        loss.append(float(losses.answer))
        guess, targets = losses.logits.argmax(-1).cpu().numpy()[: len(samples)], batch.targets[: len(samples)]
        earlier = np.arange(targets.shape[1]) < batch.last[:, None]
        exact = ((guess == targets) | (targets == IGNORED) | earlier).all(1)
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
        size=options.tokens,
    )


def write_files(options: argparse.Namespace) -> None:
    training = Training(options)
    best = options.out / "finished.pt"
    training.load(best if best.exists() else options.out / "checkpoint.pt")
    _export_pair(training.net, options)
    for kind in ("text", "mmproj"):
        quantize(options.out / f"{kind}-F16.gguf", options.out / f"{kind}-Q8_0.gguf", find("Q8_0").ftype)
    training.net.eval()
    batches = _development_logits(training, _development(options, training.config))
    agreement = compare(batches, options.out / "text-F16.gguf", options.out / "mmproj-F16.gguf")
    report = {
        "samples": training.samples,
        "config": asdict(training.config),
        "bytes": {path.name: path.stat().st_size for path in sorted(options.out.glob("*.gguf"))},
        "agreement": agreement,
    }
    print(json.dumps(report, indent=1))


@torch.no_grad()
def _development_logits(training: Training, source: Source) -> Iterator[tuple[Tensor, Batch, list[Sample]]]:
    make = source.open()
    for batch, samples in itertools.chain.from_iterable(map(make, range(COMPARED_GROUPS))):
        yield training.losses(batch).logits, batch, samples


def _export_pair(net: Omni, options: argparse.Namespace) -> None:
    vocabulary = learn(_corpus(options.seed), net.c.vocabulary)
    export(net, vocabulary, options.out / "text-F16.gguf", options.out / "mmproj-F16.gguf")


def _corpus(seed: int) -> list[str]:
    """Questions and answers from which the vocabulary's merges are learned."""
    rng = Random(seed)
    quiet = np.zeros(16_000, np.float32)
    silent = Maker(rng, Split.TRAIN, lambda _: ("", quiet), {"text": 1, "image": 1}, cut=frozenset())
    samples: list[Sample] = [silent.sample() for _ in range(4000)]
    asked = [p for s in samples for t in s.turns for p in (t.role, *t.parts) if isinstance(p, str)]
    return [*asked, *(s.answer for s in samples), *BEYOND, *SPOKEN, *world_text.TASKS]


if __name__ == "__main__":
    main()
