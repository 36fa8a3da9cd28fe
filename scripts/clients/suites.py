"""Installs pinned versions of the clients in build/clients and runs the test suite of each against a server.

A second server runs an embedding model. Prints the counts of each suite; exits with 1 if a test fails or a client
cannot run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from fakes import bert
from fakes.server import DATA, Server, serving

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
FOLDER = ROOT / "build" / "clients"
KEY = "open-sesame"
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
GUARD = {"PYTHONPATH": str(ROOT / "tests" / "guard"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""Blocks connections to other machines. LiteLLM would download a price list when it is imported."""


def openai_python() -> list[str]:
    return _own_tests(*OPENAI_TESTS)


def anthropic() -> list[str]:
    return _own_tests("server/anthropic/test_anthropic_client.py")


def ollama() -> list[str]:
    return _own_tests("server/ollama/test_ollama_client.py")


def _own_tests(*names: str) -> list[str]:
    """Runs tests of this project, which start their own servers."""
    return [str(ROOT / ".venv/bin/pytest"), "-q", *(f"tests/runtime/{name}" for name in names)]


def openai_npm() -> list[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.exit("node and npm are missing: apt install nodejs npm, brew install node, or https://nodejs.org")
    version = subprocess.check_output([node, "--version"], text=True).strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        sys.exit(f"node {version} is too old; the client needs 20 or newer")
    folder = FOLDER / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    suites = sorted(path.name for path in HERE.glob("*.test.mjs"))
    for name in ("package.json", "package-lock.json", *suites):
        shutil.copy(HERE / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return [node, "--test", "--test-reporter=tap", *(str(folder / name) for name in suites)]


def litellm() -> list[str]:
    return _pytest("test_litellm.py")


def llm() -> list[str]:
    return _pytest("test_llm.py")


def _pytest(name: str) -> list[str]:
    python = FOLDER / "python" / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(FOLDER / "python", with_pip=True)
    pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(HERE / "requirements.txt")]
    subprocess.run([python, *pip], check=True)
    quiet = ["-q", "--disable-warnings", "-p", "no:cacheprovider", "-c", os.devnull]
    return [str(python), "-m", "pytest", *quiet, str(HERE / name)]


SUITES: dict[str, Callable[[], list[str]]] = {
    "openai-python": openai_python,
    "openai-npm": openai_npm,
    "litellm": litellm,
    "llm": llm,
    "anthropic": anthropic,
    "ollama": ollama,
}
"""Client -> a function that installs it and returns the command of its suite."""


def run(command: list[str], server: Server, vectors: Server) -> tuple[bool, str]:
    """Runs a suite and copies its output to standard error; returns whether it passed, and its counts."""
    settings = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY, "GALAGO_SAMPLES": str(DATA)}
    settings["GALAGO_VECTORS_URL"] = f"{vectors.url}/v1"
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


def main(names: list[str]) -> int:
    if unknown := set(names) - set(SUITES):
        print(f"there is no client {sorted(unknown)[0]!r}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    commands = {name: SUITES[name]() for name in names or SUITES}
    with tempfile.TemporaryDirectory() as folder:
        model = bert.write(Path(folder) / "bert.gguf")
        with (
            serving("--store", str(Path(folder) / "store"), GALAGO_API_KEY=KEY) as server,
            serving("--model", str(model), "--name", "vectors") as vectors,
        ):
            server.wait_until_ready()
            vectors.wait_until_ready()
            results = {name: run(command, server, vectors) for name, command in commands.items()}
    for name, (passed, counts) in results.items():
        print(f"{name:14} {counts}{'' if passed else '  FAILED'}")
    return int(not all(passed for passed, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
