"""Installs the Codex CLI and runs it, unchanged, against a server with a scripted model.

Its configuration names the server, and is otherwise the default one: once as a provider of its own (HTTP), once as the
base URL of the default provider (WebSocket, with tools among the items). Exits with 1 unless both finish their loop.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fakes.scripted_model import ScriptedAnswer, call, text, write_scripted_model
from fakes.server import serving

VERSION = "0.171.0"
"""The current release when this was written."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "galago-clients"
ISOLATED = "GALAGO_CLIENTS_ISOLATED"
"""Set in the process that runs in a network namespace of its own."""
COMMANDS = ("echo first-mark", "ls", "echo last-mark")
LAST_WORDS = "It printed two marks."
TIMEOUT_SECONDS = 240


def in_javascript(command: str) -> str:
    return f'const result = await tools.exec_command({{cmd: "{command}"}}); text(result.output);'


@dataclass(frozen=True)
class Setup:
    """A configuration of Codex, and how the model calls its tools.

    With its default provider Codex asks for OpenAI's model, and the server answers with the one that it has.
    """

    name: str
    config: str
    calls: Sequence[ScriptedAnswer]
    logs_in: bool = False


SETUPS = (
    Setup(
        "own provider, HTTP",
        'model = "scripted"\nmodel_provider = "galago"\n'
        '[model_providers.galago]\nname = "Galago"\nbase_url = "{url}/v1"\n',
        [call("exec_command", cmd=command) for command in COMMANDS],
    ),
    Setup(
        "default provider, WebSocket",
        'openai_base_url = "{url}/v1"\n',
        [call("functions__exec", input=in_javascript(command)) for command in COMMANDS],
        logs_in=True,
    ),
)


def install(version: str) -> Path:
    """The path of the installed program."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is missing: apt install nodejs npm, brew install node, or https://nodejs.org")
    folder = CACHE / f"codex-{version}"
    program = folder / "node_modules" / ".bin" / "codex"
    if not program.exists():
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([*command, f"@openai/codex@{version}"], check=True, stdout=subprocess.DEVNULL)
    return program


def isolate() -> None:
    """Starts this script again in a network namespace that has only loopback, if this machine permits it."""
    if ISOLATED in os.environ:
        return
    inside = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") and subprocess.run([*inside, "true"], stderr=subprocess.DEVNULL).returncode == 0:
        os.environ[ISOLATED] = "1"
        os.execvp(inside[0], [*inside, sys.executable, *sys.argv])
    print("this machine permits no network namespace: Codex runs with full network access", file=sys.stderr)


def run(program: Path, setup: Setup, folder: Path) -> list[str]:
    """Lets Codex work in a folder; returns what went wrong."""
    model = write_scripted_model(folder / "scripted.gguf", [*setup.calls, text(LAST_WORDS)])
    home, project = folder / "home", folder / "project"
    (home / ".codex").mkdir(parents=True)
    project.mkdir()
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {"HOME": str(home)}
    arguments = ("--model", str(model), "--context", "65536")
    with serving(*arguments) as server:
        server.wait_until_ready()
        (home / ".codex" / "config.toml").write_text(setup.config.format(url=server.url))
        if setup.logs_in:
            login = [str(program), "login", "--with-api-key"]
            subprocess.run(login, input="unused", env=environment, text=True, check=True, capture_output=True)
        last = folder / "last.txt"
        command = [str(program), "exec", "--skip-git-repo-check", "-o", str(last), "List the files and mark them."]
        done = subprocess.run(
            command, cwd=project, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
    problems = [] if done.returncode == 0 else [f"it exited with {done.returncode}:\n{done.stderr[-3000:]}"]
    problems += [line for line in done.stderr.splitlines() if "ERROR" in line or "Reconnecting" in line]
    outputs = list(tool_outputs(home / ".codex" / "sessions"))
    if len(outputs) != len(COMMANDS):
        problems.append(f"it ran {len(outputs)} tools, not {len(COMMANDS)}")
    elif "first-mark" not in outputs[0] or "last-mark" not in outputs[-1]:
        problems.append(f"its tools printed something else: {outputs}")
    words = last.read_text().strip() if last.exists() else ""
    return problems + ([] if words == LAST_WORDS else [f"its last words are {words!r}"])


def tool_outputs(sessions: Path) -> Iterator[str]:
    """The outputs of tools in Codex's own record of its session."""
    for path in sorted(sessions.rglob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            item = json.loads(line).get("payload") or {}
            if item.get("type") in ("function_call_output", "custom_tool_call_output"):
                yield json.dumps(item.get("output"))


def main(version: str) -> int:
    program = install(version)
    isolate()
    failed = 0
    for setup in SETUPS:
        with tempfile.TemporaryDirectory(dir="/var/tmp" if os.path.isdir("/var/tmp") else None) as folder:
            problems = run(program, setup, Path(folder))
        print(f"codex {version}, {setup.name}: {'failed' if problems else f'{len(COMMANDS)} tools, answered'}")
        for problem in problems:
            print(f"  {problem}")
        failed += bool(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or [VERSION])))
