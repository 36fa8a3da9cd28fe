"""The program that decodes a film, in a process of its own whose memory and time are bounded, because a film's decoders
are the largest target for hostile bytes. `python -m ...video_decoder CONTAINER COUNT` reads the film from
standard input and writes one line of JSON and the pixels of its frames. Opens nothing else.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ...models.errors import MediaError
from ..process.limits import limit_this_process

if TYPE_CHECKING:
    from av.video import VideoFrame, VideoStream

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg")
MOST_PIXELS = 9_000_000  # of a film's frame: 4K
MOST_SECONDS = 3600
CPU_SECONDS = 30
MEMORY = 2 * 2**30
FRAME_PIXELS, ALL_PIXELS = 1_000_000, 16_000_000
"""Of one frame and of all together at most, as they are handed on."""


def main(container: str, count: int) -> None:
    limit_this_process(address_bytes=MEMORY, cpu_seconds=CPU_SECONDS)
    try:
        frames, notes = sample(sys.stdin.buffer.read(), container, count)
    except MediaError as error:
        said: dict[str, Any] = {"error": error.message}
        frames = []
    else:
        said = {"frames": [frame[:4] for frame in frames], "notes": notes}
    out = sys.stdout.buffer
    out.write(json.dumps(said).encode() + b"\n")
    for *_, pixels in frames:
        out.write(pixels)


DecodedFrame = tuple[float, int, int, int, bytes]
"""Seconds from the beginning, width, height, degrees to turn it by (counterclockwise), and its RGB pixels."""


def sample(data: bytes, container: str, count: int) -> tuple[list[DecodedFrame], list[str]]:
    """So many frames, each from the middle of one of as many equal stretches; fewer where a film has no more.

    Raises `MediaError` for what is no film that can be decoded here.
    """
    import av

    options = {"codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), format=container, container_options=options) as film:
            if not film.streams.video:
                raise MediaError("the film has no pictures that can be read here")
            notes = ["the sound of this film is not heard"] if film.streams.audio else []
            return _sample(film, film.streams.video[0], count, notes)
    except MediaError:
        raise
    except MemoryError:
        raise MediaError("the film takes too much memory to decode") from None
    except Exception as error:  # whatever FFmpeg's parsing of damaged bytes comes to
        raise MediaError("the film is damaged or incomplete") from error


def _sample(film: Any, stream: VideoStream, count: int, notes: list[str]) -> tuple[list[DecodedFrame], list[str]]:
    context = stream.codec_context
    if context.name not in CODECS:
        raise MediaError(f"the film is coded as {context.name}; H.264, HEVC, VP8, VP9, AV1 and MPEG-4 can be read")
    _check_size(context.width, context.height)
    context.thread_count = 1
    context.options = {"max_pixels": str(MOST_PIXELS)}
    packets = [packet for packet in film.demux(stream) if packet.size and _time(packet, stream) is not None]
    if not packets:
        raise MediaError("the film has no pictures")
    times = [_time(packet, stream) or 0.0 for packet in packets]
    begin, seconds = min(times), _seconds(stream, times)
    instants = [begin + seconds * (i + 0.5) / count for i in range(count)]
    frames = []
    for frame in _picked(stream, packets, times, instants):
        at = max((_time(frame, stream) or 0.0) - begin, 0.0)
        frames.append((round(at, 3), *_shown(frame, stream, count)))
    if not frames:
        raise MediaError("the film is damaged: none of its pictures can be decoded")
    if len(frames) < count:
        notes.append(f"this film was shown in {len(frames)} pictures, as it has no more, and not in {count}")
    return frames, notes


def _seconds(stream: VideoStream, times: Sequence[float]) -> float:
    """From the first frame's beginning to the last one's end."""
    rate = stream.average_rate
    last = float(1 / rate) if rate else 0.0
    seconds = max(times) - min(times) + min(last, 1.0)
    if seconds > MOST_SECONDS:
        raise MediaError(f"the film lasts {seconds:.0f} s; at most {MOST_SECONDS} s are accepted")
    return seconds


def _picked(
    stream: VideoStream, packets: Sequence[Any], times: Sequence[float], instants: Sequence[float]
) -> Iterator[VideoFrame]:
    """The frame that is on the screen at each instant, each once. Decoding begins at the key frame before it."""
    context = stream.codec_context
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe] or [0]
    key_times = [times[i] for i in keys]
    decoded: deque[VideoFrame] = deque()
    position, frame, told = 0, None, None
    for instant in instants:
        key = keys[max(bisect.bisect_right(key_times, instant) - 1, 0)]
        if key > position:
            context.flush_buffers()
            decoded.clear()
            position = key
        while True:
            while not decoded and position <= len(packets):
                with contextlib.suppress(ValueError):  # what PyAV raises for a damaged packet
                    decoded.extend(context.decode(packets[position] if position < len(packets) else None))
                position += 1
            if not decoded or (frame is not None and (_time(decoded[0], stream) or 0.0) > instant):
                break
            frame = decoded.popleft()
        if frame is not None and frame is not told:
            yield frame
            told = frame


def _shown(frame: VideoFrame, stream: VideoStream, count: int) -> tuple[int, int, int, bytes]:
    """A frame with square pixels, not larger than needed."""
    _check_size(frame.width, frame.height)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = frame.width * min(max(float(aspect), 0.1), 10.0), float(frame.height)
    most = min(FRAME_PIXELS, ALL_PIXELS // count)
    scale = min(1.0, (most / (width * height)) ** 0.5)
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    rgb = frame.reformat(width=size[0], height=size[1], format="rgb24")
    plane, row = rgb.planes[0], size[0] * 3
    raw = bytes(plane)
    pixels = b"".join(raw[y * plane.line_size : y * plane.line_size + row] for y in range(size[1]))
    return *size, round(frame.rotation), pixels


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise MediaError(f"the film's pictures are {width} x {height}; at most {MOST_PIXELS} pixels are accepted")


def _time(thing: Any, stream: VideoStream) -> float | None:
    """When a packet or frame is shown, in seconds; AVI tells only when it is decoded."""
    stamp = thing.pts if thing.pts is not None else thing.dts
    return None if stamp is None else float(stamp * (thing.time_base or stream.time_base or 0))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
