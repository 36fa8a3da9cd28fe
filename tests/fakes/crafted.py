"""GGUF files with one thing wrong each: every key, every tensor and the layout of a good file, changed in many ways."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64 = 4, 5, 6, 7, 8, 9, 10, 11


class Value(NamedTuple):
    """A value of the metadata. `item` is the type of an array's elements; `content` of an array is a list."""

    kind: int
    content: Any
    item: int = 0

    def packed(self) -> bytes:
        if self.kind != ARRAY:
            return struct.pack("<I", self.kind) + _packed(self.kind, [self.content])
        head = struct.pack("<IIQ", ARRAY, self.item, len(self.content))
        return head + _packed(self.item, self.content)


class Tensor(NamedTuple):
    """A row of the tensor table."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass
class Model:
    """The content of a GGUF file. `raw` keys have bytes in place of a value, type included."""

    keys: dict[str, Value]
    tensors: dict[str, Tensor]
    data: bytes
    raw: dict[str, bytes] = field(default_factory=dict)
    alignment: int = 32
    end: int | None = None
    """Bytes of data that are left out at the end, if any."""

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        out = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.keys) + len(self.raw))]
        out += [_text(name) + value.packed() for name, value in self.keys.items()]
        out += [_text(name) + value for name, value in self.raw.items()]
        for name, tensor in self.tensors.items():
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            out.append(_text(name) + shape + struct.pack("<IQ", tensor.kind, tensor.offset))
        head = b"".join(out)
        return head + bytes(-len(head) % self.alignment) + self.data[: self.end]

    def having(self, **changes: Any) -> Model:
        return replace(self, **changes)


def read(path: Path) -> Model:
    """Reads a well-formed file."""
    data, at = path.read_bytes(), 24

    def number(code: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value

    def text() -> bytes:
        nonlocal at
        length = number("Q")
        at += length
        return data[at - length : at]

    def values(kind: int, count: int) -> list[Any]:
        return [text() for _ in range(count)] if kind == STRING else [number(CODES[kind]) for _ in range(count)]

    tensor_count, key_count = struct.unpack_from("<QQ", data, 8)
    keys, tensors = {}, {}
    for _ in range(key_count):
        name, kind = text().decode(), number("I")
        if kind == ARRAY:
            item, count = number("I"), number("Q")
            keys[name] = Value(ARRAY, values(item, count), item)
        else:
            keys[name] = Value(kind, values(kind, 1)[0])
    for _ in range(tensor_count):
        name, dims = text().decode(), number("I")
        tensors[name] = Tensor(tuple(number("Q") for _ in range(dims)), number("I"), number("Q"))
    alignment = keys.get("general.alignment", Value(UINT32, 32)).content
    return Model(keys, tensors, data[-(-at // alignment) * alignment :], alignment=alignment)


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _packed(kind: int, values: list[Any]) -> bytes:
    if kind == STRING:
        return b"".join(map(_text, values))
    return struct.pack(f"<{len(values)}{CODES[kind]}", *values)


def variants(model: Model) -> Iterator[tuple[str, Model]]:
    """Yields each variant with a name that says what is wrong."""
    yield from _keys(model)
    yield from _tokens(model)
    yield from _tensors(model)
    yield from _layout(model)


def _keys(model: Model) -> Iterator[tuple[str, Model]]:
    """Every key missing, of another type, and with values at and beyond the limits of its type."""
    for name, value in model.keys.items():
        others = {key: each for key, each in model.keys.items() if key != name}
        yield f"{name} missing", model.having(keys=others)
        for label, changed in _other_values(value):
            yield f"{name} {label}", model.having(keys={**model.keys, name: changed})


def _other_values(value: Value) -> Iterator[tuple[str, Value]]:
    if value.kind == STRING:
        texts = {"empty": b"", "unknown": b"no such thing", "invalid UTF-8": b"\xff\xfe\x80", "long": b"a" * 100_000,
                 "with control characters": b"\x1b[31m\n\0x"}  # fmt: skip
        yield from ((label, Value(STRING, text)) for label, text in texts.items())
    elif value.kind == ARRAY:
        yield "empty", Value(ARRAY, [], value.item)
        yield "one", Value(ARRAY, value.content[:1], value.item)
    elif value.kind in (FLOAT32, 12):
        floats = {"zero": 0.0, "negative": -1.0, "NaN": float("nan"), "infinite": float("inf"), "tiny": 1e-38}
        yield from ((label, value._replace(content=number)) for label, number in floats.items())
    else:
        code = CODES[value.kind]
        bits = 1 if code == "?" else 8 * struct.calcsize(code)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if code.islower() else (0, (1 << bits) - 1)
        numbers = {
            0,
            1,
            2,
            3,
            7,
            value.content + 1,
            2 * value.content,
            value.content // 2,
            100_000,
            low,
            high,
            high // 2,
        }
        chosen = sorted({min(max(number, low), high) for number in numbers} - {value.content})
        yield from ((str(number), value._replace(content=number)) for number in chosen)
    for kind, content in ((UINT32, 5), (INT32, -1), (FLOAT32, 0.5), (BOOL, True), (STRING, b"7"), (UINT64, 1 << 63)):
        if kind != value.kind:
            yield f"of type {kind}", Value(kind, content)
    for item, content in ((STRING, b"x"), (INT32, -7), (FLOAT32, float("nan"))):
        if (value.kind, value.item) != (ARRAY, item):
            yield f"an array of type {item}", Value(ARRAY, [content] * 3, item)
    yield "a long array", Value(ARRAY, [1] * 5000, UINT32)


def _tokens(model: Model) -> Iterator[tuple[str, Model]]:
    """Vocabularies of other kinds, and tokens, scores and types that are wrong."""
    name = "tokenizer.ggml."
    if name + "tokens" not in model.keys:
        return
    tokens = model.keys[name + "tokens"].content
    count = len(tokens)

    def having(label: str, **changed: Value) -> tuple[str, Model]:
        return label, model.having(keys={**model.keys, **{name + key: value for key, value in changed.items()}})

    for kind in ("llama", "bert", "gpt2", "t5", "rwkv", "plamo2", "none", "no_vocab", "test", "gemma4", "hybriddna",
                 "whitespace"):  # fmt: skip
        yield having(f"tokenizer {kind}", model=Value(STRING, kind.encode()))
        for type_number in (1, 2, 3, 4, 5, 6):
            types = Value(ARRAY, [type_number] * count, INT32)
            yield having(f"tokenizer {kind}, all tokens of type {type_number}",
                         model=Value(STRING, kind.encode()), token_type=types)  # fmt: skip
        for label, scores in {"NaN": [float("nan")] * count, "infinite": [float("inf")] * count, "few": [0.0]}.items():
            yield having(f"tokenizer {kind}, scores {label}",
                         model=Value(STRING, kind.encode()), scores=Value(ARRAY, scores, FLOAT32))  # fmt: skip
    for type_number in (0, 2, 6, 7, -1):
        types = Value(ARRAY, [type_number if i % 3 else 1 for i in range(count)], INT32)
        yield having(f"every other token of type {type_number}", token_type=types)
    for label, texts in {
        "one fewer": tokens[:-1], "one more": [*tokens, b"more"],
        "twice as many": [*tokens, *(b"2" + t for t in tokens)],
        "few": tokens[:3], "all equal": [b"a"] * count,
        "one twice": [tokens[1], *tokens[1:]], "all empty": [b""] * count,
        "one of 2,000 bytes": [*tokens[:-1], b"a" * 2000], "one of 1 MB": [*tokens[:-1], b"ab" * 500_000],
        "one empty": [*tokens[:-1], b""], "invalid UTF-8": [b"\xff" + bytes([i % 256, i // 256]) for i in range(count)],
        "one of invalid UTF-8": [*tokens[:-1], b"\xc3\x28\xff"], "one of zeros": [*tokens[:-1], b"\0\0\0"],
        "control tokens everywhere": [b"<|im_end|>%d" % i for i in range(count)],
        "spaces": [b" " * (i + 1) for i in range(count)],
        "bytes": [b"<0x%02X>" % i if i < 255 else b"x%d" % i for i in range(count)],
        "broken bytes": [b"<0x" + bytes([65 + i % 26, 65 + i // 26 % 26]) for i in range(count)],
    }.items():  # fmt: skip
        yield having(f"tokens: {label}", tokens=Value(ARRAY, texts, STRING))
        yield having(f"tokens: {label}, for llama", tokens=Value(ARRAY, texts, STRING), model=Value(STRING, b"llama"),
                     token_type=Value(ARRAY, [6] * len(texts), INT32))  # fmt: skip
    for special in ("bos", "eos", "unknown", "padding", "eot", "eom", "seperator", "mask", "fim_pre", "cls"):
        for number in (0, count - 1, count, 2**31 - 1, 2**31, 2**32 - 1):
            yield having(f"{special} is {number}", **{f"{special}_token_id": Value(UINT32, number)})
        yield having(f"{special} is negative", **{f"{special}_token_id": Value(INT32, -1)})
    for flag in ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"):
        yield having(f"{flag} without such a token", **{flag: Value(BOOL, True)}, bos_token_id=Value(UINT32, 2**32 - 1),
                     eos_token_id=Value(UINT32, 2**32 - 1), seperator_token_id=Value(UINT32, 2**32 - 1))  # fmt: skip
    for merges in ([b""] * 9, [b"a"] * 9, [b"\xff \xff"] * 9, [b" " * 9] * 9, [b"a b"] * 100_000):
        yield having(f"merges like {merges[0]!r}", merges=Value(ARRAY, merges, STRING))


def _tensors(model: Model) -> Iterator[tuple[str, Model]]:
    """Tensors missing, renamed, and with other shapes and types. Of each kind of tensor, the first one is changed."""
    seen: set[str] = set()
    for name, tensor in model.tensors.items():
        kind = ".".join(part for part in name.split(".") if not part.isdigit())
        if kind in seen:
            continue
        seen.add(kind)

        def changed(label: str, name: str = name, **changes: Any) -> tuple[str, Model]:
            return f"{name} {label}", model.having(
                tensors={**model.tensors, name: model.tensors[name]._replace(**changes)}
            )

        renamed = {("x" + other if other == name else other): each for other, each in model.tensors.items()}
        yield f"{name} renamed", model.having(tensors=renamed)
        yield changed("reversed", shape=tensor.shape[::-1])
        yield changed("flat", shape=(_product(tensor.shape),))
        yield changed("of no dimensions", shape=())
        yield changed("half", shape=(*tensor.shape[:-1], max(tensor.shape[-1] // 2, 1)))
        yield changed("with 4 dimensions", shape=(*tensor.shape, 1, 1)[:4])
        yield changed("out of the file", offset=tensor.offset + (1 << 40))
        yield changed("overlapping", offset=0)
        for kind_number in (0, 1, 2, 4, 14, 24, 26, 28, 31, 36, 37, 39, 99, 2**31, 2**32 - 1):
            if kind_number != tensor.kind:
                yield changed(f"of type {kind_number}", kind=kind_number)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _layout(model: Model) -> Iterator[tuple[str, Model]]:
    """Alignment, parts, truncation, arrays in arrays, endless texts, and weights that are no numbers."""
    for alignment in (0, 1, 3, 8, 1 << 16, 1 << 31):
        keys = {**model.keys, "general.alignment": Value(UINT32, alignment)}
        yield f"alignment {alignment}", model.having(keys=keys)
    for count, number in ((0, 0), (1, 5), (2, 0), (2, 7), (65535, 65535)):
        parts = {"split.count": Value(2, count), "split.no": Value(2, number), "split.tensors.count": Value(INT32, -1)}
        yield f"part {number} of {count}", model.having(keys={**model.keys, **parts})
    yield "truncated", model.having(end=len(model.data) // 2)
    yield "without weights", model.having(end=0)
    yield "without tensors", model.having(tensors={})
    yield "without keys", model.having(keys={})
    nested = struct.pack("<IIQ", ARRAY, ARRAY, 3) + struct.pack("<IQ", ARRAY, 1) * 3
    yield "array of arrays", model.having(raw={"nested": nested})
    yield "endless text", model.having(raw={"text": struct.pack("<IQ", STRING, 1 << 62)})
    yield "endless array", model.having(raw={"array": struct.pack("<IIQ", ARRAY, UINT32, 1 << 61)})
    yield "unknown type", model.having(raw={"key": struct.pack("<I", 77)})
    yield "text of 3 MB", model.having(keys={**model.keys, "general.name": Value(STRING, b"x" * (3 << 20))})
    for label, byte in (("NaN", b"\xff\x7e"), ("zero", b"\0\0"), ("infinite", b"\x00\x7c")):
        yield f"all weights {label}", model.having(data=byte * (len(model.data) // 2))
    for key, value in _LARGE.items():
        architecture = model.keys["general.architecture"].content.decode()
        yield f"{key} = {value}", model.having(keys={**model.keys, f"{architecture}.{key}": Value(UINT32, value)})


_LARGE = {"vocab_size": 2**31, "expert_count": 4, "expert_used_count": 9, "attention.key_length": 0,
          "attention.value_length": 3, "attention.sliding_window": 2**31, "rope.dimension_count": 2**20,
          "pooling_type": 3, "rope.scaling.original_context_length": 1, "attention.causal": 0,
          "nextn_predict_layers": 2,
          "ssm.state_size": 2**20, "tensor_data_layout": 3, "leading_dense_block_count": 9}  # fmt: skip
