"""Video as frames: sampling, refusals, and malicious files."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.server import Server, serving, text_part
from galago.models.errors import InvalidRequest, MediaError, UnsupportedField
from galago.runtime import LocalModel
from galago.runtime.media import video_decoder as program
from galago.runtime.media.limits import MediaLimits
from galago.runtime.media.video import VideoFrames, decode_video
from galago.runtime.types.messages import MAX_VIDEO_FRAMES, Frame, Text, Video


def video_file(
    codec: str = "libx264",
    container: str = "mp4",
    seconds: float = 4,
    rate: int = 10,
    size: tuple[int, int] = (64, 48),
    sound: bool = False,
    **options: str,
) -> bytes:
    """Grey that grows lighter evenly, with a white stripe at the top."""
    out, count = io.BytesIO(), round(seconds * rate)
    with av.open(out, "w", format=container, container_options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.gop_size = *size, 10
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        audio: Any = file.add_stream("aac", rate=16000) if sound else None
        for i in range(count):
            pixels = np.full((size[1], size[0], 3), i * 200 // count, np.uint8)
            pixels[: size[1] // 4] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16000
            file.mux(audio.encode(silence))
            file.mux(audio.encode(None))
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # As root, SVT-AV1 raises the calling thread to the highest real-time priority, which the threads and processes
        # started later would inherit: spinning threads of a model would then keep all other programs from running.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return out.getvalue()


def decoded(data: bytes, frames: int = 4) -> VideoFrames:
    return decode_video(Video(data, frames=frames), MediaLimits())


def shown(video: VideoFrames) -> list[Frame]:
    return [part for part in video.parts if isinstance(part, Frame)]


def grey(frame: Frame) -> int:
    """Returns the gray level of the last pixel."""
    return frame.pixels[-1]


CONTAINERS = [
    ("libx264", "mp4"), ("libx264", "matroska"), ("libx265", "mov"), ("libvpx", "webm"), ("libvpx-vp9", "webm"),
    ("libsvtav1", "mp4"), ("mpeg4", "avi"), ("mjpeg", "avi"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "container"), CONTAINERS)
def test_frames_are_from_the_middle_of_equal_intervals_and_follow_their_times(codec: str, container: str) -> None:
    parts = decoded(video_file(codec, container)).parts
    assert [part.text for part in parts[::2] if isinstance(part, Text)] == [
        "<0.5 seconds>", "<1.5 seconds>", "<2.5 seconds>", "<3.5 seconds>",
    ]  # fmt: skip
    frames = [part for part in parts[1::2] if isinstance(part, Frame)]
    assert [(frame.width, frame.height, len(frame.pixels)) for frame in frames] == [(64, 48, 64 * 48 * 3)] * 4
    for frame, expected in zip(frames, (25, 75, 125, 175), strict=True):
        assert abs(grey(frame) - expected) < 12
        assert frame.pixels[0] > 200


def test_a_video_without_a_duration_in_its_header_is_sampled_the_same() -> None:
    fragmented = video_file(movflags="frag_keyframe+empty_moov")
    times = [part.text for part in decoded(fragmented).parts[::2] if isinstance(part, Text)]
    assert len(times) == 4 and times[-1] in ("<3.4 seconds>", "<3.5 seconds>")


def test_a_video_is_shown_upright() -> None:
    data = video_file(size=(64, 48))
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer, volume; then the matrix
    assert struct.unpack(">i", data[at : at + 4])[0] == 1 << 16
    for matrix, corner in (((0, 1 << 16, 0, -(1 << 16), 0), "right"), ((0, -(1 << 16), 0, 1 << 16, 0), "left")):
        turned = data[:at] + struct.pack(">5i", *matrix) + data[at + 20 :]
        first = shown(decoded(turned))[0]
        assert (first.width, first.height) == (48, 64)
        row = np.frombuffer(first.pixels, np.uint8).reshape(64, 48, 3)[32, :, 0]
        assert (row[-1] > 200 > row[0]) if corner == "right" else (row[0] > 200 > row[-1])


def test_pixels_become_square() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream: Any = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    assert [(frame.width, frame.height) for frame in shown(decoded(out.getvalue()))] == [(128, 48)]


def test_a_video_with_few_frames_is_shown_with_all_of_them() -> None:
    found = decoded(video_file(seconds=0.3), frames=8)
    assert len(shown(found)) == 3
    assert any("no more" in note for note in found.notes)


def test_an_audio_track_causes_a_note() -> None:
    assert any("not used" in note for note in decoded(video_file(sound=True)).notes)
    assert decoded(video_file()).notes == ()


def test_large_frames_are_scaled_down() -> None:
    frames = shown(decoded(video_file(seconds=0.4, size=(1920, 1080)), frames=1))
    assert frames[0].width * frames[0].height <= program.MAX_OUTPUT_FRAME_PIXELS
    assert abs(frames[0].width / frames[0].height - 16 / 9) < 0.01


@pytest.mark.parametrize("frames", [0, -1, MAX_VIDEO_FRAMES + 1, 1.5, True])
def test_an_impossible_number_of_frames_is_refused(frames: Any) -> None:
    with pytest.raises(InvalidRequest, match="frames"):
        Video(b"", frames=frames)


def test_a_video_that_is_too_large_is_refused() -> None:
    with pytest.raises(MediaError, match="larger than"):
        decode_video(Video(video_file()), MediaLimits(bytes=100))


def test_frames_beyond_4k_are_refused() -> None:
    with pytest.raises(MediaError, match="8000 x 2000"):
        decoded(video_file(seconds=0.1, size=(8000, 2000)))


def test_a_video_that_is_too_long_is_refused() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream: Any = file.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for second in (0, 5000):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            picture.pts = second
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    with pytest.raises(MediaError, match="lasts 500"):
        decoded(out.getvalue())


def test_an_unsupported_codec_is_named() -> None:
    with pytest.raises(MediaError, match="can be read"):
        decoded(video_file("mpeg2video", "matroska"))


PLAYLISTS = {
    "HLS": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "nothing": b"",
}


@pytest.mark.parametrize("data", PLAYLISTS.values(), ids=PLAYLISTS)
def test_other_files_never_reach_the_decoder(data: bytes) -> None:
    with pytest.raises(MediaError, match="cannot be read as a video"):
        decoded(data)


def test_a_playlist_disguised_as_a_video_opens_no_file() -> None:
    for begin in (b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3", b"RIFF\0\0\0\0AVI "):
        with pytest.raises(MediaError, match="damaged|no frames"):
            decoded(begin + PLAYLISTS["HLS"] + PLAYLISTS["concat"])


def test_a_header_that_claims_billions_of_frames_is_refused_cheaply() -> None:
    data = bytearray(video_file())
    at = data.index(b"stsz") + 4
    data[at + 4 : at + 12] = struct.pack(">2I", 1, 2**31)  # each of one byte
    chunks = data.index(b"stsc") + 4
    data[chunks + 12 : chunks + 16] = struct.pack(">I", 2**31)
    with pytest.raises(MediaError):
        decoded(bytes(data))


def test_a_decoder_that_runs_too_long_or_grows_too_large_is_ended() -> None:
    limit = "f.limit_this_process(address_bytes=f.MAX_MEMORY_BYTES, cpu_seconds=1)"
    begin = f"import galago.runtime.media.video_decoder as f\n{limit}\n"
    spins = subprocess.run([sys.executable, "-c", begin + "while True: pass"], capture_output=True, timeout=60)
    assert spins.returncode == -signal.SIGXCPU
    grows = subprocess.run(
        [sys.executable, "-c", begin + "bytearray(f.MAX_MEMORY_BYTES)"], capture_output=True, timeout=60
    )
    assert b"MemoryError" in grows.stderr


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_damaged_videos_are_refused_or_decoded_in_part(data: st.DataObject) -> None:
    whole = bytearray(video_file(seconds=1))
    for _ in range(data.draw(st.integers(1, 30))):
        whole[data.draw(st.integers(12, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(40, len(whole)))])
    try:
        frames = shown(decoded(cut, 3))
    except MediaError as error:
        assert error.message
    else:
        assert 1 <= len(frames) <= 3
        assert all(len(frame.pixels) == 3 * frame.width * frame.height for frame in frames)


def test_without_pyav_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedField, match=r"pip install 'galago\[video\]'"):
        decoded(video_file())


def asked(client: openai.OpenAI, **video: Any) -> Any:
    part = {
        "type": "input_video",
        "input_video": {"data": base64.b64encode(video_file()).decode(), "format": "mp4"} | video,
    }
    messages: Any = [{"role": "user", "content": [part, text_part("What happens?")]}]
    return client.chat.completions.create(model="builtin", messages=messages, max_tokens=8)


def test_video_frames_are_counted_like_images(client: openai.OpenAI) -> None:
    for frames in (1, 5):
        assert asked(client, frames=frames).usage.prompt_tokens_details.image_tokens == 16 * frames
    assert asked(client).usage.prompt_tokens_details.image_tokens == 16 * 8


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"frames": 1000}, "frames"),
        ({"data": base64.b64encode(b"hello").decode()}, "messages[0].content[0].input_video.data"),
        ({"data": "@"}, "messages[0].content[0].input_video.data"),
        ({"data": None}, "messages[0].content[0].input_video.data"),
    ],
)
def test_an_invalid_video_is_refused_with_its_field(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        asked(client, **change)
    assert refused.value.param == param


@pytest.mark.parametrize("way", ["bytes", "path"])
def test_the_python_api_accepts_video(model: LocalModel, tmp_path: Path, way: str) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(video_file())
    given: Any = path if way == "path" else path.read_bytes()
    shown, fewer = model.chat("What is it?", video=given), model.chat("What is it?", video=[given], frames=2)
    assert (shown.usage.image_tokens, fewer.usage.image_tokens) == (8 * 16, 2 * 16)
    with pytest.raises(InvalidRequest, match="frames"):
        model.chat("What is it?", video=given, frames=65)
    with pytest.raises(MediaError, match="cannot be read as a video"):
        model.chat("What is it?", video=b"RIFF")


def test_the_command_line_accepts_video(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(video_file())
    command = [sys.executable, "-m", "galago.runtime.cli.main"]
    run = [*command, "run", "builtin", "What is it?", "--stats", "--max-tokens", "4"]
    read = [
        re.search(r"\((\d+) prompt tokens", subprocess.run([*run, *more], capture_output=True, text=True).stderr)
        for more in (["--video", str(path)], ["--video", str(path), "--frames", "2"])
    ]
    assert read[0] and read[1] and int(read[0][1]) >= int(read[1][1]) + 6 * 16
    lines = f"/video {path}\nWhat is it?\n"
    done = subprocess.run(
        [*command, "chat", "builtin", "--max-tokens", "4"], input=lines, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip() and "video" not in done.stderr


def test_a_video_that_does_not_fit_is_refused_with_both_numbers(server: Server) -> None:
    part = {
        "type": "input_video",
        "input_video": {"data": base64.b64encode(video_file(seconds=8)).decode(), "frames": 64},
    }
    answer = server.ask([part, part])
    assert answer.json()["error"]["code"] == "context_length_exceeded" and "2048" in answer.text


def test_an_uploaded_video_is_found_by_its_id(tmp_path: Path) -> None:
    with serving("--threads", "1", "--store", str(tmp_path / "store")) as running:
        running.wait_until_ready()
        with running.client() as client:
            name = client.files.create(file=video_file(), purpose="user_data").id
        for kind in ("file", "input_video"):
            part = {"type": kind, kind: {"file_id": name}}
            usage = running.ask([part, text_part("What happens?")], max_tokens=4).json()["usage"]
            assert usage["prompt_tokens_details"]["image_tokens"] == 16 * 8
