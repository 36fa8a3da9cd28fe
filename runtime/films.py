"""A film as a part of a message, and the frames it comes to. Decodes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.errors import InvalidRequest

FRAMES, MAX_FRAMES = 8, 64  # shown of a film, if nothing is said, and at most


@dataclass(frozen=True, slots=True)
class Video:
    """An encoded film (MP4, WebM, ...), of which so many `frames` are shown at even distances, each behind its time."""

    data: bytes
    source: str = "video"
    frames: int = FRAMES

    def __post_init__(self) -> None:
        if type(self.frames) is not int or not 1 <= self.frames <= MAX_FRAMES:
            message = f"frames is {self.frames!r}, and must be a whole number from 1 to {MAX_FRAMES}"
            raise InvalidRequest(message, "frames")


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded picture: RGB, row by row from the top, of 3 x `width` x `height` bytes."""

    pixels: bytes
    width: int
    height: int
    source: str = "frame"
