"""Unknown files are tried in a child process first, and files that passed are not tried again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from galago.models.errors import ModelError
from galago.models.json_file import unseal
from galago.models.registry.resolve import resolve
from galago.runtime.inference import load_check
from galago.runtime.process import spawn

BUILTIN = resolve("builtin")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(load_check, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "tried.json"


def damaged_projector(folder: Path) -> Path:
    """Writes a projector with one tensor renamed: llama.cpp reads through a null pointer."""
    assert BUILTIN.projector
    path = folder / "damaged.gguf"
    data = BUILTIN.projector.read_bytes()
    path.write_bytes(data.replace(b"v.blk.2.attn_k.weight", b"v.flk.2.attn_k.weight"))
    return path


def test_a_file_that_crashes_llama_cpp_raises_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"crashed on text-Q8_0.gguf with damaged.gguf: .* was killed by SIG"):
        load_check.check_loading(resolve("builtin", damaged_projector(tmp_path)))


def test_the_command_line_reports_it_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "run", "builtin", "Hi", "--mmproj"]
    done = subprocess.run([*command, damaged_projector(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "damaged.gguf" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_that_passed_is_remembered_by_its_hash(tmp_path: Path, own_cache: Path) -> None:
    data = BUILTIN.weights.read_bytes()
    for name in ("model.gguf", "copy.gguf"):
        (tmp_path / name).write_bytes(data)
        load_check.check_loading(resolve(tmp_path / name))
        assert len(json.loads(unseal(own_cache.read_bytes()))) == 1
    at = data.index(b"galago-builtin")
    (tmp_path / "model.gguf").write_bytes(data[:at] + b"Galago-builtin" + data[at + 14 :])
    load_check.check_loading(resolve(tmp_path / "model.gguf"))
    assert len(json.loads(unseal(own_cache.read_bytes()))) == 2


@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no such limit")
def test_the_childs_memory_is_limited_by_the_size_of_its_files() -> None:
    code = "from galago.runtime.llamacpp.programs.load_check import cap\ncap([1000])\nbytearray({} << 30)"
    ends = [subprocess.run([sys.executable, "-c", code.format(size)], capture_output=True) for size in (1, 5)]
    assert ends[0].returncode == 0 and b"MemoryError" in ends[1].stderr


def test_a_damaged_list_is_replaced(tmp_path: Path, own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("{")
    load_check.check_loading(resolve(BUILTIN.weights))
    assert len(json.loads(unseal(own_cache.read_bytes()))) == 1


def test_the_builtin_model_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "run_module", None)
    load_check.check_loading(BUILTIN)


def test_a_folder_named_galago_in_the_working_directory_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "galago" / "runtime").mkdir(parents=True)
    command = ["-c", "import sys; from galago.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    arguments = ["run", "builtin", "Hi", "--mmproj", str(damaged_projector(tmp_path))]
    done = subprocess.run(
        [sys.executable, "-P", *command, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 1 and "crashed on" in done.stderr
