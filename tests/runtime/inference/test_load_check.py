"""Unknown files are tried in a child process first, and files that passed are not tried again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes import crafted, lora
from galago.models.errors import ModelError
from galago.models.json_file import unseal
from galago.models.registry.resolve import resolve
from galago.runtime.inference import load_check, load_check_program
from galago.runtime.llamacpp import memory
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


def test_files_that_passed_are_tried_again_when_one_of_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the same size and modification time."""
    parts, adapter = split_model(tmp_path), lora.write(tmp_path / "lora.gguf")
    draft = Path(shutil.copy(BUILTIN.weights, tmp_path / "draft.gguf"))
    tried = []

    def run_module(*given: object, **_options: object) -> spawn.ChildResult:
        tried.append(given)
        return spawn.ChildResult(0)

    monkeypatch.setattr(spawn, "run_module", run_module)

    def times_tried() -> int:
        load_check.check_loading(resolve(parts[0], BUILTIN.projector, lora=[adapter], draft=draft))
        return len(tried)

    assert times_tried() == times_tried() == 1
    for number, path in enumerate((*parts, adapter, draft), 2):
        status, data = path.stat(), bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert times_tried() == times_tried() == number


def test_a_part_that_is_damaged_after_the_check_is_reported(tmp_path: Path) -> None:
    parts = split_model(tmp_path)
    load_check.check_loading(resolve(parts[0]))
    model = crafted.read(parts[1])
    name = next(iter(model.tensors))
    tensors = {"x" + other if other == name else other: tensor for other, tensor in model.tensors.items()}
    model.having(tensors=tensors).write(parts[1])
    with pytest.raises(ModelError, match="not found"):
        load_check.check_loading(resolve(parts[0]))


def test_what_only_a_first_request_shows_is_reported(tmp_path: Path) -> None:
    """Vocabularies with which llama.cpp loads a model and ends its process at the first text."""
    text = crafted.read(BUILTIN.weights)
    names = ("tokenizer llama", "tokenizer none", "tokenizer rwkv")
    chosen = {name: model for name, model in crafted.variants(text) if name in names}
    for name in names:
        with pytest.raises(ModelError) as error:
            load_check.check_loading(resolve(chosen[name].write(tmp_path / "model.gguf")))
        assert "model.gguf" in error.value.message and "\n" not in error.value.message, name


def test_a_pipe_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    parts = split_model(tmp_path)
    files = resolve(parts[0])
    parts[1].unlink()
    os.mkfifo(parts[1])
    with pytest.raises(ModelError, match="a named pipe, not a regular file"):
        resolve(parts[0])
    with pytest.raises(ModelError, match="a named pipe, not a regular file"):
        load_check.check_loading(files)


def split_model(folder: Path) -> list[Path]:
    """Writes the built-in model as two files."""
    model = crafted.read(BUILTIN.weights)
    names, parts = list(model.tensors), []
    for number, half in enumerate((names[:5], names[5:])):
        begin = model.tensors[half[0]].offset
        tensors = {name: model.tensors[name]._replace(offset=model.tensors[name].offset - begin) for name in half}
        end = model.tensors[names[5]].offset if number == 0 else None
        keys = dict(model.keys) if number == 0 else {}
        for key, kind, value in (("no", 2, number), ("count", 2, 2), ("tensors.count", 5, len(names))):
            keys[f"split.{key}"] = crafted.Value(kind, value)
        part = crafted.Model(keys, tensors, model.data[begin:end])
        parts.append(part.write(folder / f"split-{number + 1:05}-of-00002.gguf"))
    return parts


# load_check_seconds, load_check_memory


def test_the_child_may_use_what_the_limits_say_and_more_for_larger_files(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int] = {}

    def limit_this_process(**limits: int) -> None:
        given.update(limits)
        if "data_bytes" in limits:
            raise InterruptedError

    monkeypatch.setenv("GALAGO_LIMIT_LOAD_CHECK_SECONDS", "20")
    monkeypatch.setenv("GALAGO_LIMIT_LOAD_CHECK_MEMORY", "2GiB")
    monkeypatch.setattr(load_check_program, "limit_this_process", limit_this_process)
    monkeypatch.setattr(memory, "limit_this_process", limit_this_process)
    monkeypatch.setattr(memory, "gpus", list)
    monkeypatch.setattr(time, "process_time", lambda: 3.5)
    with pytest.raises(InterruptedError):
        load_check_program.main(str(BUILTIN.weights), "", "")
    size_bytes = BUILTIN.weights.stat().st_size
    assert given == {"cpu_seconds": 4 + 20 + (size_bytes >> 21), "data_bytes": (2 << 30) + 3 * size_bytes}


@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no such limit")
def test_a_model_that_needs_more_than_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(BUILTIN.weights.read_bytes())
    monkeypatch.setenv("GALAGO_LIMIT_LOAD_CHECK_MEMORY", "1MiB")
    with pytest.raises(ModelError, match=r"model.gguf needs too much memory; .*--limit load_check_memory=VALUE"):
        load_check.check_loading(resolve(path))
    monkeypatch.setattr(spawn, "run_module", lambda *_, **__: spawn.ChildResult(-signal.SIGXCPU))
    with pytest.raises(ModelError, match=r"the limit is 5 s \(change it with --limit load_check_seconds=VALUE\)"):
        load_check.check_loading(resolve(path))


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
