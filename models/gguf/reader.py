"""Reads and checks the header of an untrusted GGUF file: metadata, tensor table, and the position of the data.

Supports versions 2 and 3, little endian, and rejects headers that llama.cpp rejects or aborts on. Never reads a
weight. Format: ggml/include/gguf.h. The checks follow ggml/src/gguf.cpp, with additional limits where it has none. The
file is read in blocks instead of mapped, because a mapped file that shrinks kills the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from ..errors import GGUFError
from ..regular_file import open_regular
from .header import GGML_TYPES, ArrayInfo, GGUFHeader, MetadataValue, Scalar, TensorInfo, is_int

MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 262,000 tokens needs about 20 MiB
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_METADATA_BYTES = 16 << 20  # keys, values and tensor names in memory; real files have less than 2 MiB
MAX_STRING_BYTES = 4 << 20  # the longest strings are chat templates, up to 100 KiB
MAX_STRINGS = 1 << 22  # in all arrays together; a vocabulary of 262,000 tokens has a million with its merges
MAX_KEY_BYTES = 65535  # the limit of the specification
MAX_NAME_BYTES = 63  # GGML_MAX_NAME - 1
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_ALIGNMENT = 1 << 16
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS in llama.cpp's src/llama-hparams.h; with more, or none, it aborts
MAX_STORED_ARRAY = 64  # of longer arrays, only type and length are stored

_MAGIC = b"GGUF"
_BLOCK = 1 << 20
_STRING, _ARRAY = 8, 9
_MIN_KEY_BYTES = 8 + 1 + 4 + 1  # length, one character, type, one byte of value
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8  # name length, number of dimensions, type, offset

# enum gguf_type in ggml/include/gguf.h -> struct code
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_LOOKS_LIKE = (
    (rb"$", "an empty file; download it again"),
    (rb"PK\x03\x04", "a zip archive or PyTorch checkpoint"),
    (rb"\x80\x02", "a Python pickle"),
    (rb'.{8}\{"', "safetensors; convert it to GGUF"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file it points to; fetch it with git lfs pull"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", "an HTML or XML page, such as a login or error page"),
    (rb"ggjt|tjgg", "a GGML file from before GGUF; convert the model again"),
)


def read_header(path: Path) -> GGUFHeader:
    """Reads and checks the header of the GGUF file at `path`.

    Raises `GGUFError` if the file is missing, not GGUF, truncated, or contradicts itself. Memory use is limited by the
    content of the file, not by the sizes it claims.
    """
    try:
        with open_regular(path) as file:
            return _read(_Cursor(file, path))
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror or error}") from error


def read_leading_metadata(start: bytes, path: Path) -> dict[str, MetadataValue]:
    """Reads metadata from the first bytes of a file, up to the first key that is cut off.

    Raises `GGUFError` if they are not the start of a GGUF file.
    """
    cursor = _Cursor(io.BytesIO(start), path)
    _read_version(cursor)
    cursor.take(8)
    metadata: dict[str, MetadataValue] = {}
    with contextlib.suppress(GGUFError):
        for _ in range(min(cursor.number(8), MAX_KEYS)):
            key = cursor.text(MAX_KEY_BYTES, "strict")
            metadata[key] = value = _read_value(cursor, key)
            cursor.count_stored(key, value, *(value if isinstance(value, tuple) else ()))
    return metadata


class _Cursor:
    """A position in a file that only moves forward. Checks every length before it reads."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        self.size = file.seek(0, 2)
        self._file = file
        self._block = b""
        self._base = 0
        self._at = 0
        self._stored_bytes = 0
        self._strings = 0

    @property
    def position(self) -> int:
        return self._base + self._at

    def take(self, count: int) -> bytes:
        data = self.peek(count, count)
        self._at += count
        return data

    def peek(self, count: int, least: int = 0) -> bytes:
        """Returns the next `count` bytes, or fewer at the end of the file, but at least `least`."""
        if self._at + count > len(self._block):
            self._load(least)
        return self._block[self._at : self._at + count]

    def skip(self, count: int) -> None:
        self._at += count
        self.peek(0)

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def count_stored(self, *values: object) -> None:
        """Counts the memory in use, with 128 bytes for each table entry. Raises `GGUFError` above the limit."""
        self._stored_bytes += 128 + sum(map(sys.getsizeof, values))
        if self._stored_bytes > MAX_METADATA_BYTES:
            raise self.error(f"its header has more than {MAX_METADATA_BYTES >> 20} MiB of keys, values and names")

    def text(self, limit: int = MAX_STRING_BYTES, errors: str = "replace") -> str:
        length = self.number(8)
        if length > limit:
            raise self.error(f"a string has {length} bytes, but at most {limit} are allowed")
        try:
            return self.take(length).decode(errors=errors)
        except UnicodeDecodeError:
            raise self.error("a name is not UTF-8") from None

    def skip_strings(self, count: int) -> None:
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise self.error(f"its arrays have {self._strings} strings, but at most {MAX_STRINGS} are allowed")
        # The only hot loop, for half a million strings in a vocabulary: the position is kept in local variables.
        unpack, block, at = struct.Struct("<Q").unpack_from, self._block, self._at
        for _ in range(count):
            if at + 8 > len(block):
                self._at = at
                self._load(8)
                block, at = self._block, 0
            at += 8 + unpack(block, at)[0]
        self._at = at
        self._load(0)

    def check_count(self, what: str, count: int, least_bytes: int, limit: int) -> None:
        """Raises `GGUFError` for a count that cannot fit into the rest of the file, before allocating memory for it."""
        if count > limit:
            raise self.error(f"it claims {count} {what}, but at most {limit} are allowed")
        if count * least_bytes > self.size - self.position:
            raise self.error(f"the file is truncated or damaged: {count} {what} cannot fit into its {self.size} bytes")

    def error(self, problem: str) -> GGUFError:
        return _error(self.path, f"{problem} (at byte {self.position})")

    def _load(self, count: int) -> None:
        """Reads the block at the current position, at least `count` bytes."""
        position = self.position
        if position + count > self.size:
            raise self.error(
                f"the file is truncated or damaged: its header extends past byte {self.size}; download it again"
            )
        if position + count > MAX_HEADER_BYTES:
            raise self.error(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        self._file.seek(position)
        self._block, self._base, self._at = self._file.read(max(count, _BLOCK)), position, 0
        if len(self._block) < count:
            raise self.error("the file became shorter while it was read")


def _read(cursor: _Cursor) -> GGUFHeader:
    version = _read_version(cursor)
    tensor_count, key_count = cursor.number(8), cursor.number(8)
    metadata = _read_metadata(cursor, key_count)
    alignment = _alignment(cursor, metadata)
    _check_layers(cursor, metadata)
    tensors = _read_tensors(cursor, tensor_count)
    data_offset = -(-cursor.position // alignment) * alignment if tensors else cursor.position
    _check_regions(cursor, tensors, data_offset, alignment)
    return GGUFHeader(cursor.path, version, metadata, tensors, data_offset, cursor.size)


def _read_version(cursor: _Cursor) -> int:
    start = cursor.peek(64)
    if not start.startswith(_MAGIC):
        raise GGUFError(f"{cursor.path.name} is not a GGUF file; {_describe(start)}", str(cursor.path))
    cursor.skip(len(_MAGIC))
    version = cursor.number(4)
    if version and version & 0xFFFF == 0:
        raise cursor.error("it is a big-endian GGUF file, which is not supported; convert it to little endian")
    if version not in (2, 3):
        raise cursor.error(f"it has GGUF version {version}, but only versions 2 and 3 are supported")
    return version


def _describe(start: bytes) -> str:
    names = (name for pattern, name in _LOOKS_LIKE if re.match(pattern, start, re.DOTALL))
    name = next(names, None)
    return f"it begins with {start[:8].hex(' ')}" if name is None else f"it looks like {name}"


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    cursor.check_count("keys", count, _MIN_KEY_BYTES, MAX_KEYS)
    metadata: dict[str, MetadataValue] = {}
    for _ in range(count):
        key = cursor.text(MAX_KEY_BYTES, "strict")
        if not key or key in metadata:
            raise cursor.error(f"the key {_shown(key)} occurs twice" if key else "a key has no name")
        metadata[key] = value = _read_value(cursor, key)
        cursor.count_stored(key, value, *(value if isinstance(value, tuple) else ()))
    return metadata


def _read_value(cursor: _Cursor, key: str) -> MetadataValue:
    kind = cursor.number(4)
    if kind == _ARRAY:
        return _read_array(cursor, key)
    if kind == _STRING:
        return cursor.text()
    return _scalars(cursor, key, kind, 1)[0]


def _read_array(cursor: _Cursor, key: str) -> MetadataValue:
    kind, count = cursor.number(4), cursor.number(8)
    width = 8 if kind == _STRING else struct.calcsize(_code(cursor, key, kind))
    cursor.check_count(f"values under the key {_shown(key)}", count, width, MAX_HEADER_BYTES)
    if count <= MAX_STORED_ARRAY:
        return tuple(cursor.text() for _ in range(count)) if kind == _STRING else _scalars(cursor, key, kind, count)
    if kind == _STRING:
        cursor.skip_strings(count)
    else:
        cursor.skip(count * width)
    return ArrayInfo(kind, count)


def _scalars(cursor: _Cursor, key: str, kind: int, count: int) -> tuple[Scalar, ...]:
    layout = struct.Struct(f"<{count}{_code(cursor, key, kind)}")
    return layout.unpack(cursor.take(layout.size))


def _code(cursor: _Cursor, key: str, kind: int) -> str:
    if kind not in _SCALARS:
        what = "an array of arrays" if kind == _ARRAY else f"the unknown type {kind}"
        raise cursor.error(f"the key {_shown(key)} has {what}")
    return _SCALARS[kind]


def _alignment(cursor: _Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    value = metadata.get("general.alignment", 32)
    if not is_int(value) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise cursor.error(f"general.alignment is {_shown(value)}, not a power of two up to {MAX_ALIGNMENT}")
    return value


def _check_layers(cursor: _Cursor, metadata: Mapping[str, MetadataValue]) -> None:
    """Rejects layer counts on which llama.cpp aborts. The encoder of a projector may have no layers."""
    own = f"{metadata.get('general.architecture')}.block_count"
    for key, value in metadata.items():
        if key.endswith(".block_count"):
            least = 1 if key == own else 0
            if not is_int(value) or not least <= value <= MAX_LAYERS:
                raise cursor.error(f"{_shown(key)} is {_shown(value)}, not a number from {least} to {MAX_LAYERS}")


def _read_tensors(cursor: _Cursor, count: int) -> tuple[TensorInfo, ...]:
    cursor.check_count("tensors", count, _MIN_TENSOR_BYTES, MAX_TENSORS)
    tensors: dict[str, TensorInfo] = {}
    for _ in range(count):
        tensor = _read_tensor(cursor)
        cursor.count_stored(tensor, tensor.name, tensor.shape, *tensor.shape)
        if tensors.setdefault(tensor.name, tensor) is not tensor:
            raise cursor.error(f"the tensor {_shown(tensor.name)} occurs twice")
    return tuple(tensors.values())


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    name = cursor.text(MAX_NAME_BYTES, "strict")
    dims = cursor.number(4)
    if dims > MAX_DIMS:
        raise cursor.error(f"tensor {_shown(name)} has {dims} dimensions, but at most {MAX_DIMS} are allowed")
    shape = struct.unpack(f"<{dims}Q", cursor.take(8 * dims))
    if 0 in shape or math.prod(shape) >= 1 << 63:
        raise cursor.error(f"tensor {_shown(name)} has the impossible shape {shape}")
    kind, offset = cursor.number(4), cursor.number(8)
    return TensorInfo(name, shape, kind, offset, _nbytes(cursor, name, shape, kind))


def _nbytes(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int) -> int | None:
    if kind not in GGML_TYPES:
        return None
    type_name, weights, size = GGML_TYPES[kind]
    row = shape[0] if shape else 1
    if row % weights:
        raise cursor.error(
            f"tensor {_shown(name)} has rows of {row} weights, which {type_name} cannot pack in blocks of {weights}"
        )
    return math.prod(shape) // weights * size


def _check_regions(cursor: _Cursor, tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int) -> None:
    """Rejects tensors that overlap, are not aligned, or extend past the end of the file."""
    free = 0
    for tensor in tensors:
        name = _shown(tensor.name)
        if tensor.offset % alignment:
            raise cursor.error(
                f"tensor {name} begins at byte {tensor.offset}, which is not a multiple of the alignment {alignment}"
            )
        if tensor.offset < free:
            raise cursor.error(f"tensor {name} overlaps the one before it")
        free = tensor.offset + (tensor.nbytes or 0)
        end = data_offset + free
        if end > cursor.size:
            raise cursor.error(
                f"the file is truncated: tensor {name} ends at byte {end}, but the file has {cursor.size} bytes; "
                "download it again"
            )


def _shown(value: object) -> str:
    """Returns a value for a message, escaped and shortened, because it comes from the file."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _error(path: Path, problem: str) -> GGUFError:
    return GGUFError(f"{path.name}: {problem}", param=str(path))
