"""Decodes untrusted audio files to mono samples. Checks every limit against the header before it decodes samples.

Decoding happens here because libmtmd's own helper passes what it cannot read to an ffmpeg process.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ...models.errors import Cancelled, MediaError
from ..types.limits import how_to_change
from .decoding import Decoding
from .limits import MediaLimits, check_size
from .sniff import describe, kind_of

AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF")
"""The accepted formats, as libsndfile names them."""
MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 192_000
"""Together with `MAX_CHANNELS` it bounds the work of decoding ten minutes of audio."""
MAX_CHANNELS = 16
MIN_SECONDS = 0.01
"""libmtmd aborts the process on 0 or 1 sample."""

_ACCEPTED = "WAV, FLAC, OGG, MP3 and AIFF are accepted"
_BLOCK_SAMPLES = 1 << 18
"""Samples of all channels that are decoded at a time."""
_UNKNOWN_FRAMES = (1 << 63) - 1
"""SF_COUNT_MAX, the number of frames of a FLAC file that was written to a pipe."""
_STREAMED_SIZE = 0x7FFF0000
"""The size, or a lower bound of it, that ffmpeg, sox and arecord write to a WAV header if they do not know the end."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DecodedAudio:
    """One channel, shape (n,), within -1..1, at the requested rate. `notes` say what was lost."""

    samples: Samples
    notes: tuple[str, ...] = ()


def decode_audio(data: bytes, rate: int, limits: MediaLimits, decoding: Decoding | None = None) -> DecodedAudio:
    """Decodes an audio file to one channel, the mean of all its channels, at `rate` Hz.

    Raises `MediaError` for anything but a complete audio file of an accepted format within `limits`, for one shorter
    than 10 ms, and for infinite or NaN samples; `Cancelled` if the client leaves meanwhile.
    """
    check_size(data, limits)
    if kind_of(data) != "audio":
        raise MediaError(f"{describe(data)} cannot be read as audio; {_ACCEPTED}")
    try:
        _check_complete(data)
        with soundfile.SoundFile(_Reader(data)) as file:
            # The binding seeks after each read of a seekable file: in an MP3 that garbles the next block, and at the
            # end of a FLAC of unknown length it fails.
            file.seekable = lambda: False
            _check_header(file, limits)
            return _decode(file, rate, limits, decoding or Decoding())
    except (MediaError, Cancelled):
        raise
    except Exception as error:  # libsndfile's own errors, and those of its binding for damaged headers
        raise MediaError(f"{describe(data)} is damaged or incomplete") from error


def _decode(file: soundfile.SoundFile, rate: int, limits: MediaLimits, decoding: Decoding) -> DecodedAudio:
    resampler = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32")
    parts: list[Samples] = []
    frames = clipped = 0
    for block in _blocks(file):
        decoding.check()
        frames += len(block)
        _check_seconds(frames / file.samplerate, limits)
        clipped += int(np.count_nonzero(np.abs(block) > 1))
        parts.append(resampler.resample_chunk(block.clip(-1, 1).mean(axis=1, dtype=np.float32)))
    parts.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    samples = np.concatenate(parts)
    if len(samples) < max(2, MIN_SECONDS * rate):
        raise MediaError(f"the audio has {len(samples)} samples at {rate} Hz; it must last at least 10 ms")
    return DecodedAudio(samples, tuple(_notes(file, rate, frames, clipped)))


def _blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
    """Yields the frames of a file in blocks of shape (n, channels), as they are decoded."""
    while len(block := file.read(_BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise MediaError("the audio has infinite or NaN samples")
        yield block


def _notes(file: soundfile.SoundFile, rate: int, frames: int, clipped: int) -> Iterator[str]:
    # Resampling to a lower rate loses nothing that a model would hear, so there is no note about it.
    if file.samplerate < rate:
        yield f"this audio was recorded at {file.samplerate} Hz, below the {rate} Hz that the model expects"
    if file.channels > 2:
        yield f"the {file.channels} channels of this audio were mixed into one"
    if clipped:
        yield f"{clipped} samples of this audio exceeded full scale and were clipped"
    if file.frames != _UNKNOWN_FRAMES and frames < 0.9 * file.frames:  # the header of an MP3 only estimates
        yield f"this audio ends after {frames / file.samplerate:.2f} s, earlier than its header says"


def _check_header(file: soundfile.SoundFile, limits: MediaLimits) -> None:
    if file.format not in AUDIO_FORMATS:
        raise MediaError(f"{file.format} audio cannot be read; {_ACCEPTED}")
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise MediaError(
            f"the audio has a sample rate of {file.samplerate} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are accepted"
        )
    if file.channels > MAX_CHANNELS:
        raise MediaError(f"the audio has {file.channels} channels; at most {MAX_CHANNELS} are accepted")
    if file.frames != _UNKNOWN_FRAMES:
        _check_seconds(file.frames / file.samplerate, limits)


def _check_seconds(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.audio_seconds:
        most = f"at most {limits.audio_seconds:g} s are accepted"
        raise MediaError(f"the audio lasts {seconds:.1f} s; {most} ({how_to_change('audio_seconds')})")


def _check_complete(data: bytes) -> None:
    """Refuses a WAV, AIFF or OGG file shorter than it says. libsndfile would decode the part that is there."""
    if data.startswith(b"OggS"):
        declared = _end_of_last_page(data)
    elif data.startswith((b"RIFF", b"FORM")):
        declared = _end_of_sound_chunk(data)
    else:
        return
    if declared > len(data):
        raise MediaError(
            f"the audio is cut off or its header is wrong: it declares {declared} bytes and has {len(data)}"
        )


def _end_of_last_page(data: bytes) -> int:
    at = data.rfind(b"OggS") + 26
    sizes = data[at + 1 : at + 1 + data[at]]
    return at + 1 + data[at] + sum(sizes)


def _end_of_sound_chunk(data: bytes) -> int:
    """Where the sound data ends. 0 for a WAV that was written to a pipe, which is read to the end of the file."""
    header = struct.Struct("<4sI" if data.startswith(b"RIFF") else ">4sI")
    at = 12
    while at + header.size <= len(data):
        name, size = header.unpack_from(data, at)
        at += header.size + size
        if name in (b"data", b"SSND"):
            return 0 if size >= _STREAMED_SIZE else at
        at += size & 1
    return at


class _Reader(io.BytesIO):
    """A file whose seeks before the start end at the start: an error in libsndfile's callback would only be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(min(max(0, base + offset), len(self.getbuffer())))
