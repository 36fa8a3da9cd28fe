"""Installs the clients in build/clients, each in its exact version, and runs a suite by each against a server, beside
which there is one that makes vectors.

Prints what was counted; ends with 1 where a test has failed or a client could not be run. Knows nothing of the tests.
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
MADE = ROOT / "build" / "clients"
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
"""Refuses connections to other machines; LiteLLM would fetch a list of prices when it is imported."""


def openai_python() -> list[str]:
    return _own_tests(*OPENAI_TESTS)


def anthropic() -> list[str]:
    return _own_tests("server/anthropic/test_anthropic_client.py")


def ollama() -> list[str]:
    return _own_tests("server/ollama/test_ollama_client.py")


def _own_tests(*names: str) -> list[str]:
    """The project's own, which start servers of their own."""
    return [str(ROOT / ".venv/bin/pytest"), "-q", *(f"tests/runtime/{name}" for name in names)]


def openai_npm() -> list[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.exit("node and npm are missing: apt install nodejs npm, brew install node, or https://nodejs.org")
    version = subprocess.check_output([node, "--version"], text=True).strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        sys.exit(f"node {version} is too old; the client needs 20 or newer")
    folder = MADE / "npm"
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
    python = MADE / "python" / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(MADE / "python", with_pip=True)
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
"""By client what installs it and says how its suite is run."""


def run(command: list[str], server: Server, vectors: Server) -> tuple[bool, str]:
    """Whether a suite has passed, and its counts. What it prints goes to standard error."""
    asked = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY, "GALAGO_SAMPLES": str(DATA)}
    asked["GALAGO_VECTORS_URL"] = f"{vectors.url}/v1"
    suite = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | GUARD | asked)
    counts: dict[str, int] = {}
    assert suite.stdout
    for line in suite.stdout:
        sys.stderr.write(line)
        counts |= {match[1] or match[4]: int(match[2] or match[3]) for match in COUNTED.finditer(line)}
    told = {"passed": ("pass", "passed"), "failed": ("fail", "failed", "cancelled", "error", "errors")}
    told["skipped"] = ("skipped",)
    summed = (f"{sum(counts.get(word, 0) for word in words)} {name}" for name, words in told.items())
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
