"""Small requests that make a server use much memory: stored files named often, large media, deep or wide JSON."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from .target import CHAT, Target

_MB = 1_000_000


def _wave(size_bytes: int) -> bytes:
    """A sound file of zeros."""
    size = size_bytes - 44
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16,
                       b"data", size)  # fmt: skip
    return head + bytes(size)


def _sound(file_id: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"file_id": file_id}}


def _inline(size_bytes: int) -> dict[str, Any]:
    data = base64.b64encode(_wave(size_bytes)).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def chat_names_a_file_100_times(target: Target) -> list[int]:
    return [target.chat(*[_sound(target.file("60.wav", _wave(60 * _MB)))] * 100)]


def chat_names_a_file_20000_times(target: Target) -> list[int]:
    return [target.chat(*[_sound(target.file("1.wav", _wave(_MB)))] * 20_000)]


def chat_names_ten_files(target: Target) -> list[int]:
    return [target.chat(*(_sound(target.file(f"30-{i}.wav", _wave(30 * _MB))) for i in range(10)))]


def file_of_every_kind(target: Target) -> list[int]:
    file_id = target.file("60.bin", b"\1" * (60 * _MB))
    image = {"type": "image_url", "image_url": {"file_id": file_id}}
    video = {"type": "input_video", "input_video": {"file_id": file_id}}
    return [target.chat(*[image, video, {"type": "file", "file": {"file_id": file_id}}] * 30)]


def text_file_100_times(target: Target) -> list[int]:
    part = {"type": "file", "file": {"file_id": target.file("40.txt", b"word " * (8 * _MB))}}
    return [target.chat(*[part] * 100)]


def responses_name_a_file_100_times(target: Target) -> list[int]:
    file_id = target.file("60.wav", _wave(60 * _MB))
    content = [{"type": "input_file", "file_id": file_id}, {"type": "input_image", "file_id": file_id}] * 50
    return [target.post("/v1/responses", {"input": [{"role": "user", "content": content}]})]


def token_counts_name_a_file_100_times(target: Target) -> list[int]:
    messages = [{"role": "user", "content": [_sound(target.file("60.wav", _wave(60 * _MB)))] * 100}]
    return [target.post(path, {"messages": messages}) for path in ("/v1/plan", "/v1/tokenize")]


def batch_names_a_file_100_times(target: Target) -> list[int]:
    messages = [{"role": "user", "content": [_sound(target.file("60.wav", _wave(60 * _MB)))] * 100}]
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"messages": messages}}
    file_id = target.file("batch.jsonl", json.dumps(line).encode())
    batch = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    return [target.post("/v1/batches", batch)]


def batch_of_a_60_mb_file(target: Target) -> list[int]:
    """Its lines are short and wrong."""
    file_id = target.file("lines.jsonl", b'{"custom_id":"a"}\n' * (60 * _MB // 18))
    batch = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    return [target.post("/v1/batches", batch)]


def inline_sound_of_45_mb(target: Target) -> list[int]:
    return [target.chat(_inline(45 * _MB))]


def inline_sounds_of_1_mb(target: Target) -> list[int]:
    return [target.chat(*[_inline(_MB)] * 40)]


def anthropic_picture_of_40_mb(target: Target) -> list[int]:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(bytes(40 * _MB)).decode()}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    return [target.post("/v1/messages", {"messages": messages, "max_tokens": 4})]


def ollama_pictures_of_40_mb(target: Target) -> list[int]:
    messages = [{"role": "user", "content": "Hello", "images": [base64.b64encode(bytes(4 * _MB)).decode()] * 10}]
    return [target.post("/api/chat", {"messages": messages, "stream": False})]


def percent_encoded_picture(target: Target) -> list[int]:
    return [target.chat({"type": "image_url", "image_url": {"url": "data:image/png," + "%00" * (20 * _MB)}})]


def text_of_60_mb(target: Target) -> list[int]:
    return [target.post(CHAT, {"messages": [{"role": "user", "content": "word " * (12 * _MB)}]})]


def messages_of_one_letter(target: Target) -> list[int]:
    return [target.post(CHAT, {"messages": [{"role": "user", "content": "a"}] * 1_000_000})]


def body_of_empty_lists(target: Target) -> list[int]:
    return [target.post(CHAT, b'{"messages":[' + b"[]," * (20 * _MB) + b"[]]}")]


def body_of_small_objects(target: Target) -> list[int]:
    return [target.post("/v1/responses", b'{"input":[' + b'{"a":1},' * (7 * _MB) + b"{}]}")]


def body_of_numbers(target: Target) -> list[int]:
    return [target.post("/v1/completions", b'{"prompt":[' + b"999," * (15 * _MB) + b"1]}")]


def body_of_unknown_fields(target: Target) -> list[int]:
    fields = b",".join(b'"%d":1' % number for number in range(4_000_000))
    return [target.post("/v1/embeddings", b"{" + fields + b"}")]


def embeddings_of_a_million_texts(target: Target) -> list[int]:
    return [target.post(path, {field: ["a"] * 1_000_000, "query": "a"}) for path, field in
            (("/v1/embeddings", "input"), ("/v1/rerank", "documents"))]  # fmt: skip


def body_of_63_mb_that_is_no_json(target: Target) -> list[int]:
    return [target.post(CHAT, b"x" * (63 * _MB))]


def body_over_the_limit(target: Target) -> list[int]:
    return [target.post(CHAT, b" " * (80 * _MB))]
