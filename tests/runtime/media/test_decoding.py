"""Media take turns at being decoded, and decoding ends when it takes too long or when its client leaves."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable

import numpy as np
import psutil
import pytest
import soundfile
from PIL import Image

from checks.attack_inputs.slow_media import progressive_jpeg
from fakes.waiting import wait_until
from galago.models.errors import Cancelled, GalagoError, MediaError
from galago.runtime.media.audio import decode_audio
from galago.runtime.media.decoding import Decoding, DecodingTurns
from galago.runtime.media.image import decode_image
from galago.runtime.media.limits import MediaLimits
from galago.runtime.media.video import decode_video
from galago.runtime.types.messages import Video

LIMITS = MediaLimits()
RATE = 16000


def stays() -> bool:
    return False


def leaves_after(checks: int) -> Callable[[], bool]:
    """Reports that the client has left after this many calls."""
    counter = itertools.count()
    return lambda: next(counter) >= checks


def png(size: int = 2000) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (size, size), np.uint8)
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    return out.getvalue()


def wav(seconds: int = 60) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(RATE * seconds, np.int16), RATE, format="WAV")
    return out.getvalue()


def test_the_smallest_file_that_waits_is_decoded_next() -> None:
    turns, order, first = DecodingTurns(), [], threading.Event()

    def decode(size: int, begun: threading.Event | None = None) -> None:
        with turns.turn(size, stays):
            order.append(size)
            if begun is not None:
                begun.set()
                first.wait()

    begun = threading.Event()
    threads = [threading.Thread(target=decode, args=(1000, begun))]
    threads[0].start()
    begun.wait()
    for size in (500, 20, 300, 20, 100):
        threads.append(threading.Thread(target=decode, args=(size,)))
        threads[-1].start()
    wait_until(lambda: len(turns._waiting) == 5)
    first.set()
    for thread in threads:
        thread.join()
    assert order == [1000, 20, 20, 100, 300, 500]


def test_a_client_that_leaves_while_it_waits_frees_its_place() -> None:
    turns, left = DecodingTurns(), threading.Event()
    errors: list[GalagoError] = []

    def wait_in_vain() -> None:
        try:
            with turns.turn(1, left.is_set):
                pass
        except Cancelled as error:
            errors.append(error)

    with turns.turn(5, stays):
        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        wait_until(lambda: len(turns._waiting) == 1)
        left.set()
        thread.join()
        assert len(errors) == 1
    with turns.turn(9, stays):
        pass


def test_an_error_while_decoding_ends_the_turn() -> None:
    turns = DecodingTurns()
    with pytest.raises(ZeroDivisionError), turns.turn(1, stays):
        raise ZeroDivisionError
    with turns.turn(1, stays):
        pass


@pytest.mark.parametrize("kind", ["png", "jpeg", "wav"])
def test_decoding_stops_when_the_client_leaves(kind: str) -> None:
    client_left = leaves_after(2)
    with pytest.raises(Cancelled):
        if kind == "wav":
            decode_audio(wav(), RATE, LIMITS, Decoding(client_left))
        else:
            data = png() if kind == "png" else progressive_jpeg(256, 256, 1000)
            decode_image(data, LIMITS, Decoding(client_left))


@pytest.mark.parametrize("kind", ["png", "wav"])
def test_decoding_stops_at_its_limit_of_processor_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_DECODING_SECONDS", "0")
    with pytest.raises(MediaError, match="too long to decode; .* the limit is 0 s .*--limit decoding_seconds"):
        decode_audio(wav(), RATE, LIMITS) if kind == "wav" else decode_image(png(), LIMITS)


@pytest.mark.parametrize(("size", "scans", "accepted"), [(64, 5000, True), (1000, 100, True), (1000, 1600, False)])
def test_a_jpeg_may_have_as_many_scans_as_its_size_allows(size: int, scans: int, accepted: bool) -> None:
    data = progressive_jpeg(size, size, scans)
    if accepted:
        assert decode_image(data, LIMITS).pixels.shape == (size, size, 3)
    else:
        with pytest.raises(MediaError, match=r"1000 x 1000 pixels has 16\d\d scans"):
            decode_image(data, LIMITS)


def test_scans_in_a_tiff_count_by_strip() -> None:
    out = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(out, "TIFF", compression="jpeg", tiffinfo={278: 8})
    assert out.getvalue().count(b"\xff\xda") >= 500
    assert decode_image(out.getvalue(), LIMITS).pixels.shape == (4000, 4000, 3)


def test_a_video_decoder_is_killed_when_the_client_leaves() -> None:
    begun = Video(b"\0\0\0\x18ftypmp42" + bytes(16), frames=1)
    before = psutil.Process().children()
    with pytest.raises(Cancelled):
        decode_video(begun, LIMITS, leaves_after(0))
    assert not set(psutil.Process().children()) - set(before)
