"""Distills the built-in model into a copy of it without some layers. Needs PyTorch.

    galago quantize builtin --drop-layers 1 --scheme F16 --calibration chats.zip -o pruned.gguf     prints which to drop
    scripts/train/distill.py --drop 2 --minutes 10 --out build/distilled
    scripts/check variants builtin build/distilled/text-F16.gguf pruned.gguf --data heldout.zip

The complete model is the teacher. The remaining text layers learn its token probabilities on answers from the world
that it was trained on; both share the token embeddings and the projector, which stay unchanged. Writes text-F16.gguf,
which works with the built-in projector, and prints the divergence before and after.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from galago.models.registry.resolve import builtin_folder
from omni import export
from omni.batches import IGNORED, Batch, Source, stream
from omni.config import Config
from omni.network import Omni
from omni.tokenizer import Vocabulary
from world import Split
from world.lexicon import SPOKEN
from world.pictures import FACTS, MARKS

WARMUP, DEV_GROUPS = 20, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drop", type=int, action="append", required=True, metavar="LAYER", help="may be repeated")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=4e-4, help="learning rate, which decreases to zero")
    parser.add_argument("--out", type=Path, default=Path("build/distilled"))
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    text, projector = (builtin_folder() / f"{kind}-F16.gguf" for kind in ("text", "mmproj"))
    teacher = Omni(Config(), len(FACTS), len(MARKS), len(SPOKEN)).eval().requires_grad_(False)
    export.load(teacher, text, projector)
    student = Student(teacher, options.drop)
    source = Source(text, teacher.c, options.out, options.clips, Split.TRAIN, options.seed, 3072)
    development = replace(source, split=Split.DEV, clip_count=max(1, options.clips // 10))
    results = {"dropped": sorted(options.drop), "before": measure(teacher, student, development)}
    print(json.dumps(results), flush=True)
    samples = train(teacher, student, source, options)
    results |= {"samples": samples, "after": measure(teacher, student, development)}
    print(json.dumps(results), flush=True)
    teacher.blk, teacher.output_norm = student.blk, student.norm
    teacher.c = replace(teacher.c, layers=len(student.blk))
    export.export(teacher, vocabulary(text), options.out / "text-F16.gguf", options.out / "mmproj-F16.gguf")


class Student(nn.Module):
    """The teacher's layers without the dropped ones, and its last norm; all are trained."""

    def __init__(self, teacher: Omni, dropped: list[int]) -> None:
        super().__init__()
        kept = [block for i, block in enumerate(teacher.blk) if i not in dropped]
        self.blk = nn.ModuleList(copy.deepcopy(block) for block in kept).requires_grad_(True)
        self.norm = copy.deepcopy(teacher.output_norm).requires_grad_(True)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        for block in self.blk:
            x = block(x)
        return F.linear(self.norm(x), table)


def train(teacher: Omni, student: Student, source: Source, options: argparse.Namespace) -> int:
    matrices = [p for p in student.parameters() if p.ndim == 2]
    optimizers = (
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in student.parameters() if p.ndim < 2], betas=(0.9, 0.95), weight_decay=0.0),
    )
    begin = reported = time.monotonic()
    step = samples = 0
    for batch, drawn in itertools.chain.from_iterable(stream(source, 0, 1)):
        passed = (time.monotonic() - begin) / 60
        if passed > options.minutes:
            break
        loss, _, _ = compare(teacher, student, batch)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = options.rate * min(1, (step + 1) / WARMUP) * (1 - passed / options.minutes)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step, samples = step + 1, samples + len(drawn)
        if time.monotonic() - reported > 30:
            print(f"{passed:.1f} min, step {step}, {samples} samples: {loss.item():.4f} nats", flush=True)
            reported = time.monotonic()
    return samples


def compare(teacher: Omni, student: Student, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Mean divergence in nats over answer tokens, and where the teacher's and the student's top tokens are right."""
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        with torch.no_grad():
            x = teacher.embed(torch.from_numpy(batch.tokens), _seen(teacher, batch), _heard(teacher, batch))
            theirs = teacher(x)
        ours = student(x, teacher.token_embd.weight)
    targets = torch.from_numpy(batch.targets)
    is_answer = targets != IGNORED
    p, q = (logits[is_answer].float().log_softmax(-1) for logits in (theirs, ours))
    loss = F.kl_div(q, p, log_target=True, reduction="batchmean")
    return loss, p.argmax(-1) == targets[is_answer], q.argmax(-1) == targets[is_answer]


def _seen(net: Omni, batch: Batch) -> Tensor:
    return net.eye(torch.from_numpy(batch.pictures)) if len(batch.pictures) else torch.zeros(0)


def _heard(net: Omni, batch: Batch) -> Tensor:
    if not len(batch.sounds):
        return torch.zeros(0)
    chunks = torch.from_numpy(batch.chunks)
    heard = net.ear(torch.from_numpy(batch.sounds), chunks)
    tokens = heard.shape[1] // batch.sounds.shape[1]
    return torch.as_tensor(heard[torch.arange(heard.shape[1]) < (chunks * tokens)[:, None]])


@torch.no_grad()
def measure(teacher: Omni, student: Student, source: Source) -> dict[str, float]:
    make = source.open()
    rows = [compare(teacher, student, batch) for group in range(DEV_GROUPS) for batch, _ in make(group)]
    counts = np.array([len(theirs) for _, theirs, _ in rows])
    nats = float(np.average([loss.item() for loss, _, _ in rows], weights=counts))
    right = [float(torch.cat([row[i] for row in rows]).float().mean()) for i in (1, 2)]
    return {"nats": round(nats, 4), "teacher_right": round(right[0], 4), "student_right": round(right[1], 4)}


def vocabulary(text: Path) -> Vocabulary:
    from gguf import GGUFReader

    fields = GGUFReader(text).fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges"))
    return Vocabulary(tuple(tokens), tuple(types), tuple(merges))


if __name__ == "__main__":
    main()
