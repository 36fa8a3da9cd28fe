"""Turns samples into batches of arrays: tokens with media placeholders, targets on answers only, and labels."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galago.runtime.llamacpp.weights import Weights
from galago.runtime.prompt.template import ChatTemplate
from world import Clip, Maker, Picture, Sample, Split, Turn, speech
from world.lexicon import SPOKEN
from world.pictures import FACTS, MARKS

from .config import CHUNK_FRAMES, CHUNK_TOKENS, Config
from .export import TEMPLATE
from .preprocess import RATE, fit, picture, sound

IMAGE, SOUND, IGNORED = -1, -2, -100
ASKED = 4
"""Maximum training questions per image or clip, so that one encoding is used several times."""
GROUP = 512
"""Samples that are sorted by length together, so that batches contain little padding."""
_MEDIA = "\ufdd0"
_FACT = {fact: i for i, fact in enumerate(FACTS)}
_MARK = {mark: i for i, mark in enumerate(MARKS)}
_WORD = {word: i + 1 for i, word in enumerate(SPOKEN)}  # 0 is the blank of CTC


@dataclass(frozen=True)
class Batch:
    """Arrays of one batch.

    `tokens` (n, time) has IMAGE and SOUND as media placeholders. `targets` is the next token within answers, else
    IGNORED. `last` is the start of each sample's last answer in `targets`. Images: `pictures` (images, 3, size, size),
    `facts` (images, labels) and `marks` (images, tokens, labels). Audio: `sounds` (clips, chunks, bins, 100), `chunks`
    is the number of chunks without padding, `words` (clips, longest) and `word_counts`.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    last: NDArray[np.int64]
    pictures: NDArray[np.float32]
    facts: NDArray[np.float32]
    marks: NDArray[np.float32]
    sounds: NDArray[np.float32]
    chunks: NDArray[np.int64]
    words: NDArray[np.int64]
    word_counts: NDArray[np.int64]


Group = list[tuple[Batch, list[Sample]]]


@dataclass(frozen=True)
class Encoded:
    """A sample as tokens with media placeholders; `last` is the position that predicts the first answer token."""

    sample: Sample
    tokens: list[int]
    last: int
    pictures: list[Picture]
    clips: list[tuple[Clip, NDArray[np.float32]]]


class Encoder:
    """Tokenizes samples as llama.cpp does: the template's text is split at the media, and each part is tokenized."""

    def __init__(self, weights: Weights, config: Config) -> None:
        self._weights = weights
        self._config = config
        self._template = ChatTemplate(TEMPLATE)
        self._around = [weights.tokenize(t, parse_special=True)[0] for t in ("<|audio_start|>", "<|audio_end|>")]
        self._end = weights.tokenize("<|im_end|>", parse_special=True)[0]
        self._answer = weights.tokenize("<|im_start|>assistant\n", parse_special=True)

    def prompt(self, sample: Sample) -> tuple[list[int], list[Picture], list[tuple[Clip, NDArray[np.float32]]]]:
        """Tokens with media placeholders, and the media in order; clips have mel chunks."""
        parts = [part for turn in sample.turns for part in turn.parts if not isinstance(part, str)]
        messages = [{"role": turn.role, "content": _content(turn)} for turn in sample.turns]
        texts = self._template.render(messages, tools=list(sample.tools) or None).split(_MEDIA)
        tokens = self._weights.tokenize(texts[0], parse_special=True)
        pictures, clips = [], []
        for part, text in zip(parts, texts[1:], strict=True):
            if isinstance(part, Picture):
                pictures.append(part)
                tokens += [IMAGE] * self._config.image_tokens
            else:
                mel = sound(part.samples, self._config.mel_bins)
                clips.append((part, mel))
                tokens += [self._around[0], *[SOUND] * (CHUNK_TOKENS * len(mel)), self._around[1]]
            tokens += self._weights.tokenize(text, parse_special=True)
        return tokens, pictures, clips

    def encode(self, sample: Sample) -> Encoded:
        tokens, pictures, clips = self.prompt(sample)
        answer = [*self._weights.tokenize(sample.answer, parse_special=True), self._end]
        return Encoded(sample, [*tokens, *answer], len(tokens) - 1, pictures, clips)

    def batch(self, encoded: list[Encoded], rows: int, length: int) -> Batch:
        c = self._config
        ids, targets = np.zeros((rows, length), np.int64), np.full((rows, length), IGNORED, np.int64)
        for i, one in enumerate(encoded):
            ids[i, : len(one.tokens)] = one.tokens
            for begin, end in self._answers(one.tokens):
                targets[i, begin - 1 : end - 1] = one.tokens[begin:end]
        pictures = [p for one in encoded for p in one.pictures]
        shown = _rounded(len(pictures))
        pixels = np.zeros((shown, 3, c.image_size, c.image_size), np.float32)
        facts = np.zeros((shown, len(FACTS)), np.float32)
        marks = np.zeros((shown, c.image_tokens, len(MARKS)), np.float32)
        for i, seen in enumerate(pictures):
            pixels[i] = picture(seen.pixels, c.image_size)
            facts[i, [_FACT[fact] for fact in seen.facts]] = 1
            for token, mark in self._places(seen):
                marks[i, token, mark] = 1
        clips = [clip for one in encoded for clip in one.clips]
        said = _rounded(len(clips))
        sounds = np.zeros((said, max((len(mel) for _, mel in clips), default=1), c.mel_bins, CHUNK_FRAMES), np.float32)
        chunks, counts = np.ones(said, np.int64), np.zeros(said, np.int64)
        words = np.zeros((said, max((len(clip.words) for clip, _ in clips), default=1) or 1), np.int64)
        for i, (clip, mel) in enumerate(clips):
            sounds[i, : len(mel)] = mel
            chunks[i], counts[i] = len(mel), len(clip.words)
            words[i, : len(clip.words)] = [_WORD[w] for w in clip.words]
        last = np.array([one.last for one in encoded], np.int64)
        return Batch(ids, targets, last, pixels, facts, marks, sounds, chunks, words, counts)

    def _answers(self, tokens: list[int]) -> Iterator[tuple[int, int]]:
        """Start and end of each assistant message, including its end token."""
        size = len(self._answer)
        for begin in range(size, len(tokens)):
            if tokens[begin - size : begin] == self._answer:
                yield begin, tokens.index(self._end, begin) + 1

    def _places(self, seen: Picture) -> Iterator[tuple[int, int]]:
        """Pairs of image token and label, for everything whose center is in that token."""
        height, width, _ = seen.pixels.shape
        left, top, across, down = fit(width, height, self._config.image_size)
        side = self._config.patches // self._config.merge
        for x, y, label in seen.marks:
            column = int((left + x / width * across) / self._config.image_size * side)
            row = int((top + y / height * down) / self._config.image_size * side)
            yield min(row, side - 1) * side + min(column, side - 1), _MARK[label]


def _rounded(count: int) -> int:
    """Pads batches to a few shapes, because PyTorch prepares each new shape; padding is black or silent."""
    return -(-count // 8) * 8


def _content(turn: Turn) -> str:
    return "".join(part if isinstance(part, str) else _MEDIA for part in turn.parts)


class Clips:
    """Speech clips on disk, because synthesizing takes much longer than drawing an image."""

    def __init__(self, folder: Path, split: Split, count: int, seed: int) -> None:
        self._index = folder / f"clips-{split.value}-{count}-{seed}.npz"
        self._data = self._index.with_suffix(".i16")
        if not self._index.exists():
            self._make(split, count, seed)
        index = np.load(self._index)
        self._ends, self._words = index["ends"], [str(w) for w in index["words"]]
        self._samples = np.memmap(self._data, np.int16, "r")

    def _make(self, split: Split, count: int, seed: int) -> None:
        rng, ends, said, end = Random(seed), [], [], 0
        voices = [v for v in speech.voices() if v.known]
        self._index.parent.mkdir(parents=True, exist_ok=True)
        with self._data.open("wb") as out:
            for i in range(count):
                words = speech.utterance(rng, split)
                samples = speech.speak(rng, rng.choice(voices), words)[: int(speech.LONGEST * RATE)]
                end += len(samples)
                out.write((samples * 32000).astype(np.int16).tobytes())
                ends.append(end)
                said.append(words)
                if i % 1000 == 999:
                    print(f"{i + 1} of {count} clips spoken", flush=True)
        np.savez(self._index, ends=np.array(ends), words=np.array(said))

    def pick(self, rng: Random) -> tuple[str, NDArray[np.float32]]:
        i = rng.randrange(len(self._ends))
        start = int(self._ends[i - 1]) if i else 0
        return self._words[i], self._samples[start : int(self._ends[i])].astype(np.float32) / np.float32(32000)


@dataclass(frozen=True)
class Source:
    """Generates batches; the same source and group number always give the same batches."""

    model: Path
    config: Config
    clips: Path
    clip_count: int
    split: Split
    seed: int
    size: int

    def open(self) -> Callable[[int], Group]:
        """Returns a function from a group number to its batches, each with its samples."""
        encoder = Encoder(Weights(self.model, gpu_layers=0), self.config)
        clips = Clips(self.clips, self.split, self.clip_count, self.seed)

        def make(group: int) -> Group:
            rng = Random(f"{self.seed}/{self.split.value}/{group}")
            maker = Maker(rng, self.split, clips.pick, asked=ASKED if self.split is Split.TRAIN else 1)
            encoded = [encoder.encode(maker.sample()) for _ in range(GROUP)]
            encoded.sort(key=lambda one: len(one.tokens))
            made = []
            while encoded:
                length = -(-len(encoded[-1].tokens) // 16) * 16
                rows = max(1, self.size // length)
                cut, encoded = encoded[-rows:], encoded[:-rows]
                made.append((encoder.batch(cut, rows, length), [one.sample for one in cut]))
            rng.shuffle(made)
            return made

        return make


def stream(source: Source, first: int, workers: int) -> Iterator[Group]:
    """Yields groups from number `first` on, in order; other processes prepare them ahead."""
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(2) for _ in range(workers)]
    for i, into in enumerate(queues):
        context.Process(target=_work, args=(source, first + i, workers, into), daemon=True).start()
    for turn in itertools.count():
        try:
            yield queues[turn % workers].get(timeout=900)
        except queue.Empty:
            raise RuntimeError("the process that makes batches has died") from None


def _work(source: Source, first: int, stride: int, into: Any) -> None:
    into.cancel_join_thread()
    make = source.open()
    parent = multiprocessing.parent_process()
    for group in itertools.count(first, stride):
        made = make(group)
        while parent is None or parent.is_alive():
            with contextlib.suppress(queue.Full):
                into.put(made, timeout=10)
                break
        else:
            return
