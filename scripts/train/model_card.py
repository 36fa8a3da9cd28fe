"""Measures the built-in model through Galago's HTTP server and writes the numbers into its card.

    scripts/train/model_card.py [--log build/builtin/log.jsonl]

Sends every held-out question to a running `galago serve`. If a training log is given, writes it as a table: samples
seen, loss and accuracy on the development set.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate import questions
from galago.quantize.evaluate.questions import Question
from galago.runtime.types.messages import Audio, Image, Part, Text, ToolCall

CARD = builtin_folder() / "README.md"
SENSES = ("text", "image", "audio", "both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    asked = questions.read(builtin_folder() / "heldout.zip")
    command = [sys.executable, "-m", "galago.runtime.cli.main", "serve", "--model", "builtin", "--port", "0"]
    command += ["--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            with httpx.Client(base_url=_address(server), timeout=60) as client:
                right = [(q.group, q.task, q.is_correct(*_ask(client, q))) for q in asked]
        finally:
            server.terminate()
    groups = questions.as_json(questions.score(right))
    card = _put(CARD.read_text("utf-8"), "scores", _score_table(groups))
    if options.log:
        card = _put(card, "log", _log_table(options.log))
    CARD.write_text(card, "utf-8")
    print(questions.format_scores(groups))


def _address(server: subprocess.Popen[str]) -> str:
    """Waits until the model is ready; returns the server's address."""
    assert server.stderr
    address = ""
    for line in server.stderr:
        if "listening on " in line:
            address = line.split("listening on ")[1].strip()
        if "is ready" in line:
            return address
    raise SystemExit("the server did not start")


def _ask(client: httpx.Client, question: Question) -> tuple[str, list[ToolCall]]:
    messages = [{"role": m.role, "content": [_part(p) for p in m.parts]} for m in question.messages]
    body = {"model": "builtin", "messages": messages, "temperature": 0, "max_tokens": questions.MAX_ANSWER_TOKENS}
    body["cache"] = False  # as in `galago evaluate`: a cache changes the last digits of logits
    if question.tools:
        body["tools"] = [{"type": "function", "function": asdict(tool)} for tool in question.tools]
    answer = client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    message = answer.json()["choices"][0]["message"]
    calls = [ToolCall(call["id"], **call["function"]) for call in message.get("tool_calls", [])]
    return message["content"] or "", calls


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    assert isinstance(part, Image | Audio)
    data = base64.b64encode(part.data).decode()
    kind = part.source.rsplit(".", 1)[1]
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": f"data:image/{kind.replace('jpg', 'jpeg')};base64,{data}"}}
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


def _put(card: str, name: str, table: str) -> str:
    """Replaces the text between a pair of marks."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    assert card.count(begin) == card.count(end) == 1, f"{CARD} has no marks for {name}"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", card, flags=re.DOTALL)


def _score_table(groups: dict[str, Any]) -> str:
    lines = ["| held-out questions | right | of | share | 95 % interval |", "| --- | --- | --- | --- | --- |"]
    for group, all_ in groups.items():
        for name, one in [(f"**{group}**", all_), *all_["tasks"].items()]:
            span = f"{one['low']:.1%} to {one['high']:.1%}"
            lines.append(f"| {name} | {one['right']} | {one['of']} | {one['accuracy']:.1%} | {span} |")
    return "\n".join(lines)


def _log_table(path: Path) -> str:
    lines = [f"| samples | loss | {' | '.join(SENSES)} |", f"| --- | --- |{' --- |' * len(SENSES)}"]
    for entry in map(json.loads, path.read_text("utf-8").splitlines()):
        shares = " | ".join(f"{entry[sense]['right']:.1%}" for sense in SENSES)
        falling = " (after the learning rate decay)" if entry["finish"] else ""
        lines.append(f"| {entry['samples']:,}{falling} | {entry['loss']:.4f} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
