"""The size limits of media files, and reading such a file within them. Imports no decoder."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from ...models.errors import MediaError
from ..types.limits import how_to_change, limit


@dataclass(frozen=True)
class MediaLimits:
    """The limits of one image, audio or video file. `pixels` and `audio_seconds` limit the decoded size."""

    pixels: int = field(default_factory=lambda: limit("media_pixels"))
    audio_seconds: float = field(default_factory=lambda: limit("audio_seconds"))
    bytes: int = field(default_factory=lambda: limit("media_bytes"))


def check_size(data: bytes, limits: MediaLimits, param: str | None = None) -> None:
    """Raises `MediaError` if an encoded file is larger than `limits.bytes`."""
    if len(data) > limits.bytes:
        most = f"{limits.bytes / 2**20:g} MiB, the limit for media files"
        raise MediaError(f"the file is larger than {most} ({how_to_change('media_bytes')})", param)


def read_media_file(path: Path, limits: MediaLimits) -> bytes:
    """Reads the file at `path`. Raises `MediaError` with `param` set to the path if it is missing or too large."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise MediaError(f"{path} is a {'directory' if stat.S_ISDIR(mode) else 'device or pipe'}", str(path))
        with path.open("rb") as file:
            data = file.read(limits.bytes + 1)
        check_size(data, limits, str(path))
        return data
    except FileNotFoundError:
        if str(path).startswith(("http:/", "https:/")):
            raise MediaError(f"{path} is an address, and addresses are not fetched; give a file", str(path)) from None
        raise MediaError(f"there is no file {path}", str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise MediaError(f"{path} cannot be read: {error}", str(path)) from error
