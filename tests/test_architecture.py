"""The rules that keep the code as drawn: who imports whom, one door per library, no stray packages."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from galago.models import errors
from galago.runtime.environment import VARIABLES
from galago.runtime.server.http.errors import TABLE

ROOT = Path(__file__).parent.parent
PARTS = ("models", "runtime", "quantize")
FILES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

LAYERS = [
    "models/errors models/units",
    "models",
    "runtime/types runtime/config runtime/environment runtime/log",
    "runtime/process",
    "runtime/sampling runtime/cache",
    "runtime/llamacpp",
    "runtime/speculative",
    "runtime/engine",
    "runtime/media runtime/output",
    "runtime/prompt",
    "runtime/inference",
    "runtime/worker",
    "runtime/service",
    "runtime/pool",
    "runtime/python_api runtime/chat_input runtime/__init__",
    "quantize",
    "runtime/server",
    "runtime/cli",
]
"""Left may never import right; the names in one row may import each other."""

DOORS: dict[str, str | tuple[str, ...]] = {
    "llama_cpp": "runtime/llamacpp/",
    "gguf": ("runtime/llamacpp/programs/benchmark.py", "quantize/"),
    "tokenizers": "quantize/convert/hf_reference.py",
    "torch": "quantize/convert/hf_reference.py",
    "transformers": "quantize/convert/hf_reference.py",
    "peft": "quantize/convert/hf_reference.py",
    "llguidance": "runtime/output/structured/grammar.py",
    "jinja2": "runtime/prompt/template_renderer.py",
    "huggingface_hub": "models/hub/connection.py",
    "httpx2": ("models/hub/connection.py", "models/hub/proxies.py"),
    "filelock": "models/kept_file.py",
    "platformdirs": "models/paths.py",
    "tomlkit": "models/presets.py",
    "PIL": "runtime/media/image.py",
    "soundfile": "runtime/media/audio.py",
    "soxr": "runtime/media/audio.py",
    "starlette": "runtime/server/",
    "uvicorn": ("runtime/server/run.py", "runtime/server/http/security.py", "runtime/server/http/sockets.py"),
    "msgspec": ("runtime/server/", "runtime/process/"),
    "sqlite3": "runtime/server/storage/",
    "typer": "runtime/cli/",
}

MAX_LINES, MAX_FUNCTION = 400, 60


def layer(name: str) -> int:
    """The row of a file; the most exact name wins."""
    places = [(len(part), i) for i, row in enumerate(LAYERS) for part in row.split() if within(name, part)]
    assert places, f"{name} stands in no layer"
    return max(places)[1]


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + "/")


@functools.cache
def source(path: Path) -> str:
    return path.read_text("utf-8")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(source(path))


@functools.cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Imported modules with the level of the dots in front; `from . import x` names x."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module)] if node.module else [(node.level, a.name) for a in node.names]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_one_way(name: str) -> None:
    path = ROOT / name
    for level, module in imports(path):
        if level:
            target = path.parents[level - 1].joinpath(*module.split("."))
            target_name = str(target.relative_to(ROOT))
            assert layer(target_name) <= layer(name.removesuffix(".py")), f"{name} imports {target_name}"


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    users = [
        n
        for n, p in zip(NAMES, FILES, strict=True)
        if any(not level and m.split(".")[0] == library for level, m in imports(p))
    ]
    assert users and all(name.startswith(DOORS[library]) for name in users), users


@pytest.mark.parametrize("name", NAMES)
def test_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(ROOT / name))


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_stay_short(name: str) -> None:
    assert len(source(ROOT / name).splitlines()) <= MAX_LINES
    for node in ast.walk(tree(ROOT / name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, node.name


def test_no_name_hides_what_it_does() -> None:
    vague = re.compile(r"class \w*(Manager|Helper|Utils?|Handler)\b")
    assert not [name for name, path in zip(NAMES, FILES, strict=True) if vague.search(source(path))]
    assert not [name for name in NAMES if re.search(r"(utils?|helpers?|common|misc)\.py$", name)]


def test_one_module_reads_the_environment() -> None:
    readers = [n for n, p in zip(NAMES, FILES, strict=True) if re.search(r"os\.(environ|getenv)", source(p))]
    assert readers == ["runtime/environment.py"]


def test_one_module_starts_processes() -> None:
    starts = re.compile(r"^(subprocess|multiprocessing|pty)\b")
    starters = [n for n, p in zip(NAMES, FILES, strict=True) if any(starts.match(m) for _, m in imports(p))]
    assert starters == ["runtime/process/spawn.py"]
    forks = re.compile(r"os\.(fork|exec|spawn|posix_spawn|popen|system)\w*\(")
    assert not [n for n, p in zip(NAMES, FILES, strict=True) if forks.search(source(p))]


def test_nothing_assumes_that_one_model_is_loaded() -> None:
    assumes = re.compile(r"\bmodels\(\)\[|\bstats\(\)\[|\bservice\.model_id\b|\bservice\.default\b")
    assert not [name for name, path in zip(NAMES, FILES, strict=True) if assumes.search(source(path))]


def test_nothing_opens_a_connection() -> None:
    calls = r"urllib\.request|http\.client|import httpx|import HfApi|(?<!sqlite3)\.connect\(|create_connection"
    dialing = re.compile(calls)
    dialers = [name for name, path in zip(NAMES, FILES, strict=True) if dialing.search(source(path))]
    hub = ["models/hub/connection.py", "models/hub/proxies.py"]
    assert dialers == [*hub, "runtime/cli/ui/server_client.py"]  # the latter asks the server that runs here


def test_every_error_has_a_status() -> None:
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.GalagoError)}
    assert set(TABLE) == classes
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)


def test_the_list_of_packages_is_the_tree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    tree = {".".join(("galago", *p.parent.relative_to(ROOT).parts)) for p in FILES if p.name == "__init__.py"}
    assert set(listed) == tree
    assert {p.parent for p in FILES} == {p.parent for p in FILES if p.name == "__init__.py"}
    for part in PARTS:
        assert (ROOT / part / "py.typed").exists()


@pytest.mark.parametrize("name", PARTS)
def test_the_folders_cannot_be_imported_under_their_bare_names(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None or str(ROOT / name) not in list(spec.submodule_search_locations or ())


def test_the_page_shows_the_layers() -> None:
    section = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Layers")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([^`]+)`", row) for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)]
    assert rows == [[name for name in row.split() if name != "runtime/__init__"] for row in LAYERS]


def test_every_variable_of_ours_is_documented() -> None:
    source = (ROOT / "runtime/environment.py").read_text("utf-8")
    assert set(re.findall(r"environ\.get\(\"(GALAGO_\w+)", source)) == {n for n in VARIABLES if n.startswith("GALAGO_")}


def loaded_by(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_runtime_loads_neither_llama_cpp_nor_numpy() -> None:
    assert not loaded_by("import galago.runtime") & {"llama_cpp", "numpy", "PIL", "starlette", "typer"}


def test_help_loads_next_to_nothing() -> None:
    loaded = loaded_by("from galago.runtime.cli.main import main\nmain(['--help'])")
    assert not loaded & {"llama_cpp", "numpy", "typer", "rich", "starlette"}
