"""Installs pinned versions of the clients in build/clients and runs the test suite of each against servers.

Prints the version of each client and the counts of its suite; exits with 1 if a test fails or a client cannot run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from fakes import bert
from fakes.scripted_model import read_script, write_scripted_model
from fakes.server import DATA, serving

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
FOLDER = ROOT / "build" / "clients"
KEY = "open-sesame"
PYTEST = "9.2.0"
OPENAI_TESTS = (
    "server/openai/test_openai_client.py",
    "server/openai/test_choices.py",
    "server/openai/test_completions.py",
    "server/openai/test_responses.py",
    "server/openai/test_files.py",
    "server/openai/test_batches.py",
    "output/test_tools.py",
    "inference/test_embeddings.py",
)
COUNTED = re.compile(r"# (pass|fail|cancelled|skipped) (\d+)|(\d+) (passed|failed|errors?|skipped)\b")
GUARD = {
    "PYTHONPATH": str(ROOT / "tests" / "guard"),  # blocks connections to other machines
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise LiteLLM downloads a price list when it is imported
    "OPENAI_AGENTS_DISABLE_TRACING": "1",  # otherwise it sends each run to OpenAI
}


Suite: TypeAlias = tuple[str, list[str]]
"""The client's version and the command that runs its tests."""


def own_tests(client: str, *files: str) -> Suite:
    """Tests of this project, which start their own servers."""
    return version(client), [str(ROOT / ".venv/bin/pytest"), "-q", *(f"tests/runtime/{name}" for name in files)]


def python_client(name: str) -> Suite:
    """Installs a client into an environment of its own."""
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = FOLDER / name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(requirements), f"pytest=={PYTEST}"]
    subprocess.run([python, *pip], check=True)
    quiet = ["-q", "--disable-warnings", "-p", "no:cacheprovider", "-c", os.devnull]
    pinned = requirements.read_text("utf-8").split()[0].partition("==")[2]
    return pinned, [str(python), "-m", "pytest", *quiet, str(HERE / f"test_{name.replace('-', '_')}.py")]


def npm_client(package: str, *files: str) -> Suite:
    """Installs all clients from npm into one folder."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.exit("node and npm are missing: apt install nodejs npm, brew install node, or https://nodejs.org")
    node_version = subprocess.check_output([node, "--version"], text=True).strip()
    if int(node_version.removeprefix("v").split(".")[0]) < 20:
        sys.exit(f"node {node_version} is too old; the clients need 20 or newer")
    folder = FOLDER / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*HERE.glob("package*.json"), *HERE.glob("*.mjs")):
        shutil.copy(path, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    pinned = json.loads((HERE / "package.json").read_text("utf-8"))["dependencies"][package]
    return pinned, [node, "--test", "--test-reporter=tap", *(str(folder / name) for name in files)]


SUITES: dict[str, Callable[[], Suite]] = {
    "openai-python": partial(own_tests, "openai", *OPENAI_TESTS),
    "openai-npm": partial(npm_client, "openai", "openai.test.mjs", "openai-stored.test.mjs"),
    "vercel-ai": partial(npm_client, "ai", "ai.test.mjs"),
    "anthropic": partial(own_tests, "anthropic", "server/anthropic/test_anthropic_client.py"),
    "ollama": partial(own_tests, "ollama", "server/ollama/test_ollama_client.py"),
    **{path.stem: partial(python_client, path.stem) for path in sorted((HERE / "requirements").glob("*.txt"))},
}
"""Client -> a function that installs it."""


def run(command: list[str], settings: dict[str, str]) -> tuple[bool, str]:
    """Runs a suite and copies its output to standard error; returns whether it passed, and its counts."""
    suite = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | GUARD | settings)
    counts: dict[str, int] = {}
    assert suite.stdout
    for line in suite.stdout:
        sys.stderr.write(line)
        counts |= {match[1] or match[4]: int(match[2] or match[3]) for match in COUNTED.finditer(line)}
    words_of_count = {"passed": ("pass", "passed"), "failed": ("fail", "failed", "cancelled", "error", "errors")}
    words_of_count["skipped"] = ("skipped",)
    summed = (f"{sum(counts.get(word, 0) for word in words)} {name}" for name, words in words_of_count.items())
    return suite.wait() == 0, ", ".join(summed)


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """Servers with the built-in model and a store, an embedding model, and a scripted one; yields their addresses.

    The server of the embedding model is strict: it answers no requests for other models.
    """
    vectors = bert.write(folder / "bert.gguf")
    script = HERE / "script.json"
    scripted = write_scripted_model(folder / "scripted.gguf", read_script(script))
    with (
        serving("--store", str(folder / "store"), GALAGO_API_KEY=KEY) as builtin_server,
        serving("--model", str(vectors), "--name", "vectors", "--strict", GALAGO_API_KEY=KEY) as vectors_server,
        serving("--model", str(scripted), GALAGO_API_KEY=KEY) as scripted_server,
    ):
        for server in (builtin_server, vectors_server, scripted_server):
            server.wait_until_ready()
        yield {
            "OPENAI_BASE_URL": f"{builtin_server.url}/v1",
            "OPENAI_API_KEY": KEY,
            "GALAGO_SAMPLES": str(DATA),
            "GALAGO_VECTORS_URL": f"{vectors_server.url}/v1",
            "GALAGO_SCRIPTED_URL": f"{scripted_server.url}/v1",
            "GALAGO_SCRIPT": str(script),
        }


def main(names: list[str]) -> int:
    if unknown := set(names) - set(SUITES):
        print(f"there is no client {sorted(unknown)[0]!r}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    suites = {name: SUITES[name]() for name in names or SUITES}
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as settings:
        results = {name: run(command, settings) for name, (_, command) in suites.items()}
    for name, (passed, counts) in results.items():
        print(f"{name:14} {suites[name][0]:8} {counts}{'' if passed else '  FAILED'}")
    return int(not all(passed for passed, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
