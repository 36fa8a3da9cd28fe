"""Samples frames from untrusted video files. A child process decodes them, so that a crash, a hang or excessive memory
use does not affect this process.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...models.errors import MediaError, UnsupportedField
from ..process import spawn
from ..types.messages import Frame, Text, Video
from .limits import MediaLimits, check_size
from .sniff import container_of, describe, kind_of
from .video_decoder import CPU_SECONDS

_TIMEOUT_SECONDS = 4 * CPU_SECONDS
"""More than the decoder's CPU time, because other processes may use the CPU."""


@dataclass(frozen=True)
class VideoFrames:
    """The sampled frames, each after its time in the form that Qwen3-VL's processor uses. `notes` say what is lost."""

    parts: tuple[Text | Frame, ...]
    notes: tuple[str, ...]


def decode_video(video: Video, limits: MediaLimits, cancelled: Callable[[], bool] = lambda: False) -> VideoFrames:
    """Decodes `video.frames` frames, each from the middle of one of as many equal intervals.

    Raises `MediaError` for anything but a video within the limits, `UnsupportedField` if PyAV is not installed, and
    `Cancelled` if the client leaves meanwhile.
    """
    data = video.data
    if kind_of(data) != "video":
        raise MediaError(f"{describe(data)} cannot be read as a video; MP4, MOV, WebM, Matroska and AVI are accepted")
    check_size(data, limits)
    if importlib.util.find_spec("av") is None:
        raise UnsupportedField("video needs PyAV, which is not installed; install it with: pip install 'galago[video]'")
    program = "galago.runtime.media.video_decoder"
    arguments = (container_of(data), video.frames)
    end = spawn.run_module(program, *arguments, stdin=data, timeout_seconds=_TIMEOUT_SECONDS, cancelled=cancelled)
    if end.timed_out or end.out_of_cpu_time:
        raise _too_slow()
    if not end.ok:
        raise MediaError("the video is damaged: its decoder failed")
    return _read_frames(end.stdout, video)


def _too_slow() -> MediaError:
    return MediaError(f"the video takes more than {CPU_SECONDS} s to decode; make it shorter or smaller")


def _read_frames(output: bytes, video: Video) -> VideoFrames:
    head, _, pixels = output.partition(b"\n")
    result = json.loads(head)
    if "error" in result:
        raise MediaError(result["error"])
    return VideoFrames(tuple(_parts(result["frames"], pixels, video.source)), tuple(result["notes"]))


def _parts(frames: Sequence[tuple[float, int, int, int]], pixels: bytes, source: str) -> Iterator[Text | Frame]:
    at = 0
    for seconds, width, height, rotation in frames:
        size = 3 * width * height
        image = np.frombuffer(pixels[at : at + size], np.uint8).reshape(height, width, 3)
        image = np.rot90(image, rotation // 90)
        yield Text(f"<{seconds:.1f} seconds>")
        yield Frame(image.tobytes(), image.shape[1], image.shape[0], source)
        at += size
