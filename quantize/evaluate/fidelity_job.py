"""A program that compares one variant's probabilities with the baseline's: `python -m ...fidelity_job JOB`.

JOB is a `Job` as JSON. The baseline's own run writes its probabilities, two bytes a token, into `rows` and what it made
of each passage into `records`; any other run reads them and writes records of its own. Every record is a line, written
when its passage is done, so that a run that was ended goes on behind the last one. Prints `DONE TOTAL` after each. A
program of its own, because llama.cpp ends the process on some files, and because one that has ended gives memory back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ...models import units
from ...models.errors import ConfigError, GalagoError, InvalidRequest, ModelError
from ...models.files import ModelFiles
from ...models.registry.resolve import resolve
from ...runtime.cache.disk_cache import DiskCache
from ...runtime.config import default_threads
from ...runtime.engine.thread_tuner import ThreadTuner
from ...runtime.inference.generator import CHATML
from ...runtime.llamacpp.context import BATCH, Context
from ...runtime.llamacpp.devices import gpus
from ...runtime.llamacpp.library import build_info
from ...runtime.llamacpp.projector import MediaChunk, Projector, embedded_by, encode_first
from ...runtime.llamacpp.weights import Weights
from ...runtime.media.decode import MediaLimits
from ...runtime.process.spawn import python_command
from ...runtime.prompt.builder import PromptBuilder
from ...runtime.prompt.template import ChatTemplate
from ...runtime.types.messages import Message
from ...runtime.types.prompt import BatchToken, Item, MediaSpan
from ..records import Record, Records
from . import passages as sets
from .fidelity import Floats, divergence, log_probs, pack, unpack
from .passages import Passage

CELLS = 4096
STRETCH = 512
"""Tokens of plain text read at a time, of which the second half counts, as in llama-perplexity."""

_SHORTEST = 16
_MEDIA = 1 << 30
"""Bytes of encoded media on disk."""
_LOGITS = 64 << 20
"""Bytes of logits that a step may leave."""
_BLOCK = 10 << 20
"""Bytes of the logits that are compared at a time: at a vocabulary of 150,000 those of 17 rows."""


@dataclass(frozen=True, slots=True)
class FidelityJob:
    """`rows` and `base` are the baseline's files; `base` is empty in the baseline's own run. `most` bounds the
    questions of each group and the stretches of each text. `media` is a folder for encoded pictures and sounds, which
    are the same for every model beside one projector; empty for none."""

    weights: str
    projector: str
    questions: tuple[str, ...]
    texts: tuple[str, ...]
    most: int
    rows: str
    base: str
    records: str
    threads: int | None = None
    gpu_layers: int = -1
    media: str = ""


class Stretch(NamedTuple):
    """Items for the model to read, in which `targets` stand behind position `first` and its successors."""

    items: tuple[Item, ...]
    first: int
    targets: tuple[int, ...]

    @property
    def rows(self) -> int:
        return len(self.items) - self.first


class Reader:
    """A loaded variant that turns passages into stretches, and those into logits."""

    def __init__(self, files: ModelFiles, threads: int | None, gpu_layers: int, media: str = "") -> None:
        most = threads or default_threads()
        self.weights = Weights(files.weights, gpu_layers)
        cells = min(self.weights.context_length, CELLS)
        self._block = max(1, _BLOCK // (4 * self.weights.vocab_size))
        self._wanted = max(1, min(BATCH, _LOGITS // (4 * self.weights.vocab_size)))
        self._context = Context(self.weights, cells, 1, most, guesses=self._wanted - 1)
        self._governor = ThreadTuner(most) if threads is None else None
        self.projector, self._store = None, None
        if files.projector is not None:
            largest, use_gpu = min(BATCH, cells), gpu_layers != 0 and bool(gpus())
            if media:  # what cannot be kept is computed again
                made_by = (*embedded_by(files.projector, use_gpu), build_info())
                self._store = DiskCache(Path(media), made_by, _MEDIA, lambda _: None)
            self.projector = Projector(
                files.projector, self.weights, most, largest, use_gpu, cache_bytes=64 << 20, store=self._store
            )
        source = files.header.chat_template or CHATML
        template = ChatTemplate(source, self.weights.text_of(self.weights.bos), self.weights.text_of(self.weights.eos))
        self._prompts = PromptBuilder(self.weights, self.projector, template, source, MediaLimits(), cells)

    def close(self) -> None:
        """Writes what is still waiting to be kept."""
        if self._store is not None:
            self._store.close()

    def has(self, sense: sets.Sense) -> bool:
        vision = self.projector is not None and self.projector.vision
        audio = self.projector is not None and self.projector.audio
        return {"text": True, "image": vision, "audio": audio, "both": vision and audio}[sense]

    def stretches(self, text: str, most: int) -> list[Stretch]:
        """Plain text as llama-perplexity cuts it: every stretch begins as a text does, the rest is not read."""
        begin = [self.weights.bos] if self.weights.adds_bos else []
        tokens = begin + self.weights.tokenize(text, parse_special=False)
        if len(tokens) < _SHORTEST:
            raise ConfigError(f"a text of {len(tokens)} tokens is too short to compare on", "text")
        size = min(STRETCH, len(tokens))
        cut = [begin + tokens[i + len(begin) : i + size] for i in range(0, len(tokens) - size + 1, size)][:most]
        return [Stretch(tuple(piece[:-1]), size // 2, tuple(piece[size // 2 + 1 :])) for piece in cut]

    def answer(self, messages: Sequence[Message], answer: str) -> Stretch:
        prompt = self._prompts.build(messages, effort=None)
        said = tuple(self.weights.tokenize(answer, parse_special=False))
        return Stretch((*prompt.items, *said), len(prompt.items) - 1, said)

    def logits(self, stretch: Stretch) -> Iterator[Floats]:
        """Of every row from `first` on, in blocks that are the caller's."""
        self._context.cut(0, 0)
        position, waiting, wanted = 0, list[BatchToken](), 0
        for index, item in enumerate(stretch.items):
            if isinstance(item, MediaSpan):
                yield from self._compute(waiting)
                waiting = []
                self._see(item, position)
                position += item.positions
                continue
            if len(waiting) == BATCH or wanted == self._wanted:
                yield from self._compute(waiting)
                waiting, wanted = [], 0
            wants = index >= stretch.first
            waiting.append(BatchToken(item, position, 0, wants))
            wanted += wants
            position += 1
        yield from self._compute(waiting)

    def _compute(self, rows: Sequence[BatchToken]) -> Iterator[Floats]:
        if not rows:
            return
        if self._governor is not None:
            self._context.use_threads(self._governor.threads(0, len(rows)))
        begin = time.perf_counter()
        self._context.decode(rows)
        wanted = [i for i, row in enumerate(rows) if row.wants_logits]
        for i in range(0, len(wanted), self._block):
            yield np.stack([self._context.logits(row) for row in wanted[i : i + self._block]])
        if self._governor is not None and not wanted:
            self._governor.measured(0, len(rows), time.perf_counter() - begin)

    def _see(self, item: MediaSpan, position: int) -> None:
        chunk = item.payload
        assert isinstance(chunk, MediaChunk)
        if not chunk.ready:
            encode_first([chunk])
        self._context.decode_media(item, position, 0)


def run(job: FidelityJob) -> None:
    """Scores every passage that has no record yet."""
    reader = Reader(resolve(job.weights, job.projector or None), job.threads, job.gpu_layers, job.media)
    work: list[tuple[str, Passage, Stretch | None]] = []
    questions, texts = (list(map(Path, names)) for names in (job.questions, job.texts))
    for number, passage in enumerate(sets.gather(questions, texts, job.most)):
        if passage.messages:  # read when its turn comes: decoded pictures of all would fill the memory
            work += [(str(number), passage, None)] if reader.has(passage.sense) else []
        else:
            cut = reader.stretches(passage.answer, job.most)
            work += [(f"{number}.{part}", passage, stretch) for part, stretch in enumerate(cut)]
    records = Records(Path(job.records))
    done = len(records.found)
    if not job.base:
        rows = sum(stretch.rows if stretch else len(passage.answer) // 2 for _, passage, stretch in work)
        _check_room(job, reader, rows)
    run_one = _Variant(job, reader) if job.base else _Baseline(job, reader, records.found)
    for index, (name, passage, stretch) in enumerate(work):
        if index >= done:
            about: Record = {"id": name, "sense": passage.sense}
            try:
                records.add(about | _record(reader, run_one, name, passage, stretch))
            except InvalidRequest as error:
                if not job.base:
                    raise
                records.add(about | {"failed": error.message})
        print(index + 1, len(work), flush=True)
    reader.close()
    records.finish()


def _record(reader: Reader, run_one: Run, name: str, passage: Passage, cut: Stretch | None) -> Record:
    """Raises `InvalidRequest` where the variant cannot take the passage."""
    stretch = cut or reader.answer(passage.messages, passage.answer)
    record: Record = {"tokens": _digest(stretch)} | run_one.score(name, stretch)
    if passage.blind:
        record["blind_nll"] = _loss(reader, reader.answer(sets.blinded(passage.messages), passage.answer))
    return record


def _check_room(job: FidelityJob, reader: Reader, rows: int) -> None:
    """Raises `ConfigError` where the disk has no room for the baseline's probabilities of about so many rows."""
    needed = rows * 2 * reader.weights.vocab_size
    kept = Path(job.rows).stat().st_size if Path(job.rows).exists() else 0
    free = shutil.disk_usage(Path(job.rows).parent).free
    if needed > kept + free:
        raise ConfigError(
            f"the probabilities of {rows} tokens take about {units.size(needed)} in {Path(job.rows).parent}, and "
            f"{units.size(free)} are free; ask less (--quick), or compare on a shorter text"
        )


class Run(Protocol):
    def score(self, name: str, stretch: Stretch) -> Record: ...


class _Baseline:
    """Writes the rows; `done` are the records of those that are written already."""

    def __init__(self, job: FidelityJob, reader: Reader, done: Sequence[Record]) -> None:
        self._reader = reader
        self._file = Path(job.rows).open("r+b" if done else "wb")
        self._file.truncate(sum(record["rows"] for record in done) * 2 * reader.weights.vocab_size)
        self._file.seek(0, 2)

    def score(self, name: str, stretch: Stretch) -> Record:
        losses: list[float] = []
        for logp in map(log_probs, self._reader.logits(stretch)):
            self._file.write(pack(logp).tobytes())
            losses += _losses(logp, stretch.targets[len(losses) :])
        self._file.flush()
        return {"rows": stretch.rows, "nll": losses}


class _Variant:
    """Compares with the baseline's rows; it may lack a sense that the baseline has, and so some passages."""

    def __init__(self, job: FidelityJob, reader: Reader) -> None:
        self._reader = reader
        self._name = Path(job.weights).name
        base = Records(Path(job.base)).found
        starts = np.cumsum([0, *(record["rows"] for record in base)]).tolist()
        self._places = {record["id"]: (at, record["tokens"]) for record, at in zip(base, starts, strict=False)}
        self._width = reader.weights.vocab_size
        if Path(job.rows).stat().st_size != 2 * starts[-1] * self._width:
            raise ModelError(f"{self._name} has another vocabulary than the baseline; it is no variant of it", "model")
        self._file = Path(job.rows).open("rb")  # read, not mapped: mapped pages would count as this process's memory

    def score(self, name: str, stretch: Stretch) -> Record:
        at, tokens = self._places.get(name, (0, ""))
        if tokens != _digest(stretch):
            raise InvalidRequest("it reads them as other tokens than the baseline does")
        kl: list[float] = []
        same: list[int] = []
        losses: list[float] = []
        self._file.seek(2 * at * self._width)
        for logp in map(log_probs, self._reader.logits(stretch)):
            base = unpack(np.fromfile(self._file, np.uint16, logp.size).reshape(logp.shape))
            kl += divergence(base, logp).tolist()
            same += (base.argmax(axis=1) == logp.argmax(axis=1)).astype(int).tolist()
            losses += _losses(logp, stretch.targets[len(losses) :])
        return {"rows": stretch.rows, "kl": kl, "same": same, "nll": losses}


def _losses(logp: Floats, targets: Sequence[int]) -> list[float]:
    count = min(len(logp), len(targets))
    return [-float(logp[i, targets[i]]) for i in range(count)]


def _loss(reader: Reader, stretch: Stretch) -> list[float]:
    losses: list[float] = []
    for logp in map(log_probs, reader.logits(stretch)):
        losses += _losses(logp, stretch.targets[len(losses) :])
    return losses


def _digest(stretch: Stretch) -> str:
    """Of the tokens: another template or vocabulary makes others. Media differ with their projector."""
    tokens = [item for item in stretch.items if not isinstance(item, MediaSpan)]
    return hashlib.blake2b(np.asarray(tokens, np.int64).tobytes(), digest_size=8).hexdigest()


def command(job: FidelityJob) -> list[str]:
    return python_command("galago.quantize.evaluate.fidelity_job", json.dumps(asdict(job)))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        run(FidelityJob(**(given | {"questions": tuple(given["questions"]), "texts": tuple(given["texts"])})))
    except GalagoError as error:
        print(error.message, file=sys.stderr)
        sys.exit(1)
