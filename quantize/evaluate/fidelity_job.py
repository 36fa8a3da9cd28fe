"""Child program that compares a variant's probabilities with the baseline's: `python -m ...fidelity_job JOB`.

JOB is a `FidelityJob` as JSON. The baseline's own run writes its probabilities, two bytes per token, to `rows` and a
record of each passage to `records`. The run of a variant reads them and writes its own records. Records are appended
one line at a time, so that an interrupted run resumes after the last one. Prints `DONE TOTAL` after each passage. It is
a child process because llama.cpp aborts the process on some files, and because memory is freed when it ends.
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
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...models import units
from ...models.errors import ConfigError, GalagoError, InvalidRequest, ModelError
from ...models.files import ModelFiles
from ...models.registry.resolve import resolve
from ...models.regular_file import open_regular
from ...runtime.cache.disk_cache import DiskCache
from ...runtime.config import default_threads
from ...runtime.engine.tuning import ThreadTuner
from ...runtime.inference.assembly import prompt_builder
from ...runtime.inference.weight_faults import NO_PREFERENCE, finds_all_equally_likely
from ...runtime.llamacpp.context import BATCH, Context
from ...runtime.llamacpp.devices import gpus
from ...runtime.llamacpp.library import build_info
from ...runtime.llamacpp.projector import MediaChunk, Projector, embedded_by, encode_first
from ...runtime.llamacpp.weights import Weights
from ...runtime.process.limits import limit_this_process
from ...runtime.process.spawn import python_command
from ...runtime.types.messages import Message
from ...runtime.types.prompt import BatchToken, Item, MediaSpan
from . import passages as sets
from .fidelity import LogProbs, kl_divergence, log_probs, pack, unpack
from .passages import Passage
from .record_log import Record, RecordLog

CONTEXT_TOKENS = 4096
WINDOW_TOKENS = 512
"""The length of a window of plain text, whose second half is scored, as in llama-perplexity."""

_MIN_TEXT_TOKENS = 16
_MEDIA_CACHE_BYTES = 1 << 30
_LOGITS_BYTES = 64 << 20
"""The size of the logits that one decoding step may produce."""
_COMPARED_BYTES = 10 << 20
"""The size of the logits compared at once: 17 rows with a vocabulary of 150,000."""


@dataclass(frozen=True, slots=True)
class FidelityJob:
    """Asks for the passages of `questions` and `texts` to be scored.

    `rows` and `base` are the baseline's files; `base` is empty in the baseline's own run. `limit` bounds the questions
    of each group and the windows of each text. `media` is a cache folder for encoded images and audio, which are the
    same for every text model with one projector; empty for none.
    """

    weights: str
    projector: str
    questions: tuple[str, ...]
    texts: tuple[str, ...]
    limit: int
    rows: str
    base: str
    records: str
    threads: int | None = None
    gpu_layers: int = -1
    media: str = ""


class TokenWindow(NamedTuple):
    """Items for the model to read. `targets` are the right tokens after position `first` and the ones that follow."""

    items: tuple[Item, ...]
    first: int
    targets: tuple[int, ...]

    @property
    def rows(self) -> int:
        return len(self.items) - self.first


class LogitsReader:
    """A loaded variant that turns passages into token windows, and those into logits."""

    def __init__(self, files: ModelFiles, threads: int | None, gpu_layers: int, media: str = "") -> None:
        max_threads = threads or default_threads()
        self.weights = Weights(files.weights, gpu_layers)
        context_tokens = min(self.weights.context_length, CONTEXT_TOKENS)
        row_bytes = 4 * self.weights.vocab_size
        self._rows_per_block = max(1, _COMPARED_BYTES // row_bytes)
        self._rows_per_step = max(1, min(BATCH, _LOGITS_BYTES // row_bytes))
        self._context = Context(self.weights, context_tokens, 1, max_threads, draft_rows=self._rows_per_step - 1)
        self._tuner = ThreadTuner(max_threads) if threads is None else None
        self.projector, self._store = None, None
        if files.projector is not None:
            largest_image, use_gpu = min(BATCH, context_tokens), gpu_layers != 0 and bool(gpus())
            if media:  # what cannot be saved is computed again
                version = (*embedded_by(files.projector, use_gpu), build_info())
                self._store = DiskCache(Path(media), version, _MEDIA_CACHE_BYTES, lambda _: None)
            self.projector = Projector(
                files.projector,
                self.weights,
                max_threads,
                largest_image,
                use_gpu,
                cache_bytes=64 << 20,
                disk_cache=self._store,
            )
        self._prompts = prompt_builder(self.weights, self.projector, files.header.chat_template, context_tokens)
        self._has_preference = False

    def close(self) -> None:
        """Writes encoded media that are not saved yet."""
        if self._store is not None:
            self._store.close()

    def supports(self, modality: sets.Modality) -> bool:
        vision = self.projector is not None and self.projector.vision
        audio = self.projector is not None and self.projector.audio
        return {"text": True, "image": vision, "audio": audio, "both": vision and audio}[modality]

    def text_windows(self, text: str, limit: int) -> list[TokenWindow]:
        """Cuts plain text as llama-perplexity does: every window begins like a new text, the remainder is dropped."""
        begin = [self.weights.bos] if self.weights.adds_bos else []
        tokens = begin + self.weights.tokenize(text, parse_special=False)
        if len(tokens) < _MIN_TEXT_TOKENS:
            raise ConfigError(
                f"the text has only {len(tokens)} tokens; {_MIN_TEXT_TOKENS} are needed to compare on it", "text"
            )
        size = min(WINDOW_TOKENS, len(tokens))
        cut = [begin + tokens[i + len(begin) : i + size] for i in range(0, len(tokens) - size + 1, size)][:limit]
        return [TokenWindow(tuple(window[:-1]), size // 2, tuple(window[size // 2 + 1 :])) for window in cut]

    def answer_window(self, messages: Sequence[Message], answer: str) -> TokenWindow:
        prompt = self._prompts.build(messages, reasoning_effort=None)
        tokens = tuple(self.weights.tokenize(answer, parse_special=False))
        return TokenWindow((*prompt.items, *tokens), len(prompt.items) - 1, tokens)

    def logits(self, window: TokenWindow) -> Iterator[NDArray[np.float32]]:
        """Yields the logits of every row from `first` on, in blocks that the caller may modify."""
        self._context.truncate(0, 0)
        position, batch, scored = 0, list[BatchToken](), 0
        for index, item in enumerate(window.items):
            if isinstance(item, MediaSpan):
                yield from self._decode(batch)
                batch = []
                self._decode_media(item, position)
                position += item.positions
                continue
            if len(batch) == BATCH or scored == self._rows_per_step:
                yield from self._decode(batch)
                batch, scored = [], 0
            needs_logits = index >= window.first
            batch.append(BatchToken(item, position, 0, needs_logits))
            scored += needs_logits
            position += 1
        yield from self._decode(batch)

    def log_probs(self, window: TokenWindow) -> Iterator[LogProbs]:
        """Yields what `logits` does as log-probabilities.

        Raises `ModelError` if the model computes NaN, or finds all tokens of the first block equally likely.
        """
        for logp in map(log_probs, self.logits(window)):
            if not self._has_preference and finds_all_equally_likely(float(logp.max()), self.weights.vocab_size):
                raise ModelError(NO_PREFERENCE, "model")
            self._has_preference = True
            yield logp

    def _decode(self, batch: Sequence[BatchToken]) -> Iterator[NDArray[np.float32]]:
        if not batch:
            return
        if self._tuner is not None:
            self._context.use_threads(self._tuner.threads(0, len(batch)))
        begin = time.perf_counter()
        self._context.decode(batch)
        scored = [i for i, token in enumerate(batch) if token.wants_logits]
        for i in range(0, len(scored), self._rows_per_block):
            yield np.stack([self._context.logits(row) for row in scored[i : i + self._rows_per_block]])
        if self._tuner is not None and not scored:
            self._tuner.record(0, len(batch), time.perf_counter() - begin)

    def _decode_media(self, item: MediaSpan, position: int) -> None:
        chunk = item.payload
        assert isinstance(chunk, MediaChunk)
        if not chunk.ready:
            encode_first([chunk])
        self._context.decode_media(item, position, 0)


def run(job: FidelityJob) -> None:
    """Scores every passage that has no record yet."""
    reader = LogitsReader(resolve(job.weights, job.projector or None), job.threads, job.gpu_layers, job.media)
    work: list[tuple[str, Passage, TokenWindow | None]] = []
    questions, texts = (list(map(Path, names)) for names in (job.questions, job.texts))
    for number, passage in enumerate(sets.collect_passages(questions, texts, job.limit)):
        if passage.messages:  # tokenized when its turn comes: the decoded images of all would fill the memory
            work += [(str(number), passage, None)] if reader.supports(passage.modality) else []
        else:
            windows = reader.text_windows(passage.answer, job.limit)
            work += [(f"{number}.{part}", passage, window) for part, window in enumerate(windows)]
    log = RecordLog(Path(job.records))
    done = len(log.records)
    if not job.base:
        rows = sum(window.rows if window else len(passage.answer) // 2 for _, passage, window in work)
        _check_disk_space(job, reader, rows)
    scorer = _VariantScorer(job, reader) if job.base else _BaselineScorer(job, reader, log.records)
    for index, (name, passage, window) in enumerate(work):
        if index >= done:
            identity: Record = {"id": name, "sense": passage.modality}
            try:
                log.append(identity | _record(reader, scorer, name, passage, window))
            except InvalidRequest as error:
                if not job.base:
                    raise
                log.append(identity | {"failed": error.message})
        print(index + 1, len(work), flush=True)
    reader.close()
    log.finish()


def _record(
    reader: LogitsReader, scorer: PassageScorer, name: str, passage: Passage, text_window: TokenWindow | None
) -> Record:
    """Raises `InvalidRequest` if the variant cannot process the passage."""
    window = text_window or reader.answer_window(passage.messages, passage.answer)
    record: Record = {"tokens": _digest(window)} | scorer.score(name, window)
    if passage.with_blank_media:
        blank = reader.answer_window(sets.blank_media(passage.messages), passage.answer)
        record["blind_nll"] = _window_nll(reader, blank)
    return record


def _check_disk_space(job: FidelityJob, reader: LogitsReader, rows: int) -> None:
    """Raises `ConfigError` if the disk has no room for the baseline's probabilities at about `rows` positions."""
    needed_bytes = rows * 2 * reader.weights.vocab_size
    existing_bytes = Path(job.rows).stat().st_size if Path(job.rows).exists() else 0
    free_bytes = shutil.disk_usage(Path(job.rows).parent).free
    if needed_bytes > existing_bytes + free_bytes:
        raise ConfigError(
            f"the baseline's probabilities for {rows} tokens need about {units.format_bytes(needed_bytes)} in "
            f"{Path(job.rows).parent}, but only {units.format_bytes(free_bytes)} are free; "
            "use fewer questions (--quick) or a shorter text"
        )


class PassageScorer(Protocol):
    def score(self, name: str, window: TokenWindow) -> Record: ...


class _BaselineScorer:
    """Writes the baseline's probabilities; `done` are the records of those that are already written."""

    def __init__(self, job: FidelityJob, reader: LogitsReader, done: Sequence[Record]) -> None:
        self._reader = reader
        self._file = Path(job.rows).open("r+b" if done else "wb")
        self._file.truncate(sum(record["rows"] for record in done) * 2 * reader.weights.vocab_size)
        self._file.seek(0, 2)

    def score(self, name: str, window: TokenWindow) -> Record:
        nll: list[float] = []
        start, digest = self._file.tell(), hashlib.blake2b(digest_size=16)
        for logp in self._reader.log_probs(window):
            packed = pack(logp).tobytes()
            self._file.write(packed)
            digest.update(packed)
            nll += _nll(logp, window.targets[len(nll) :])
        self._file.flush()
        size = self._file.tell() - start
        return {"rows": window.rows, "nll": nll, "bytes": size, "digest": digest.hexdigest()}


class _VariantScorer:
    """Compares with the baseline's probabilities. A variant may lack a modality, and so some passages."""

    def __init__(self, job: FidelityJob, reader: LogitsReader) -> None:
        self._reader = reader
        self._name = Path(job.weights).name
        base = RecordLog(Path(job.base)).records
        first_rows = np.cumsum([0, *(record["rows"] for record in base)]).tolist()
        self._base = {record["id"]: (row, record["tokens"]) for record, row in zip(base, first_rows, strict=False)}
        self._vocab_size = reader.weights.vocab_size
        if Path(job.rows).stat().st_size != 2 * first_rows[-1] * self._vocab_size:
            raise ModelError(
                f"{self._name} has another vocabulary than the baseline, so it is not a variant of it", "model"
            )
        # read, not memory-mapped: mapped pages would count as this process's memory
        self._file = Path(job.rows).open("rb")

    def score(self, name: str, window: TokenWindow) -> Record:
        row, tokens = self._base.get(name, (0, ""))
        if tokens != _digest(window):
            raise InvalidRequest("it tokenizes them differently from the baseline")
        kl: list[float] = []
        same: list[int] = []
        nll: list[float] = []
        self._file.seek(2 * row * self._vocab_size)
        for logp in self._reader.log_probs(window):
            base = unpack(np.fromfile(self._file, np.uint16, logp.size).reshape(logp.shape))
            kl += kl_divergence(base, logp).tolist()
            same += (base.argmax(axis=1) == logp.argmax(axis=1)).astype(int).tolist()
            nll += _nll(logp, window.targets[len(nll) :])
        return {"rows": window.rows, "kl": kl, "same": same, "nll": nll}


def is_intact(rows: Path, records: Sequence[Record]) -> bool:
    """Whether the baseline's probabilities in `rows` are those that its records describe."""
    try:
        with open_regular(rows) as file:
            return all(_next_digest(file, record["bytes"]) == record["digest"] for record in records)
    except (OSError, KeyError):
        return not records


def _next_digest(file: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    while size_bytes and (data := file.read(min(size_bytes, _COMPARED_BYTES))):
        digest.update(data)
        size_bytes -= len(data)
    return digest.hexdigest()


def _nll(logp: LogProbs, targets: Sequence[int]) -> list[float]:
    count = min(len(logp), len(targets))
    return [-float(logp[i, targets[i]]) for i in range(count)]


def _window_nll(reader: LogitsReader, window: TokenWindow) -> list[float]:
    nll: list[float] = []
    for logp in reader.log_probs(window):
        nll += _nll(logp, window.targets[len(nll) :])
    return nll


def _digest(window: TokenWindow) -> str:
    """Identifies the tokens, which depend on template and vocabulary. Media depend on the projector and are ignored."""
    tokens = [item for item in window.items if not isinstance(item, MediaSpan)]
    return hashlib.blake2b(np.asarray(tokens, np.int64).tobytes(), digest_size=8).hexdigest()


def command(job: FidelityJob) -> list[str]:
    return python_command("galago.quantize.evaluate.fidelity_job", json.dumps(asdict(job)))


if __name__ == "__main__":
    limit_this_process()
    fields = json.loads(sys.argv[1])
    try:
        run(FidelityJob(**(fields | {"questions": tuple(fields["questions"]), "texts": tuple(fields["texts"])})))
    except GalagoError as error:
        print(error.message, file=sys.stderr)
        sys.exit(1)
