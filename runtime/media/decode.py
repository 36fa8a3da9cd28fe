"""Decodes pictures and sounds that nobody has vouched for: bytes in, RGB pixels or mono samples out.

Knows which containers are accepted and how much a file may unfold to; every limit is checked against the header before
pixels or samples are decoded. Does not know models, messages or the network, and opens no file but the one named to
`read_media_file`. Decoding happens here because libmtmd's own helper hands what it cannot read to an ffmpeg process.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from PIL import Image, ImageOps

from ...models.errors import MediaError
from .sniff import describe, kind_of

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF")  # as libsndfile names them
MIN_RATE, MAX_RATE = 1_000, 192_000  # Hz; with MAX_CHANNELS it bounds what ten minutes of sound take to decode
MAX_CHANNELS = 16
SHORTEST = 0.01  # seconds; libmtmd aborts the process on 0 or 1 sample

_ACCEPTED_PICTURES = "PNG, JPEG, WebP, GIF, BMP and TIFF are accepted"
_ACCEPTED_SOUNDS = "WAV, FLAC, OGG, MP3 and AIFF are accepted"
_BLOCK = 1 << 18  # samples of all channels decoded at a time
_UNKNOWN = (1 << 63) - 1  # SF_COUNT_MAX: the frames of a FLAC that was written to a pipe
_STREAMED = 0x7FFF0000  # what ffmpeg, sox and arecord write, or more, as the size of a WAV whose end they do not know

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]

# warnings.catch_warnings changes the whole process, so only one thread may be inside it.
_quiet = threading.Lock()


@dataclass(frozen=True)
class MediaLimits:
    """The most that one picture or sound may be; `pixels` and `audio_seconds` count what it unfolds to."""

    pixels: int = 64_000_000
    audio_seconds: float = 600.0
    bytes: int = 64 << 20


@dataclass(frozen=True, eq=False)
class Picture:
    """RGB, shape (height, width, 3), C-contiguous, read-only. `notes` say what was not shown as it is in the file."""

    pixels: Pixels
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sound:
    """One channel, shape (n,), within -1..1, at the rate asked for. `notes` say what was lost on the way."""

    samples: Samples
    notes: tuple[str, ...] = ()


def read_media_file(path: Path, limits: MediaLimits) -> bytes:
    """The bytes of the file at `path`. Raises MediaError, with `param` the path, for no such file or one too large."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise MediaError(f"{path} is a {'directory' if stat.S_ISDIR(mode) else 'device or pipe'}", str(path))
        with path.open("rb") as file:
            data = file.read(limits.bytes + 1)
        _check_size(data, limits, str(path))
        return data
    except FileNotFoundError:
        raise MediaError(f"there is no file {path}", str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise MediaError(f"{path} cannot be read: {error}", str(path)) from error


def decode_image(data: bytes, limits: MediaLimits) -> Picture:
    """Decodes the first frame of a picture, upright as its EXIF orientation says.

    Raises MediaError for anything that is not a whole picture of an accepted format within `limits`.
    """
    _check_size(data, limits)
    if kind_of(data) != "picture":
        raise MediaError(f"{describe(data)} cannot be read as a picture; {_ACCEPTED_PICTURES}")
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode_image(data, limits)
        except MediaError:
            raise
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # where Pillow itself stops, whatever the limits say
            raise MediaError(_too_many_pixels(f"more than {most}", min(most, limits.pixels))) from None
        except Exception as error:  # whatever Pillow's parsing of damaged bytes comes to
            raise MediaError(f"{describe(data)} is damaged or incomplete") from error


def _decode_image(data: bytes, limits: MediaLimits) -> Picture:
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        _check_pixels(*image.size, limits)
        notes = []
        # An MPO is a photo followed by its own previews, so nothing is lost.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes.append("only the first frame or page of this picture is shown")
        ImageOps.exif_transpose(image, in_place=True)
        rgb, more = _to_rgb(image)
        return Picture(np.asarray(rgb), (*notes, *more))


def _check_pixels(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.pixels:
        raise MediaError(_too_many_pixels(f"{width} x {height}", limits.pixels))


def _too_many_pixels(found: str, most: int) -> str:
    return f"the picture has {found} pixels; at most {most} ({most / 1e6:.0f} million) are accepted"


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them to 8
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise MediaError("a picture with 32 bits a channel cannot be read; convert it to 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB"), ()
    if image.mode == "F":
        raise MediaError("a picture of floating-point values cannot be read; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB"), ()
    return _on_white(image.convert("RGBA"))


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Shows transparent parts as a page would.

    Models never see alpha. Dropping it, as llama.cpp's loader does, shows whatever colour the encoder left behind, as
    a rule black: dark text and lines on nothing, which is most of what is transparent, would vanish.
    """
    lowest, _ = image.getchannel("A").getextrema()
    if lowest == 255:
        return image.convert("RGB"), ()
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB"), ("transparent parts of this picture are shown on white",)


def decode_audio(data: bytes, rate: int, limits: MediaLimits) -> Sound:
    """Decodes a sound to one channel (the mean of all) at `rate` Hz.

    Raises MediaError for anything that is not a whole sound of an accepted format within `limits`, for one shorter
    than 10 ms, and for samples that are no numbers.
    """
    _check_size(data, limits)
    if kind_of(data) != "sound":
        raise MediaError(f"{describe(data)} cannot be read as a sound; {_ACCEPTED_SOUNDS}")
    try:
        _check_end(data)
        with soundfile.SoundFile(_Reader(data)) as file:
            # The binding seeks after each read of a seekable file: in an MP3 that garbles the next block, and at the
            # end of a FLAC of unknown length it fails.
            file.seekable = lambda: False
            _check_header(file, limits)
            return _decode_audio(file, rate, limits)
    except MediaError:
        raise
    except Exception as error:  # libsndfile's own errors, and what its binding makes of damaged headers
        raise MediaError(f"{describe(data)} is damaged or incomplete") from error


def _decode_audio(file: soundfile.SoundFile, rate: int, limits: MediaLimits) -> Sound:
    resampler = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32")
    parts: list[Samples] = []
    frames = clipped = 0
    for block in _blocks(file):
        frames += len(block)
        _check_seconds(frames / file.samplerate, limits)
        clipped += int(np.count_nonzero(np.abs(block) > 1))
        parts.append(resampler.resample_chunk(block.clip(-1, 1).mean(axis=1, dtype=np.float32)))
    parts.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    samples = np.concatenate(parts)
    if len(samples) < max(2, SHORTEST * rate):
        raise MediaError(f"the sound has {len(samples)} samples at {rate} Hz; it must last at least 10 ms")
    return Sound(samples, tuple(_sound_notes(file, rate, frames, clipped)))


def _blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
    """The frames of a file, shape (n, channels), as they are decoded."""
    while len(block := file.read(_BLOCK // file.channels, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise MediaError("the sound has samples that are infinite or no numbers")
        yield block


def _sound_notes(file: soundfile.SoundFile, rate: int, frames: int, clipped: int) -> Iterator[str]:
    # Resampling as such loses nothing a model would hear, and is no news.
    if file.samplerate < rate:
        yield f"this sound was recorded at {file.samplerate} Hz, below the {rate} Hz the model listens at"
    if file.channels > 2:
        yield f"the {file.channels} channels of this sound were mixed into one"
    if clipped:
        yield f"{clipped} samples of this sound lay beyond full scale and were clipped"
    if file.frames != _UNKNOWN and frames < 0.9 * file.frames:  # an MP3's header estimates
        yield f"this sound ends after {frames / file.samplerate:.2f} s, before its header says"


def _check_header(file: soundfile.SoundFile, limits: MediaLimits) -> None:
    if file.format not in AUDIO_FORMATS:
        raise MediaError(f"{file.format} sounds cannot be read; {_ACCEPTED_SOUNDS}")
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise MediaError(f"the sound claims {file.samplerate} Hz; {MIN_RATE} to {MAX_RATE} Hz are accepted")
    if file.channels > MAX_CHANNELS:
        raise MediaError(f"the sound has {file.channels} channels; at most {MAX_CHANNELS} are accepted")
    if file.frames != _UNKNOWN:
        _check_seconds(file.frames / file.samplerate, limits)


def _check_seconds(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.audio_seconds:
        raise MediaError(f"the sound lasts {seconds:.1f} s; at most {limits.audio_seconds:g} s are accepted")


def _check_end(data: bytes) -> None:
    """Refuses a WAV, AIFF or OGG that is promised to go on past its end; libsndfile would decode what is there."""
    if data.startswith(b"OggS"):
        promised = _end_of_last_page(data)
    elif data.startswith((b"RIFF", b"FORM")):
        promised = _end_of_sound_chunk(data)
    else:
        return
    if promised > len(data):
        raise MediaError(f"the sound is cut off or its header is false: it promises {promised} bytes, has {len(data)}")


def _end_of_last_page(data: bytes) -> int:
    at = data.rfind(b"OggS") + 26
    sizes = data[at + 1 : at + 1 + data[at]]
    return at + 1 + data[at] + sum(sizes)


def _end_of_sound_chunk(data: bytes) -> int:
    """0 for a WAV that was written to a pipe: it promises as much as it can, and is read to its end."""
    header = struct.Struct("<4sI" if data.startswith(b"RIFF") else ">4sI")
    at = 12
    while at + header.size <= len(data):
        name, size = header.unpack_from(data, at)
        at += header.size + size
        if name in (b"data", b"SSND"):
            return 0 if size >= _STREAMED else at
        at += size & 1
    return at


class _Reader(io.BytesIO):
    """Seeks to a place before the start end at the start: an exception inside libsndfile's callback is only printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(min(max(0, base + offset), len(self.getbuffer())))


def _check_size(data: bytes, limits: MediaLimits, param: str | None = None) -> None:
    if len(data) > limits.bytes:
        raise MediaError(f"the picture or sound is larger than {limits.bytes / 2**20:g} MiB", param)
