"""Turns samples into batches of arrays: tokens with places for media, targets on the answer alone, labels."""

from __future__ import annotations

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

from galago.runtime.native.weights import Weights
from galago.runtime.prompt.template import ChatTemplate
from world import Clip, Maker, Picture, Sample, Split, Turn, speech
from world.lexicon import SPOKEN
from world.pictures import FACTS

from .config import CHUNK_TOKENS, Config
from .export import TEMPLATE
from .preprocess import RATE, picture, sound

IMAGE, SOUND, IGNORED = -1, -2, -100
GROUP = 8
"""Batches cut from one draw of samples sorted by length, so that little of a batch is padding."""
_MEDIA = "\ufdd0"
_FACT = {fact: i for i, fact in enumerate(FACTS)}
_WORD = {word: i + 1 for i, word in enumerate(SPOKEN)}  # 0 is CTC's blank


@dataclass(frozen=True)
class Batch:
    """`tokens` (n, time), with IMAGE and SOUND where media stand; `targets` the next token, or IGNORED.

    `pictures` (images, 3, size, size) and `facts` (images, labels); `sounds` (clips, chunks, bins, 100), `chunks` how
    many are real, `words` (clips, most) and `word_counts`.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    pictures: NDArray[np.float32]
    facts: NDArray[np.float32]
    sounds: NDArray[np.float32]
    chunks: NDArray[np.int64]
    words: NDArray[np.int64]
    word_counts: NDArray[np.int64]


class Encoder:
    """Turns samples into tokens as llama.cpp will: the template's text cut at the media, each piece by itself."""

    def __init__(self, weights: Weights, config: Config) -> None:
        self._weights = weights
        self._config = config
        self._template = ChatTemplate(TEMPLATE)
        self._around = [weights.tokenize(t, parse_special=True)[0] for t in ("<|audio_start|>", "<|audio_end|>")]
        self._end = weights.tokenize("<|im_end|>", parse_special=True)[0]

    def prompt(self, sample: Sample) -> tuple[list[int], list[Picture], list[tuple[Clip, NDArray[np.float32]]]]:
        """Tokens with places for media, and the media in order, clips with their mel chunks."""
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

    def length(self, sample: Sample) -> float:
        """About how long a sample is, in letters; a second of sound counts as fifty."""
        letters: float = len(sample.answer) + 120 * len(sample.tools)
        for part in (part for turn in sample.turns for part in turn.parts):
            if isinstance(part, str):
                letters += len(part)
            else:
                letters += 60 if isinstance(part, Picture) else 50 * len(part.samples) / RATE
        return letters

    def batch(self, samples: list[Sample]) -> Batch:
        c = self._config
        rows, pictures, clips = [], [], []
        for sample in samples:
            tokens, seen, heard = self.prompt(sample)
            rows.append((tokens, [*self._weights.tokenize(sample.answer, parse_special=True), self._end]))
            pictures += seen
            clips += heard
        longest = max(len(tokens) + len(answer) for tokens, answer in rows)
        shape = len(rows), -(-longest // 8) * 8
        ids, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        for i, (tokens, answer) in enumerate(rows):
            ids[i, : len(tokens) + len(answer)] = tokens + answer
            targets[i, len(tokens) - 1 : len(tokens) + len(answer) - 1] = answer
        facts = np.zeros((len(pictures), len(FACTS)), np.float32)
        for i, seen_one in enumerate(pictures):
            facts[i, [_FACT[fact] for fact in seen_one.facts]] = 1
        images = [picture(p.pixels, c.image_size) for p in pictures]
        most = max((len(mel) for _, mel in clips), default=1)
        sounds = np.zeros((len(clips), most, c.mel_bins, 100), np.float32)
        words = np.zeros((len(clips), max((len(clip.words) for clip, _ in clips), default=1) or 1), np.int64)
        for i, (clip, mel) in enumerate(clips):
            sounds[i, : len(mel)] = mel
            words[i, : len(clip.words)] = [_WORD[w] for w in clip.words]
        return Batch(
            ids,
            targets,
            np.stack(images) if images else np.zeros((0, 3, c.image_size, c.image_size), np.float32),
            facts,
            sounds,
            np.array([len(mel) for _, mel in clips], np.int64),
            words,
            np.array([len(clip.words) for clip, _ in clips], np.int64),
        )


def _content(turn: Turn) -> str:
    return "".join(part if isinstance(part, str) else _MEDIA for part in turn.parts)


class Clips:
    """A store of spoken clips on disk: synthesizing takes far longer than drawing a picture."""

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
        return self._words[i], self._samples[start : int(self._ends[i])].astype(np.float32) / 32000


@dataclass(frozen=True)
class Source:
    """Where batches come from; the same source and number give the same group of them, whatever was made before."""

    model: Path
    config: Config
    clips: Path
    clip_count: int
    split: Split
    seed: int
    size: int

    def open(self) -> Callable[[int], tuple[Batch, list[Sample]]]:
        """A function from a group's number to its batches, each with the samples in it."""
        encoder = Encoder(Weights(self.model, gpu_layers=0), self.config)
        clips = Clips(self.clips, self.split, self.clip_count, self.seed)

        def make(group: int) -> list[tuple[Batch, list[Sample]]]:
            rng = Random(f"{self.seed}/{self.split.value}/{group}")
            maker = Maker(rng, self.split, clips.pick)
            samples = sorted((maker.sample() for _ in range(self.size * GROUP)), key=encoder.length)
            cuts = [samples[i : i + self.size] for i in range(0, len(samples), self.size)]
            rng.shuffle(cuts)
            return [(encoder.batch(cut), cut) for cut in cuts]

        return make


def stream(source: Source, first: int, workers: int) -> Iterator[Batch]:
    """Batches from group `first` on, in order, made ahead by other processes."""
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(2 * GROUP) for _ in range(workers)]
    for i, into in enumerate(queues):
        context.Process(target=_work, args=(source, first + i, workers, into), daemon=True).start()
    for turn in itertools.count():
        for _ in range(GROUP):
            try:
                yield queues[turn % workers].get(timeout=900)
            except queue.Empty:
                raise RuntimeError("the process that makes batches has died") from None


def _work(source: Source, first: int, stride: int, into: Any) -> None:
    make = source.open()
    for group in itertools.count(first, stride):
        for batch, _ in make(group):
            into.put(batch)
