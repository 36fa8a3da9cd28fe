"""Runs Claude Code against a server with a scripted model: an answer, a tool loop of three turns, counts, a search.

Exits with 1 if anything deviates from the script.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fakes.scripted_model import ScriptedAnswer, call, text, write_scripted_model
from fakes.server import Server, serving

PACKAGE = "@anthropic-ai/claude-code"
VERSION = "2.1.332"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "galago-clients" / "claude-code"
ISOLATED = "GALAGO_CLIENT_IS_ISOLATED"
ONLY_LOOPBACK = ["unshare", "--map-root-user", "--net"]
CONTEXT = "65536"
"""Context length in tokens; the first request alone has about 22,000."""
SECONDS = 240


class Script(NamedTuple):
    """The model's answers, the prompt and options of Claude Code, and a check of its events."""

    name: str
    answers: list[ScriptedAnswer]
    arguments: list[str]
    check: Callable[[list[dict[str, Any]], Path], None]


def scripts(folder: Path) -> list[Script]:
    """Claude Code's tools take their arguments in the order of their schemas."""
    note = folder / "note.txt"
    loop = [
        call("Bash", command="echo 12 > twelve.txt; cat twelve.txt", description="Count"),
        call("Write", file_path=str(note), content="made by a tool"),
        call("Read", file_path=str(note)),
        text("All three tools ran."),
    ]
    search = [
        call("ToolSearch", query="select:WebSearch"),
        call("WebSearch", query="cats of Bern"),
        text("Nothing was found."),
    ]
    tools = ["--allowedTools", "Bash", "Read", "Write", "ToolSearch", "WebSearch"]
    return [
        Script("first answer", [text("Hello there.")], ["Say hello."], _check_hello),
        Script("tool loop", loop, ["Make a note and read it.", *tools], _check_loop),
        Script("search that needs Anthropic", search, ["Search for cats.", *tools], _check_search),
        Script("count of the context", [text("Hello.")], ["/context"], _check_count),
    ]


def _check_hello(events: list[dict[str, Any]], folder: Path) -> None:
    assert _end(events) == "Hello there.", events[-1]
    pieces = [event["event"] for event in events if event["type"] == "stream_event"]
    streamed = "".join(piece["delta"]["text"] for piece in pieces if piece["type"] == "content_block_delta")
    assert streamed == "Hello there." and pieces[-1]["type"] == "message_stop", pieces


def _check_loop(events: list[dict[str, Any]], folder: Path) -> None:
    assert _end(events) == "All three tools ran.", events[-1]
    results = _results(events)
    assert (folder / "twelve.txt").read_text() == "12\n" and (folder / "note.txt").read_text() == "made by a tool"
    assert len(results) == 3 and not any(result.get("is_error") for result in results), results
    assert "made by a tool" in json.dumps(results[2]), results


def _check_search(events: list[dict[str, Any]], folder: Path) -> None:
    assert _end(events) == "Nothing was found.", events[-1]
    assert len(_results(events)) == 2, events


def _check_count(events: list[dict[str, Any]], folder: Path) -> None:
    assert "Context Usage" in _end(events), events[-1]


def _end(events: list[dict[str, Any]]) -> str:
    assert events and events[-1]["type"] == "result" and not events[-1]["is_error"], events[-1:]
    return str(events[-1]["result"])


def _results(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    contents = [event["message"]["content"] for event in events if event["type"] == "user"]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return [block for block in blocks if block["type"] == "tool_result"]


def run(script: Script, program: Path, server: Server, folder: Path, home: Path) -> list[dict[str, Any]]:
    """The events of one call of the program, with default settings except for the server's address and a key."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "xterm"}
    environment |= {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_AUTH_TOKEN": "unused"}
    command = [str(program), "-p", *script.arguments]
    command += ["--output-format", "stream-json", "--verbose", "--include-partial-messages"]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def try_script(script: Script, program: Path, temporary: Path) -> None:
    folder, home = temporary / "work", temporary / "home"
    model = write_scripted_model(temporary / "model.gguf", script.answers)
    with serving("--model", str(model), "--threads", "1", "--context", CONTEXT) as server:
        server.wait_until_ready()
        events = run(script, program, server, folder, home)
        script.check(events, folder)
    kinds = Counter(event["type"] for event in events)
    print(f"{script.name}: passed; events {dict(kinds)}", flush=True)


def install(version: str) -> Path:
    if shutil.which("npm") is None:
        sys.exit("npm is missing: apt install nodejs npm, brew install node, or https://nodejs.org")
    CACHE.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(CACHE), "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([*command, f"{PACKAGE}@{version}"], check=True, stdout=sys.stderr)
    return CACHE / "node_modules" / ".bin" / "claude"


def main(version: str = VERSION) -> int:
    program = CACHE / "node_modules" / ".bin" / "claude"
    if ISOLATED not in os.environ:
        program = install(version)
        if subprocess.run([*ONLY_LOOPBACK, "true"], capture_output=True, check=False).returncode == 0:
            inner = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, __file__]
            return subprocess.run([*ONLY_LOOPBACK, *inner], env=os.environ | {ISOLATED: "1"}, check=False).returncode
        print("this system permits no network namespace; the client could reach other machines", flush=True)
    failed = 0
    for index in range(len(scripts(Path()))):
        with tempfile.TemporaryDirectory() as name:
            temporary = Path(name)
            for folder in ("work", "home"):
                (temporary / folder).mkdir()
            script = scripts(temporary / "work")[index]
            try:
                try_script(script, program, temporary)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"{script.name}: FAILED: {error}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
