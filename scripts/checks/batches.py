"""Kills the worker and the server during a batch, and measures how much a batch slows down streams.

    scripts/check batches [--lines N]          default: 500 lines; 0 measures the streams only

Lines contain text, images and audio. Each line must be answered exactly once. A regular expression forces the answer to
contain the line's number, so that a mixed-up answer is detected regardless of the model. Streams run with and without
a batch in alternating rounds, because the speed of a machine drifts. Exits with 1 if a line is answered wrongly, or if
streams become more than 10 % slower.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import openai
import psutil

from fakes.server import DATA, audio_part, image_part, serving, text_part

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
ROUNDS = 12
STREAMS = 3
TOKENS = 400
MAX_SLOWDOWN = 1.1
TIMEOUT_SECONDS = 1800
TERMINAL_STATUSES = ("completed", "failed", "expired", "cancelled")


def content_parts(client: openai.OpenAI) -> list[dict[str, Any]]:
    """A text, images and audio clips; media are sent both inline and by file id."""
    image = client.files.create(file=DATA / "picture-5.png", purpose="user_data").id
    audio = client.files.create(file=DATA / "sound-1.wav", purpose="user_data").id
    return [
        text_part("Opposite of big?"),
        image_part(DATA / "picture-3.png"),
        audio_part(DATA / "sound-2.wav"),
        {"type": "file", "file": {"file_id": image}},
        {"type": "input_audio", "input_audio": {"file_id": audio}},
    ]


def start(client: openai.OpenAI, count: int) -> str:
    """Creates a batch; returns its id."""
    parts, lines = content_parts(client), []
    for i in range(count):
        content = [parts[i % len(parts)], text_part(f"What is it? {i}")]
        body = {"messages": [{"role": "user", "content": content}], "regex": rf"{i:05}[a-z]{{40}}"}
        lines.append({"custom_id": str(i), "method": "POST", "url": CHAT, "body": body})
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id


def stream_rate(client: openai.OpenAI) -> float:
    """Median tokens per second of consecutive streams, each measured from its request to its end."""
    rates = []
    for _ in range(STREAMS):
        begin = time.perf_counter()
        messages: Any = [{"role": "user", "content": "Tell me."}]
        extra = {"ignore_eos": True, "cache": False}
        chunks = client.chat.completions.create(
            model="builtin", messages=messages, stream=True, max_tokens=TOKENS, extra_body=extra
        )
        for _chunk in chunks:
            pass
        rates.append(TOKENS / (time.perf_counter() - begin))
        time.sleep(0.2)  # lets the batch continue
    return statistics.median(rates)


def slowdowns(client: openai.OpenAI) -> list[float]:
    """Slowdown of streams by a running batch, one factor per round."""
    factors = []
    for turn in range(ROUNDS + 1):
        rates: dict[bool, float] = {}
        for batch in (False, True) if turn % 2 else (True, False):
            name = start(client, 100) if batch else None
            if name is not None:
                wait_for(client, name, 1)
            rates[batch] = stream_rate(client)
            if name is not None:
                assert client.batches.retrieve(name).status == "in_progress", "the batch ended too early"
                client.batches.cancel(name)
                wait_for(client, name, 101)
        if turn:  # the first round warms up
            factors.append(rates[False] / rates[True])
            print(f"{rates[False]:.0f} tokens/s, {rates[True]:.0f} during a batch", flush=True)
    return factors


def wait_for(client: openai.OpenAI, name: str, answered: int) -> Any:
    """Waits until `answered` lines are answered or the batch has ended; returns the batch."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(name)
        if batch.status in TERMINAL_STATUSES or (batch.request_counts and batch.request_counts.completed >= answered):
            return batch
        time.sleep(0.25)
    raise SystemExit(f"the batch did not end within {TIMEOUT_SECONDS} s: {batch}")


def wrong_lines(client: openai.OpenAI, batch: Any, count: int) -> list[str]:
    """Descriptions of lines without exactly one answer, and of wrong answers."""
    results = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    times = Counter(result["custom_id"] for result in results)
    wrong = [f"line {i} has {times[str(i)]} answers" for i in range(count) if times[str(i)] != 1]
    for result in results:
        i, body = int(result["custom_id"]), result["response"]["body"]
        tokens = body["usage"]["prompt_tokens_details"]
        modalities = (tokens["image_tokens"] > 0, tokens["audio_tokens"] > 0)
        text = body["choices"][0]["message"]["content"]
        if not re.fullmatch(rf"{i:05}[a-z]{{40}}", text) or modalities != (i % 5 in (1, 3), i % 5 in (2, 4)):
            wrong.append(f"line {i}: {text!r}, image and audio read: {modalities}")
    return wrong


def answered_once(count: int, *arguments: str) -> bool:
    """Kills the worker after a third of the lines and the server after two thirds; returns whether each line has one
    right answer."""
    with serving(*arguments) as server:
        server.wait_until_ready()
        with server.client() as client:
            name = start(client, count)
            reached = wait_for(client, name, count // 3).request_counts.completed
            [worker] = psutil.Process(server.process.pid).children()
            worker.kill()
            print(f"the worker was killed with {reached} of {count} lines answered", flush=True)
            reached = wait_for(client, name, 2 * count // 3).request_counts.completed
            server.process.kill()
            print(f"the server was killed with {reached} of {count} lines answered", flush=True)
    with serving(*arguments) as server:
        server.wait_until_ready()
        with server.client() as client:
            batch = wait_for(client, name, count + 1)
            wrong = wrong_lines(client, batch, count)
    for line in wrong[:10]:
        print(line)
    print(f"{batch.status}: {count} lines, {batch.request_counts.failed} failed, {len(wrong)} wrong", flush=True)
    return not wrong and not batch.request_counts.failed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lines", type=int, default=500)
    count = parser.parse_args(arguments).lines
    with tempfile.TemporaryDirectory() as folder:
        options = ("--threads", "1", "--store", str(Path(folder) / "store"))
        right = answered_once(count, *options) if count else True
        with serving(*options) as server:
            server.wait_until_ready()
            with server.client() as client:
                factors = slowdowns(client)
    low, median, high = statistics.quantiles(factors, n=4)
    print(f"a batch slows streams down by {median - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%}, {len(factors)} rounds)")
    return 0 if right and median <= MAX_SLOWDOWN else 1
