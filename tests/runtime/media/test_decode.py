"""Images and audio are decoded faithfully, and everything else is refused."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from galago.models.errors import MediaError
from galago.runtime.media.audio import DecodedAudio, Samples, decode_audio
from galago.runtime.media.image import DecodedImage, decode_image
from galago.runtime.media.limits import MediaLimits, read_media_file

LIMITS = MediaLimits()
RATE = 16_000
ANY_BYTES = settings(max_examples=300, deadline=None)
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def refused_image(data: bytes, limits: MediaLimits = LIMITS) -> str:
    with pytest.raises(MediaError) as caught:
        decode_image(data, limits)
    return caught.value.message


def refused_audio(data: bytes, limits: MediaLimits = LIMITS) -> str:
    with pytest.raises(MediaError) as caught:
        decode_audio(data, RATE, limits)
    return caught.value.message


def corners(picture: DecodedImage) -> list[tuple[int, ...]]:
    """Colours at the four corners, clockwise from the top left, to the nearest of black and full."""
    pixels = np.where(picture.pixels > 127, 255, 0)
    return [tuple(map(int, pixels[y, x])) for y, x in [(0, 0), (0, -1), (-1, -1), (-1, 0)]]


def four_colours() -> Image.Image:
    """32 x 16, a different colour in each quarter: red, green, blue, white, clockwise from the top left."""
    image = Image.new("RGB", (32, 16))
    for box, colour in [((0, 0), RED), ((16, 0), GREEN), ((16, 8), BLUE), ((0, 8), WHITE)]:
        image.paste(colour, (*box, box[0] + 16, box[1] + 8))
    return image


# Pictures


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_accepted_format(format: str) -> None:
    picture = decode_image(encoded(four_colours(), format), LIMITS)
    assert picture.pixels.shape == (16, 32, 3)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.c_contiguous
    assert corners(picture) == [RED, GREEN, BLUE, WHITE]
    assert picture.notes == ()


TURNED = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [BLUE, WHITE, RED, GREEN],
    4: [WHITE, BLUE, GREEN, RED],
    5: [RED, WHITE, BLUE, GREEN],
    6: [WHITE, RED, GREEN, BLUE],
    7: [BLUE, GREEN, RED, WHITE],
    8: [GREEN, BLUE, WHITE, RED],
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_image(encoded(four_colours(), format, exif=exif), LIMITS)
    assert picture.pixels.shape == ((32, 16, 3) if orientation > 4 else (16, 32, 3))
    assert corners(picture) == TURNED[orientation]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "RGBX", "I;16", "I;16B"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (4, 2), 255)
    grey.putpixel((0, 0), 0)
    if mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(grey) * np.uint16(257)).astype(">u2" if mode.endswith("B") else "<u2"))
    else:
        image = grey.convert("RGB").convert(mode)
    assert image.mode == mode
    picture = decode_image(encoded(image, "TIFF" if mode in ("CMYK", "RGBX", "I;16B") else "PNG"), LIMITS)
    assert corners(picture) == [BLACK, WHITE, WHITE, WHITE]


def test_cmyk_jpeg() -> None:
    assert corners(decode_image(encoded(four_colours().convert("CMYK"), "JPEG"), LIMITS)) == [RED, GREEN, BLUE, WHITE]


def test_16_bits_are_scaled_and_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16))
    assert decode_image(encoded(image), LIMITS).pixels[0, :, 0].tolist() == [0, 0x40, 0x80, 0xFF]


@pytest.mark.parametrize("values", [np.array([[70_000, 0]], np.int32), np.array([[0.5, 0]], np.float32)])
def test_values_without_a_known_scale_are_refused(values: Any) -> None:
    assert "convert it" in refused_image(encoded(Image.fromarray(values), "TIFF"))


def test_transparent_parts_become_white_with_a_note() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    picture = decode_image(encoded(image), LIMITS)
    assert picture.pixels[0, :, 0].tolist() == [255, 0, 127]
    assert picture.notes == ("transparent parts of this image are shown on white",)
    assert decode_image(encoded(Image.new("RGBA", (3, 1), (9, 9, 9, 255))), LIMITS).notes == ()


def test_palette_with_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for transparency in (0, bytes([0, 255])):
        picture = decode_image(encoded(image, transparency=transparency), LIMITS)
        assert picture.pixels[0].tolist() == [[255, 255, 255], [0, 0, 255]]
        assert len(picture.notes) == 1


def frames(format: str, colours: Sequence[tuple[int, ...]] = (RED, GREEN, BLUE)) -> bytes:
    first, *rest = [Image.new("RGB", (8, 8), colour) for colour in colours]
    return encoded(first, format, save_all=True, append_images=rest, **({"lossless": True} if format == "WEBP" else {}))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_is_shown_with_a_note(format: str) -> None:
    picture = decode_image(frames(format), LIMITS)
    assert corners(picture) == [RED] * 4
    assert picture.notes == ("only the first frame or page of this image is shown",)


def test_previews_inside_a_photo_are_not_frames() -> None:
    picture = decode_image(frames("MPO", [RED, GREEN]), LIMITS)
    assert corners(picture) == [RED] * 4
    assert picture.notes == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_narrow_images(format: str, size: tuple[int, int]) -> None:
    assert decode_image(encoded(Image.new("RGB", size), format), LIMITS).pixels.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_image_is_refused(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    data = encoded(noise, format)
    for length in (len(data) // 2, len(data) * 9 // 10, 20):
        assert "damaged or incomplete" in refused_image(data[:length])


def test_pixels_are_limited_by_the_header() -> None:
    data = encoded(Image.new("RGB", (100, 50)))
    assert decode_image(data, MediaLimits(pixels=5000)).pixels.shape == (50, 100, 3)
    assert "100 x 50" in refused_image(data, MediaLimits(pixels=4999))
    without_pixels = data[: data.index(b"IDAT") + 4]
    assert "100 x 50" in refused_image(without_pixels, MediaLimits(pixels=4999))


def test_many_pixels_within_the_limit_cause_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert decode_image(encoded(Image.new("RGB", (100, 50))), LIMITS).pixels.shape == (50, 100, 3)
    assert "more than 6000 pixels; at most 6000" in refused_image(encoded(Image.new("RGB", (100, 70))))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb_png(side: int) -> bytes:
    """A valid one-colour PNG of `side` x `side`, at one bit a pixel, made row by row."""
    packer, row = zlib.compressobj(9), bytes(1 + -(-side // 8))
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb_webp() -> bytes:
    """The lossless header of 16383 x 16383 pixels, and the start of a body."""
    body = b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(20)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def bomb_gif() -> bytes:
    """10^5 frames of one pixel."""
    frame = b"\x2c\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02\x44\x01\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + frame * 100_000 + b";"


def bomb_wav() -> bytes:
    return wav(np.zeros(100, np.float32), claim=4 * RATE * 3600 * 2)


def bomb_flac() -> bytes:
    return claiming_flac(2**36 - 1)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png": (lambda: bomb_png(20_000), "at most 64000000"),
    "png below Pillow's limit": (lambda: bomb_png(9_000), "9000 x 9000"),
    "webp": (bomb_webp, "image"),  # Pillow below 13 asks for the whole body first
    "gif": (bomb_gif, ""),
    "wav": (bomb_wav, "declares"),
    "flac": (bomb_flac, "at most 600 s"),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_header(name: str, tmp_path: Path) -> None:
    make, words = BOMBS[name]
    (tmp_path / "bomb").write_bytes(make())
    program = """
        import sys, time
        from pathlib import Path
        from PIL import Image
        from galago.models.errors import MediaError
        from galago.runtime.media.audio import decode_audio
        from galago.runtime.media.image import decode_image
        from galago.runtime.media.limits import MediaLimits

        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

        Image.init()
        data = Path("bomb").read_bytes()
        before, begin, message = peak(), time.perf_counter(), ""
        try:
            if sys.argv[1] in ("wav", "flac"):
                decode_audio(data, 16000, MediaLimits())
            else:
                decode_image(data, MediaLimits())
        except MediaError as error:
            message = error.message
        print(peak() - before, time.perf_counter() - begin, message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), name], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    kib, seconds, message = done.stdout.strip().split(" ", 2) if words else (*done.stdout.split(), "")
    assert int(kib) < 50 * 1024
    assert float(seconds) < 1.0
    assert words in message


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\nhttp://127.0.0.1/\n"
FOREIGN = {
    "a HEIC image": b"\0\0\0\x18ftypheic" + bytes(20),
    "an AVIF image": b"\0\0\0\x18ftypavif" + bytes(20),
    "an MP4 video": b"\0\0\0\x18ftypisom" + bytes(20),
    "an M4A audio": b"\0\0\0\x18ftypM4A " + bytes(20),
    "an AAC audio": b"\xff\xf1" + bytes(20),
    "an AMR audio": b"#!AMR\n" + bytes(20),
    "a WebM": b"\x1a\x45\xdf\xa3" + bytes(20),
    "an AVI video": b"RIFF\0\0\0\0AVI " + bytes(20),
    "a JPEG XL image": b"\xff\x0a" + bytes(20),
    "a Photoshop file": b"8BPS" + bytes(20),
    "a PDF document": b"%PDF-1.7\n",
    "a zip archive": b"PK\x03\x04" + bytes(20),
    "a gzip archive": b"\x1f\x8b" + bytes(20),
    "an HLS playlist": PLAYLIST,
    "an ffmpeg playlist": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "an SVG drawing": b'\xef\xbb\xbf <svg xmlns="http://www.w3.org/2000/svg"/>',
    "XML text": b"<?xml version='1.0'?><svg/>",
    "an HTML page": b"\n<!DOCTYPE html><html>",
    "a data: URL": b"data:image/png;base64,AAAA",
    "a URL": b"file:///etc/passwd",
    "an empty file": b"",
    "the bytes 68 65 6c 6c 6f": b"hello",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_unsupported_format_is_named(name: str) -> None:
    assert name in refused_image(FOREIGN[name]) and "PNG, JPEG, WebP" in refused_image(FOREIGN[name])
    assert name in refused_audio(FOREIGN[name]) and "WAV, FLAC, OGG" in refused_audio(FOREIGN[name])


def test_the_wrong_kind_of_media_is_named() -> None:
    assert refused_image(wav(np.zeros(999, np.float32))).startswith("a WAV file cannot be read as an image")
    assert refused_audio(encoded(four_colours())).startswith("a PNG image cannot be read as audio")


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"P6 1 1 255\n\0\0\0", b"\0\0\x01\0\x01\0" + bytes(30)])
def test_other_formats_of_pillow_are_refused(data: bytes) -> None:
    assert "cannot be read as an image" in refused_image(data)


# Sounds


def tone(seconds: float, rate: int, hertz: float = 440.0, peak: float = 0.5) -> Samples:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def sounding(samples: Samples, rate: int, format: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def wav(samples: Samples, rate: int = RATE, channels: int = 1, claim: int | None = None) -> bytes:
    """A WAV of 32-bit floats, whose header may claim any number of bytes of sound."""
    data = samples.astype("<f4").tobytes()
    width = 4 * channels
    form = struct.pack("<HHIIHH", 3, channels, rate % 2**32, rate * width % 2**32, width, 32)
    size = struct.pack("<I", len(data) if claim is None else claim)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + size + data
    )


def claiming_flac(samples: int) -> bytes:
    """A FLAC of half a second whose STREAMINFO claims `samples` of them; 0 means unknown."""
    data = bytearray(sounding(tone(0.5, RATE), RATE, "FLAC"))
    claim = int.from_bytes(data[21:26], "big") >> 36 << 36 | samples
    data[21:26] = claim.to_bytes(5, "big")
    return bytes(data)


def heard(data: bytes, rate: int = RATE) -> DecodedAudio:
    sound = decode_audio(data, rate, LIMITS)
    assert sound.samples.dtype == np.float32 and sound.samples.ndim == 1 and sound.samples.flags.c_contiguous
    return sound


def assert_tone(samples: Samples, seconds: float, peak: float = 0.5, slack: float = 0.01) -> None:
    """Whether the middle of `samples` is the 440 Hz tone at 16 kHz, in place and at its loudness."""
    assert abs(len(samples) - seconds * RATE) <= 1
    middle = slice(800, int(seconds * RATE) - 800)
    assert np.abs(samples[middle] - tone(seconds, RATE, peak=peak)[middle]).max() < slack


CONTAINERS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAVEX", "PCM_16"), ("FLAC", None), ("AIFF", "PCM_16")]


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(("format", "subtype"), CONTAINERS)
def test_lossless_containers_at_every_usual_rate(format: str, subtype: str | None, rate: int) -> None:
    sound = heard(sounding(tone(0.7, rate), rate, format, subtype))
    assert_tone(sound.samples, 0.7)
    assert sound.notes == (
        ("this audio was recorded at 8000 Hz, below the 16000 Hz that the model expects",) if rate == 8_000 else ()
    )


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_containers_over_many_blocks(format: str, subtype: str) -> None:
    if format not in soundfile.available_formats() or subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"this libsndfile writes no {subtype}")
    sound = heard(sounding(tone(20, 48_000), 48_000, format, subtype))
    assert_tone(sound.samples, 20, slack=0.06)
    assert sound.notes == ()


def test_samples_at_the_right_rate_stay_as_they_are() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 300_000).astype(np.float32)
    assert np.array_equal(heard(wav(samples)).samples, samples)


def test_another_rate_than_16_khz() -> None:
    assert abs(len(heard(wav(tone(1, RATE)), 24_000).samples) - 24_000) <= 1


def test_channels_are_averaged() -> None:
    left, right = tone(0.1, RATE), np.zeros(1600, np.float32)
    stereo = heard(sounding(np.stack([left, right], 1), RATE, "WAV", "FLOAT"))
    assert np.allclose(stereo.samples, left / 2)
    assert stereo.notes == ()
    six = heard(sounding(np.stack([left, right] * 3, 1), RATE, "WAV", "FLOAT"))
    assert np.allclose(six.samples, left / 2)
    assert six.notes == ("the 6 channels of this audio were mixed into one",)


def test_values_beyond_full_scale_are_clipped_with_a_note() -> None:
    samples = tone(0.1, RATE)
    samples[[3, 5]] = [3e38, -1.5]
    sound = heard(wav(samples))
    assert sound.samples[[3, 5]].tolist() == [1, -1]
    assert sound.notes == ("2 samples of this audio exceeded full scale and were clipped",)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinite_and_nan_samples_are_refused(value: float) -> None:
    samples = tone(0.1, RATE)
    samples[700] = value
    assert "infinite or NaN" in refused_audio(wav(samples))


@pytest.mark.parametrize("count", [0, 1, 2, 159])
def test_audio_below_10_ms_is_refused(count: int) -> None:
    assert "10 ms" in refused_audio(wav(np.zeros(count, np.float32)))
    assert len(heard(wav(np.zeros(160, np.float32))).samples) == 160


def test_audio_that_is_too_short_after_resampling_is_refused() -> None:
    assert "10 ms" in refused_audio(wav(np.zeros(400, np.float32), 48_000))
    with pytest.raises(MediaError, match="has 1 samples"):
        decode_audio(wav(np.zeros(RATE, np.float32)), 1, LIMITS)


def test_seconds_are_limited() -> None:
    assert len(decode_audio(wav(tone(1, RATE)), RATE, MediaLimits(audio_seconds=1)).samples) == RATE
    assert "lasts 1.0 s" in refused_audio(wav(tone(1.01, RATE)), MediaLimits(audio_seconds=1))


def test_a_flac_of_unknown_length_is_read_to_its_end_or_the_limit() -> None:
    assert_tone(heard(claiming_flac(0)).samples, 0.5)
    assert "at most 0.2 s" in refused_audio(claiming_flac(0), MediaLimits(audio_seconds=0.2))


@pytest.mark.parametrize("claim", [0x7FFF0000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_read_to_its_end(claim: int) -> None:
    assert_tone(heard(wav(tone(0.5, RATE), claim=claim)).samples, 0.5)


@pytest.mark.parametrize("format", ["WAV", "AIFF", "OGG"])
def test_truncated_audio_is_refused(format: str) -> None:
    data = sounding(tone(0.5, RATE), RATE, format)
    assert "cut off" in refused_audio(data[:-1])


def test_a_truncated_flac_is_refused() -> None:
    data = sounding(tone(0.5, RATE), RATE, "FLAC")
    assert "damaged" in refused_audio(data[: len(data) // 2])


def test_a_truncated_mp3_has_a_note() -> None:
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile writes no MP3")
    data = sounding(tone(2, RATE), RATE, "MP3")
    assert any("ends after" in note for note in heard(data[: len(data) // 2]).notes)


@pytest.mark.parametrize("at", ["end", "start"])
def test_other_chunks_of_a_wav_are_skipped(at: str) -> None:
    data, odd = wav(tone(0.5, RATE)), b"LIST" + struct.pack("<I", 3) + b"abc\0"
    data = data + odd + b"junk\xff\xff\xff\0" if at == "end" else data[:12] + odd + data[12:]
    assert_tone(heard(data).samples, 0.5)


def test_impossible_headers_are_refused() -> None:
    assert "Hz" in refused_audio(wav(np.zeros(9999, np.float32), rate=768_001))
    assert "Hz" in refused_audio(wav(np.zeros(9999, np.float32), rate=999))
    assert "65 channels" in refused_audio(wav(np.zeros(65 * 999, np.float32), channels=65))
    assert "damaged" in refused_audio(wav(np.zeros(9999, np.float32), rate=0))
    assert "damaged" in refused_audio(wav(np.zeros(9999, np.float32), channels=0))


@pytest.mark.parametrize("format", ["AU", "CAF", "W64", "RF64", "VOC"])
def test_other_containers_of_libsndfile_are_refused(format: str) -> None:
    assert "cannot be read" in refused_audio(sounding(tone(0.5, RATE), RATE, format, "PCM_16"))


def test_another_container_after_an_id3_tag_is_refused() -> None:
    tag = b"ID3\x03\0\0\0\0\0\x14" + bytes(20)
    assert "AU audio cannot be read" in refused_audio(tag + sounding(tone(0.5, RATE), RATE, "AU", "PCM_16"))


# Both


@ANY_BYTES
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    refused_image(data)
    refused_audio(data)


PICTURES = [encoded(four_colours(), format) for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
PICTURES += [frames("GIF"), frames("TIFF"), encoded(four_colours(), "TIFF", compression="tiff_lzw")]
SOUNDS = [
    sounding(tone(0.1, RATE), RATE, format)
    for format in ("WAV", "FLAC", "OGG", "AIFF", "MP3")
    if format in soundfile.available_formats()
]


def changed(data: st.DataObject, valid: bytes) -> bytes:
    """`valid` with a few bytes changed, mostly in its header, and perhaps cut."""
    result = bytearray(valid)
    for _ in range(data.draw(st.integers(0, 4))):
        most = data.draw(st.sampled_from([60, len(valid)]))
        result[data.draw(st.integers(0, min(most, len(valid)) - 1))] = data.draw(st.integers(0, 255))
    return bytes(result[: data.draw(st.integers(0, len(valid)) | st.just(len(valid)))])


SMALL = MediaLimits(pixels=1_000_000, audio_seconds=5)


@ANY_BYTES
@given(st.sampled_from(PICTURES), st.data())
def test_a_damaged_image_is_decoded_or_refused(valid: bytes, data: st.DataObject) -> None:
    try:
        pixels = decode_image(changed(data, valid), SMALL).pixels
    except MediaError:
        return
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.shape[0] * pixels.shape[1] <= SMALL.pixels


@ANY_BYTES
@given(st.sampled_from(SOUNDS), st.data())
def test_damaged_audio_is_decoded_or_refused(valid: bytes, data: st.DataObject) -> None:
    try:
        samples = decode_audio(changed(data, valid), RATE, SMALL).samples
    except MediaError:
        return
    assert 160 <= len(samples) <= 5 * RATE + 1 and np.isfinite(samples).all()


def test_no_callback_of_libsndfile_prints_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    for valid in SOUNDS:
        for at in range(60):
            for value in (0x80, 0xFF):
                try:
                    decode_audio(valid[:at] + bytes([value]) + valid[at + 1 :], RATE, SMALL)
                except MediaError:
                    pass
    assert "Traceback" not in capfd.readouterr().err


def test_bytes_are_limited(tmp_path: Path) -> None:
    limits = MediaLimits(bytes=100)
    assert "larger than" in refused_image(bytes(101), limits)
    assert "larger than" in refused_audio(bytes(101), limits)
    path = tmp_path / "picture.png"
    path.write_bytes(bytes(100))
    assert read_media_file(path, limits) == bytes(100)
    path.write_bytes(bytes(101))
    with pytest.raises(MediaError, match="larger than") as caught:
        read_media_file(path, limits)
    assert caught.value.param == str(path)


def test_paths_that_are_not_files_are_refused(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path, "directory"),
        (tmp_path / "missing.png", "there is no file"),
        (Path("https://x.example/a.png"), "is an address, and addresses are not fetched"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / ("x" * 5000), "cannot be read"),
    ]:
        with pytest.raises(MediaError, match=words) as caught:
            read_media_file(path, LIMITS)
        assert caught.value.param == str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match="pipe"):
        read_media_file(tmp_path / "pipe", LIMITS)
