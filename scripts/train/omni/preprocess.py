"""libmtmd's preprocessing of images and audio (tools/mtmd/mtmd-image.cpp, mtmd-audio.cpp), in NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .config import CHUNK_FRAMES

RATE, WINDOW, HOP = 16_000, 400, 160
Floats = NDArray[np.float32]


def picture(pixels: NDArray[np.uint8], size: int) -> Floats:
    """Resizes an image (bicubic, same aspect ratio) onto a black square; returns (3, size, size) in -1..1."""
    height, width, _ = pixels.shape
    if (height, width) != (size, size):
        left, top, across, down = fit(width, height, size)
        page = np.zeros((size, size, 3), np.uint8)
        resized = np.asarray(Image.fromarray(pixels).resize((across, down), Image.Resampling.BICUBIC))
        page[top : top + down, left : left + across] = resized
        pixels = page
    scaled = (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(scaled).transpose(2, 0, 1)


def fit(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of an image in the encoded square."""
    scale = min(size / width, size / height)
    across, down = min(-int(-width * scale // 1), size), min(-int(-height * scale // 1), size)
    return (size - across) // 2, (size - down) // 2, across, down


def sound(samples: Floats, bins: int) -> Floats:
    """Log-mel chunks (chunks, bins, 100); the last one is padded with zeros."""
    padded = np.pad(samples, WINDOW // 2, mode="reflect")
    frames = len(samples) // HOP + 1
    cut = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:frames]
    power = np.abs(np.fft.rfft(cut * _hann(), axis=1)) ** 2
    mel = np.log10(np.maximum(_filters(bins) @ power.T, 5.960464477539063e-08))
    mel = (np.maximum(mel, mel.max() - 8) + 4) / 4
    chunks = -(-frames // CHUNK_FRAMES)
    out = np.zeros((bins, chunks * CHUNK_FRAMES), np.float32)
    out[:, :frames] = mel
    return out.reshape(bins, chunks, CHUNK_FRAMES).transpose(1, 0, 2)


@cache
def _hann() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@cache
def _filters(bins: int) -> NDArray[np.float64]:
    """Slaney's mel filters with area one: linear below 1 kHz, logarithmic above."""
    step, knee = 200 / 3, 15.0
    log_step = np.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz / step if hertz < 1000 else knee + np.log(hertz / 1000) / log_step

    marks = np.linspace(to_mel(0), to_mel(RATE / 2), bins + 2)
    edges = np.where(marks < knee, marks * step, 1000 * np.exp(log_step * (marks - knee)))
    line = np.fft.rfftfreq(WINDOW, 1 / RATE)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    shape = np.maximum(0, np.minimum((line - low) / (mid - low), (high - line) / (high - mid)))
    return np.asarray(shape * 2 / (high - low), np.float64)
