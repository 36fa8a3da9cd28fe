"""The messages of a chat, with text, image, audio and video parts, and the tools that may be called."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ...models.errors import GalagoError, InvalidRequest

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


TOOL_NAME_CHARS = r"[\w./:@-]"
TOOL_NAME = re.compile(f"{TOOL_NAME_CHARS}{{1,256}}")
"""The names of tools that every tool-call format can write."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image file (PNG, JPEG, ...). `source` names the field or file it came from."""

    data: bytes
    source: str = "image"

    @property
    def size_bytes(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Audio:
    """An encoded audio file (WAV, FLAC, ...). `source` names the field or file it came from."""

    data: bytes
    source: str = "audio"

    @property
    def size_bytes(self) -> int:
        return len(self.data)


DEFAULT_VIDEO_FRAMES = 8
MAX_VIDEO_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Video:
    """An encoded video file (MP4, WebM, ...). `frames` of it are shown, evenly spaced, each after its time."""

    data: bytes
    source: str = "video"
    frames: int = DEFAULT_VIDEO_FRAMES

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def __post_init__(self) -> None:
        if type(self.frames) is not int or not 1 <= self.frames <= MAX_VIDEO_FRAMES:
            message = f"frames is {self.frames!r}; it must be a whole number from 1 to {MAX_VIDEO_FRAMES}"
            raise InvalidRequest(message, "frames")


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded image: RGB, row by row from the top, 3 x `width` x `height` bytes."""

    pixels: bytes
    width: int
    height: int
    source: str = "frame"

    @property
    def size_bytes(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image, audio, video or other file called `name` that the model cannot be shown, and the error that says why.

    In the last user message the request fails with the error if the part is `required`. Elsewhere the model is shown a
    text in its place.
    """

    name: str
    error: GalagoError
    required: bool = True

    @property
    def source(self) -> str:
        """The field or file that it came from."""
        return self.error.param or self.name

    @property
    def size_bytes(self) -> int:
        return 0


Part: TypeAlias = Text | Image | Audio | Video | Frame | Unreadable


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an answer may call; `parameters` is the JSON schema of its arguments, an object.

    With `strict` the whole schema must be enforced, or the request is refused. Otherwise as much of it as possible is
    enforced, and a warning names the rest.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, with its `arguments` as JSON text."""

    id: str
    name: str
    arguments: str

    @property
    def arguments_object(self) -> dict[str, Any] | None:
        """The arguments as values; `None` if they are not a JSON object, such as when cut off. Empty means `{}`."""
        try:
            value = json.loads(self.arguments.strip() or "{}")
        except (ValueError, RecursionError):
            return None
        return {} if value is None else value if isinstance(value, dict) else None

    def parsed(self) -> dict[str, Any]:
        """The arguments as values. Raises `InvalidRequest` if they are not a JSON object."""
        if (value := self.arguments_object) is None:
            message = f"the arguments of the call of {self.name} are not a JSON object: {self.arguments[:80]!r}"
            raise InvalidRequest(message, "messages")
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Assistants have `tool_calls` and `reasoning`; a tool's message has the `tool_call_id` it answers."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All text parts, joined by newlines."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))
