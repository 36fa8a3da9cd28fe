"""Turns the media of messages into prompt items: decodes them and counts their tokens. Encodes nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ...models.errors import InvalidRequest, MediaError, UnsupportedModality
from ..llamacpp.projector import Projector
from ..media.audio import decode_audio
from ..media.decoding import DecodingTurns
from ..media.image import DecodedImage, decode_image
from ..media.limits import MediaLimits
from ..media.video import decode_video
from ..types.messages import Audio, Frame, Image, Message, Part, Unreadable, Video
from ..types.prompt import Item
from ..types.warnings import Warnings

_NAMES: dict[type, str] = {Image: "picture", Frame: "picture", Audio: "sound", Video: "video"}
MAX_REASON_CHARACTERS = 200
"""Longest reason shown to the model for an unreadable part."""


class MediaParts:
    """Decodes media for one projector. `limits` apply to each file."""

    def __init__(self, projector: Projector | None, limits: MediaLimits | None = None) -> None:
        self._projector = projector
        self._limits = limits or MediaLimits()
        self._turns = DecodingTurns()
        self._video_turns = DecodingTurns()  # separate: a child process decodes videos and may take longer

    def with_frames(self, message: Message, warnings: list[str], cancelled: Callable[[], bool]) -> Message:
        """The message with each video replaced by frames, each after its time as text."""
        shown: list[Part] = []
        for part in message.parts:
            try:
                shown += self._frames(part, warnings, cancelled) if isinstance(part, Video) else [part]
            except InvalidRequest as error:
                shown.append(Unreadable(_NAMES[Video], error))
        return replace(message, parts=tuple(shown))

    def _frames(self, video: Video, warnings: list[str], cancelled: Callable[[], bool]) -> Sequence[Part]:
        self._check_vision(video)
        with _errors_name_source(video), self._video_turns.turn(len(video.data), cancelled):
            decoded = decode_video(video, self._limits, cancelled)
        warnings += [f"{video.source}: {note}" for note in decoded.notes]
        return decoded.parts

    def items_or_text(
        self,
        part: Image | Audio | Frame | Unreadable,
        in_question: bool,
        warnings: Warnings,
        cancelled: Callable[[], bool],
    ) -> list[Item] | str:
        """The prompt items of one part, or the text that is shown in its place if it cannot be read.

        Raises the error if the part belongs to the question, which cannot be answered without it.
        """
        if not isinstance(part, Unreadable):
            try:
                return self._items(part, warnings, cancelled)
            except InvalidRequest as error:
                part = Unreadable(_NAMES[type(part)], error)
        if in_question and part.required:
            raise part.error
        return _text_in_place(part, warnings)

    def _items(self, part: Image | Audio | Frame, warnings: list[str], cancelled: Callable[[], bool]) -> list[Item]:
        """Decodes one part and splits it into the prompt items that the projector makes of it."""
        if isinstance(part, Image | Frame):
            projector = self._check_vision(part)
            size = len(part.pixels if isinstance(part, Frame) else part.data)
            with _errors_name_source(part), self._turns.turn(size, cancelled) as decoding:
                image = _image_of(part) if isinstance(part, Frame) else decode_image(part.data, self._limits, decoding)
                warnings += [f"{part.source}: {note}" for note in image.notes]
                return projector.cut_picture(image.pixels)
        projector = self._check_hearing(part)
        with _errors_name_source(part), self._turns.turn(len(part.data), cancelled) as decoding:
            audio = decode_audio(part.data, projector.sample_rate, self._limits, decoding)
            warnings += [f"{part.source}: {note}" for note in audio.notes]
            return projector.cut_sound(audio.samples)

    def _check_vision(self, part: Image | Video | Frame) -> Projector:
        if self._projector is None or not self._projector.vision:
            raise UnsupportedModality(_cannot("see images", self._projector), part.source)
        return self._projector

    def _check_hearing(self, part: Audio) -> Projector:
        if self._projector is None or not self._projector.audio:
            raise UnsupportedModality(_cannot("hear audio", self._projector), part.source)
        return self._projector


def _text_in_place(part: Unreadable, warnings: Warnings) -> str:
    """The text that the model is shown instead of a part. Adds a warning, which names the part's field."""
    field = part.source
    reason = part.error.message.partition(";")[0].removeprefix(f"{field}:").replace(field, "it").strip()
    reason = reason[:MAX_REASON_CHARACTERS]
    warnings.add_unless_strict(f"{field}: the {part.name} is not shown to the model: {reason}", field)
    return f"[{part.name} that could not be read: {reason}]"


def _image_of(frame: Frame) -> DecodedImage:
    """Raises `MediaError` if the number of bytes does not match the frame's size."""
    if len(frame.pixels) != 3 * frame.width * frame.height or not frame.pixels:
        raise MediaError(f"{len(frame.pixels)} bytes are not an RGB image of {frame.width} x {frame.height}")
    return DecodedImage(np.frombuffer(frame.pixels, np.uint8).reshape(frame.height, frame.width, 3))


def _cannot(sense: str, projector: Projector | None) -> str:
    if projector is None:
        return f"this model cannot {sense}: it was loaded without a projector (--mmproj)"
    return f"this model cannot {sense}: its projector {projector.path.name} has no encoder for that"


@contextmanager
def _errors_name_source(part: Image | Audio | Video | Frame) -> Iterator[None]:
    """Sets the field of an error that names none to the field or file that the media came from."""
    try:
        yield
    except InvalidRequest as error:
        if error.param is None:
            error.param = part.source
        raise
