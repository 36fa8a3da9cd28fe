"""Decodes untrusted image files to RGB pixels. Checks every limit against the header before it decodes pixels.

Decoding happens here because libmtmd's own helper passes what it cannot read to an ffmpeg process.
"""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin

from ...models.errors import Cancelled, MediaError
from ..types.limits import how_to_change
from .decoding import Decoding
from .limits import MediaLimits, check_size
from .sniff import describe, kind_of

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The accepted formats, as Pillow names them."""
_MAX_SCANNED_PIXELS = 1_500_000_000
"""Pixels times scans of a progressive JPEG, each of which may repaint all pixels. A photo has ten scans."""
_SCAN_MARKER = b"\xff\xda"
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324  # tags of TIFF
_ACCEPTED = "PNG, JPEG, WebP, GIF, BMP and TIFF are accepted"

Pixels = npt.NDArray[np.uint8]

# warnings.catch_warnings changes the whole process, so only one thread may use it at a time.
_warnings_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """RGB, shape (height, width, 3), C-contiguous, read-only. `notes` say what is shown differently from the file."""

    pixels: Pixels
    notes: tuple[str, ...] = ()


def decode_image(data: bytes, limits: MediaLimits, decoding: Decoding | None = None) -> DecodedImage:
    """Decodes the first frame of an image, upright as its EXIF orientation says.

    Raises `MediaError` for anything but a complete image of an accepted format within `limits`, and `Cancelled` if
    the client leaves meanwhile.
    """
    check_size(data, limits)
    if kind_of(data) != "image":
        raise MediaError(f"{describe(data)} cannot be read as an image; {_ACCEPTED}")
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(data, limits, decoding or Decoding())
        except (MediaError, Cancelled):
            raise
        except Image.DecompressionBombError:
            pillow_limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses more, whatever our limits are
            raise MediaError(_too_many_pixels(f"more than {pillow_limit}", min(pillow_limit, limits.pixels))) from None
        except Exception as error:  # Pillow raises many types of error for damaged files
            raise MediaError(f"{describe(data)} is damaged or incomplete") from error


class _CheckedFile(io.BytesIO):
    """A file whose reading ends once decoding must end. Pillow reads most formats in pieces."""

    def __init__(self, data: bytes, decoding: Decoding) -> None:
        super().__init__(data)
        self._decoding = decoding

    def read(self, size: int | None = -1) -> bytes:
        self._decoding.check()
        return super().read(size)


def _decode(data: bytes, limits: MediaLimits, decoding: Decoding) -> DecodedImage:
    with Image.open(_CheckedFile(data, decoding), formats=IMAGE_FORMATS) as image:
        _check_pixels(*image.size, limits)
        _check_scans(image, data)
        notes = []
        # The further images of an MPO are previews of the photo, so nothing is lost.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes.append("only the first frame or page of this image is shown")
        ImageOps.exif_transpose(image, in_place=True)
        rgb, more_notes = _to_rgb(image)
        return DecodedImage(np.asarray(rgb), (*notes, *more_notes))


def _check_pixels(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.pixels:
        raise MediaError(_too_many_pixels(f"{width} x {height}", limits.pixels))


def _check_scans(image: Image.Image, data: bytes) -> None:
    """Refuses a JPEG whose scans take minutes to decode, also one in a TIFF file."""
    parts = 1
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if "jpeg" not in str(image.info.get("compression")):
            return
        parts = max(len(image.tag_v2.get(tag, ())) for tag in (_STRIP_OFFSETS, _TILE_OFFSETS)) or 1
    elif image.format not in ("JPEG", "MPO"):
        return
    scans = data.count(_SCAN_MARKER) / parts
    if image.width * image.height * scans > _MAX_SCANNED_PIXELS:
        raise MediaError(
            f"the JPEG image of {image.width} x {image.height} pixels has {scans:.0f} scans, which take too long to "
            "decode; save it again with fewer, or as PNG"
        )


def _too_many_pixels(size: str, max_pixels: int) -> str:
    most = f"at most {max_pixels} ({max_pixels / 1e6:.0f} million) are accepted"
    return f"the image has {size} pixels; {most} ({how_to_change('media_pixels')})"


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to 8 bits
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise MediaError("an image with 32 bits per channel cannot be read; convert it to 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB"), ()
    if image.mode == "F":
        raise MediaError("an image of floating-point values cannot be read; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB"), ()
    return _on_white(image.convert("RGBA"))


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Composites transparent parts on white, as a web page would.

    Models never see alpha. llama.cpp's loader drops it, which shows the colour that the encoder left behind, usually
    black: dark text and lines on a transparent background, the most common case, would disappear.
    """
    lowest, _ = image.getchannel("A").getextrema()
    if lowest == 255:
        return image.convert("RGB"), ()
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB"), ("transparent parts of this image are shown on white",)
