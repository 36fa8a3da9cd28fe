"""Films as pictures with their times: bytes that nobody has vouched for in, frames out. A process of its own decodes
them, which may crash, hang or grow without harm to this one. Knows no codec.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...models.errors import MediaError, UnsupportedField
from ..process import spawn
from ..types.messages import Frame, Text, Video
from .decode import MediaLimits, Picture
from .sniff import container_of, describe, kind_of
from .video_decoder import CPU_SECONDS

_PATIENCE = 4 * CPU_SECONDS  # seconds, as others may use the processor


@dataclass(frozen=True)
class VideoFrames:
    """Before each frame stands its time, as Qwen3-VL's own processor writes it. `notes` say what is not shown."""

    parts: tuple[Text | Frame, ...]
    notes: tuple[str, ...]


def decode_video(video: Video, limits: MediaLimits) -> VideoFrames:
    """Decodes as many frames of a film as it asks for, each from the middle of one of as many equal stretches.

    Raises `MediaError` for what is no film or beyond a limit, and `UnsupportedField` where PyAV is not installed.
    """
    data = video.data
    if kind_of(data) != "film":
        raise MediaError(f"{describe(data)} cannot be read as a film; MP4, MOV, WebM, Matroska and AVI are accepted")
    if len(data) > limits.bytes:
        raise MediaError(f"the film is larger than {limits.bytes / 2**20:g} MiB")
    if importlib.util.find_spec("av") is None:
        raise UnsupportedField("films need PyAV, which is not installed here: pip install 'galago[video]'")
    program = "galago.runtime.media.video_decoder"
    end = spawn.run_module(program, container_of(data), video.frames, stdin=data, timeout_seconds=_PATIENCE)
    if end.timed_out or end.out_of_cpu_time:
        raise _too_slow()
    if not end.ok:
        raise MediaError("the film is damaged: its decoder ended with an error")
    return _film(end.stdout, video)


def _too_slow() -> MediaError:
    return MediaError(f"the film takes more than {CPU_SECONDS} s to decode; shorten it or make it smaller")


def _film(output: bytes, video: Video) -> VideoFrames:
    head, _, pixels = output.partition(b"\n")
    said = json.loads(head)
    if "error" in said:
        raise MediaError(said["error"])
    return VideoFrames(tuple(_parts(said["frames"], pixels, video.source)), tuple(said["notes"]))


def _parts(frames: Sequence[tuple[float, int, int, int]], pixels: bytes, source: str) -> Iterator[Text | Frame]:
    at = 0
    for seconds, width, height, turned in frames:
        size = 3 * width * height
        picture = np.frombuffer(pixels[at : at + size], np.uint8).reshape(height, width, 3)
        picture = np.rot90(picture, turned // 90)
        yield Text(f"<{seconds:.1f} seconds>")
        yield Frame(picture.tobytes(), picture.shape[1], picture.shape[0], source)
        at += size


def pixels_of(frame: Frame) -> Picture:
    """Raises `MediaError` where there are not as many bytes as there should be."""
    if len(frame.pixels) != 3 * frame.width * frame.height or not frame.pixels:
        raise MediaError(f"{len(frame.pixels)} bytes are no RGB picture of {frame.width} x {frame.height}")
    return Picture(np.frombuffer(frame.pixels, np.uint8).reshape(frame.height, frame.width, 3))
