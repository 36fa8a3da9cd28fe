"""The child process that decodes a video, with limits on memory and CPU time: video decoders are the largest target
for malicious files.

`python -m ...video_decoder CONTAINER COUNT` reads the video from standard input. It writes one line of JSON and the
pixels of the frames to standard output. It opens no files.
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
MAX_FRAME_PIXELS = 9_000_000
"""Pixels of a frame in the file: 4K."""
MAX_DURATION_SECONDS = 3600
CPU_SECONDS = 30
MAX_MEMORY_BYTES = 2 * 2**30
MAX_OUTPUT_FRAME_PIXELS = 1_000_000
MAX_OUTPUT_PIXELS = 16_000_000
"""Pixels of all output frames together."""


def main(container: str, count: int) -> None:
    limit_this_process(address_bytes=MAX_MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
    try:
        frames, notes = sample(sys.stdin.buffer.read(), container, count)
    except MediaError as error:
        result: dict[str, Any] = {"error": error.message}
        frames = []
    else:
        result = {"frames": [frame[:4] for frame in frames], "notes": notes}
    out = sys.stdout.buffer
    out.write(json.dumps(result).encode() + b"\n")
    for *_, pixels in frames:
        out.write(pixels)


DecodedFrame = tuple[float, int, int, int, bytes]
"""Seconds from the start, width, height, rotation in degrees (counterclockwise), and RGB pixels."""


def sample(data: bytes, container: str, count: int) -> tuple[list[DecodedFrame], list[str]]:
    """Decodes `count` frames, each from the middle of one of as many equal intervals; fewer if the video has fewer.

    Also returns notes about what is lost. Raises `MediaError` for anything but a video that can be decoded.
    """
    import av

    options = {"codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), format=container, container_options=options) as video:
            if not video.streams.video:
                raise MediaError("the video has no frames that can be read")
            notes = ["the audio track of this video is not used"] if video.streams.audio else []
            return _sample(video, video.streams.video[0], count, notes)
    except MediaError:
        raise
    except MemoryError:
        raise MediaError("the video takes too much memory to decode") from None
    except Exception as error:  # FFmpeg raises many types of error for damaged files
        raise MediaError("the video is damaged or incomplete") from error


def _sample(video: Any, stream: VideoStream, count: int, notes: list[str]) -> tuple[list[DecodedFrame], list[str]]:
    context = stream.codec_context
    if context.name not in CODECS:
        raise MediaError(f"the video is encoded as {context.name}; H.264, HEVC, VP8, VP9, AV1 and MPEG-4 can be read")
    _check_size(context.width, context.height)
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    packets = [packet for packet in video.demux(stream) if packet.size and _time(packet, stream) is not None]
    if not packets:
        raise MediaError("the video has no frames")
    times = [_time(packet, stream) or 0.0 for packet in packets]
    begin, seconds = min(times), _duration_seconds(stream, times)
    sample_times = [begin + seconds * (i + 0.5) / count for i in range(count)]
    frames = []
    for frame in _frames_at(stream, packets, times, sample_times):
        at = max((_time(frame, stream) or 0.0) - begin, 0.0)
        frames.append((round(at, 3), *_output(frame, stream, count)))
    if not frames:
        raise MediaError("the video is damaged: none of its frames can be decoded")
    if len(frames) < count:
        notes.append(f"only {len(frames)} frames of this video are shown instead of {count}, because it has no more")
    return frames, notes


def _duration_seconds(stream: VideoStream, times: Sequence[float]) -> float:
    """The time from the start of the first frame to the end of the last one."""
    rate = stream.average_rate
    frame_seconds = float(1 / rate) if rate else 0.0
    seconds = max(times) - min(times) + min(frame_seconds, 1.0)
    if seconds > MAX_DURATION_SECONDS:
        raise MediaError(f"the video lasts {seconds:.0f} s; at most {MAX_DURATION_SECONDS} s are accepted")
    return seconds


def _frames_at(
    stream: VideoStream, packets: Sequence[Any], times: Sequence[float], sample_times: Sequence[float]
) -> Iterator[VideoFrame]:
    """Yields the frame that is visible at each sample time, each frame once. Starts at the key frame before it."""
    context = stream.codec_context
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe] or [0]
    key_times = [times[i] for i in keys]
    decoded: deque[VideoFrame] = deque()
    position, frame, last_yielded = 0, None, None
    for sample_time in sample_times:
        key = keys[max(bisect.bisect_right(key_times, sample_time) - 1, 0)]
        if key > position:
            context.flush_buffers()
            decoded.clear()
            position = key
        while True:
            while not decoded and position <= len(packets):
                with contextlib.suppress(ValueError):  # raised by PyAV for a damaged packet
                    decoded.extend(context.decode(packets[position] if position < len(packets) else None))
                position += 1
            if not decoded or (frame is not None and (_time(decoded[0], stream) or 0.0) > sample_time):
                break
            frame = decoded.popleft()
        if frame is not None and frame is not last_yielded:
            yield frame
            last_yielded = frame


def _output(frame: VideoFrame, stream: VideoStream, count: int) -> tuple[int, int, int, bytes]:
    """Scales a frame to square pixels and at most the output size."""
    _check_size(frame.width, frame.height)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = frame.width * min(max(float(aspect), 0.1), 10.0), float(frame.height)
    max_pixels = min(MAX_OUTPUT_FRAME_PIXELS, MAX_OUTPUT_PIXELS // count)
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    rgb = frame.reformat(width=size[0], height=size[1], format="rgb24")
    plane, row = rgb.planes[0], size[0] * 3
    raw = bytes(plane)
    pixels = b"".join(raw[y * plane.line_size : y * plane.line_size + row] for y in range(size[1]))
    return *size, round(frame.rotation), pixels


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"the video's frames are {width} x {height}; at most {MAX_FRAME_PIXELS} pixels are accepted")


def _time(timed: Any, stream: VideoStream) -> float | None:
    """When a packet or frame is shown, in seconds. AVI files only store decoding times."""
    stamp = timed.pts if timed.pts is not None else timed.dts
    return None if stamp is None else float(stamp * (timed.time_base or stream.time_base or 0))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
