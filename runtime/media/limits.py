"""The size limits of media files, and reading such a file within them. Imports no decoder."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import MediaError


@dataclass(frozen=True)
class MediaLimits:
    """The limits of one image, audio or video file. `pixels` and `audio_seconds` limit the decoded size."""

    pixels: int = 64_000_000
    audio_seconds: float = 600.0
    bytes: int = 64 << 20


def check_size(data: bytes, limits: MediaLimits, param: str | None = None) -> None:
    """Raises `MediaError` if an encoded file is larger than `limits.bytes`."""
    if len(data) > limits.bytes:
        raise MediaError(f"the file is larger than {limits.bytes / 2**20:g} MiB, the limit for media files", param)


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
