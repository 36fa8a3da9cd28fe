"""What a chat is made of: messages with text, image, audio and video parts, and the tools they may call."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ...models.errors import InvalidRequest

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture (PNG, JPEG, ...), not yet decoded. `source` names the field or file it came from."""

    data: bytes
    source: str = "image"


@dataclass(frozen=True, slots=True)
class Audio:
    """An encoded sound file (WAV, FLAC, ...), not yet decoded. `source` names the field or file it came from."""

    data: bytes
    source: str = "audio"


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


Part: TypeAlias = Text | Image | Audio | Video | Frame


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an answer may call; `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call, its `arguments` as JSON text."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """The arguments as values. Raises `InvalidRequest` where they are no JSON object, as when they were cut off."""
        try:
            value = json.loads(self.arguments.strip() or "{}")
        except RecursionError:
            raise InvalidRequest(f"the arguments of {self.name}'s call are nested too deeply", "messages") from None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            what = f"the arguments of the call of {self.name} are no JSON object: {self.arguments[:80]!r}"
            raise InvalidRequest(what, "messages")
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """`calls` and `reasoning` are an assistant's; `answers` is the id of the call whose result a tool's message is."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    answers: str | None = None
