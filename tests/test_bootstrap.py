"""Tests of scripts/bootstrap: build keys, CMake options, progress and messages. They build and install nothing."""

import importlib.util
import io
import os
import re
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
GCC_12 = "c++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n"
GCC_13 = "g++ (GCC) 13.2.1 20231011 (Red Hat 13.2.1-4)\nCopyright (C) 2023 Free Software Foundation, Inc.\n"
CLANG = "Debian clang version 12.0.6 (1) 12.\nTarget: x86_64-pc-linux-gnu\n"


def load() -> ModuleType:
    loader = SourceFileLoader("bootstrap", str(ROOT / "scripts" / "bootstrap"))
    spec = importlib.util.spec_from_loader("bootstrap", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


bootstrap = load()
BUILD = bootstrap.Build("0.3.36", "cpu", False, "linux-x86_64", "avx2 fma", "cc 12", ("-DX=1",))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# the key of a finished wheel


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.3.37"},
        {"backend": "cuda"},
        {"prebuilt": True},
        {"platform": "linux-aarch64"},
        {"cpu_flags": "avx2"},
        {"compilers": "cc 13"},
        {"cmake_args": ("-DX=2",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_key_depends_on_every_field(change: dict[str, object]) -> None:
    assert BUILD._replace(**change).key() != BUILD.key()


def test_every_field_of_the_key_is_tested() -> None:
    assert len(BUILD) == 7


def test_key_is_stable_between_runs() -> None:
    assert load().Build(*BUILD).key() == BUILD.key()


def test_key_separates_options() -> None:
    assert BUILD._replace(cmake_args=("a", "b")).key() != BUILD._replace(cmake_args=("a b",)).key()


def test_stamp_changes_with_the_installed_locks_and_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml")]
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "LOCK", files[0])
    monkeypatch.setattr(bootstrap, "DEVELOPMENT_LOCK", files[1])
    stamps: dict[bool, list[str]] = {True: [], False: []}
    for texts in ("abc", "Abc", "aBc", "abC"):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        for development, found in stamps.items():
            builds = (BUILD, BUILD._replace(backend="cuda"))
            found += [bootstrap.stamp(build, development) for build in builds]
    assert len(set(stamps[True])) == 8
    assert len(set(stamps[False])) == 6  # the development lock does not matter
    assert not set(stamps[True]) & set(stamps[False])


# the CPU and the compiler


def test_cpu_flags_are_the_sorted_flags_of_the_first_processor() -> None:
    assert (
        bootstrap.cpu_flags_in("processor\t: 0\nflags\t\t: sse avx2 fma\nbugs\t\t: x\n\nflags\t\t: z\n")
        == "avx2 fma sse"
    )
    assert bootstrap.cpu_flags_in("processor : 0\nFeatures\t: fp asimd\nCPU part : 0xd0b\n") == "asimd fp"
    assert bootstrap.cpu_flags_in("vmx flags\t: ept\n") == ""


@pytest.mark.parametrize(("text", "major"), [(GCC_12, 12), (GCC_13, 13), (CLANG, 0), ("", 0)])
def test_gcc_is_distinguished_from_other_compilers(text: str, major: int) -> None:
    assert bootstrap.gcc_major(text) == major


@pytest.mark.parametrize(
    ("flags", "compiler", "needed"),
    [
        ("avx2 amx_int8 amx_tile", GCC_12, True),
        ("avx2 amx_int8 amx_tile", GCC_13, False),
        ("avx2 amx_int8 amx_tile", CLANG, False),
        ("avx2 amx_tile", GCC_12, False),
        ("avx2 amx_int8x", GCC_12, False),
        ("", GCC_12, False),
    ],
)
def test_amx_is_disabled_for_old_gcc_on_cpus_with_amx(flags: str, compiler: str, needed: bool) -> None:
    assert bootstrap.must_disable_amx(flags, compiler) is needed


def test_a_failed_build_is_repeated_without_amx_once() -> None:
    build = BUILD._replace(cpu_flags="amx_int8 avx2")
    again = bootstrap.without_amx(build)
    assert again.cmake_args == (*bootstrap.DISABLE_AMX, "-DX=1")
    assert bootstrap.without_amx(again) == again


def test_a_build_that_amx_cannot_break_stays_unchanged() -> None:
    assert bootstrap.without_amx(BUILD) == BUILD
    prebuilt = BUILD._replace(cpu_flags="amx_int8", prebuilt=True)
    assert bootstrap.without_amx(prebuilt) == prebuilt


def test_disabling_amx_is_remembered() -> None:
    build = BUILD._replace(cpu_flags="amx_int8")
    again = bootstrap.without_amx(build)
    assert bootstrap.as_before(build, {"key": again.key()}) == again
    assert bootstrap.as_before(build, {"key": build.key()}) == build
    assert bootstrap.as_before(build, {}) == build


# checking the finished library


class Checks:
    """Replaces `check` and `install_engine`: returns the given results in order and records the installed builds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *results: str) -> None:
        self.results = list(results)
        self.installed: list[object] = []
        monkeypatch.setattr(bootstrap, "check", lambda: self.results.pop(0))
        monkeypatch.setattr(bootstrap, "install_engine", lambda build, rebuild: self.installed.append(build))


def test_a_library_that_passes_its_check_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(monkeypatch, "")
    build = BUILD._replace(cpu_flags="amx_int8")
    assert bootstrap.checked(build) == build
    assert checks.installed == []


def test_a_library_that_crashes_on_amx_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(monkeypatch, "killed by signal 11", "")
    build = BUILD._replace(cpu_flags="amx_int8")
    assert bootstrap.checked(build) == bootstrap.without_amx(build)
    assert checks.installed == [bootstrap.without_amx(build)]


def test_another_crash_stops_with_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(monkeypatch, "killed by signal 4")
    with pytest.raises(bootstrap.Stop, match="killed by signal 4"):
        bootstrap.checked(BUILD)
    assert checks.installed == []


def test_the_check_reports_signals_and_exit_statuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    monkeypatch.setattr(bootstrap, "PYTHON", fake)
    for body, expected in [("exit 0", ""), ("echo Q4_0 wrong; exit 3", "exit status 3"), ("kill -4 $$", "signal 4")]:
        fake.write_text(f"#!/bin/sh\n{body}\n")
        fake.chmod(0o755)
        answer = bootstrap.check()
        assert expected in answer if expected else answer == ""
        assert ("Q4_0 wrong" in answer) == ("Q4_0" in body)


# CMake options


@pytest.mark.parametrize(
    ("backend", "options"),
    [("cpu", ()), ("cuda", ("-DGGML_CUDA=on",)), ("vulkan", ("-DGGML_VULKAN=on",)), ("metal", ("-DGGML_METAL=on",))],
)
def test_each_backend_has_its_option(backend: str, options: tuple[str, ...]) -> None:
    assert bootstrap.cmake_args(backend, False, "") == (*bootstrap.OWN_THREADS, *options)


def test_every_backend_has_a_prebuilt_wheel() -> None:
    assert set(bootstrap.PREBUILT_FOLDER) == set(bootstrap.BACKENDS)


def test_user_options_come_last_and_keep_their_quotes() -> None:
    found = bootstrap.cmake_args("cuda", True, '-DA=1 "-DCMAKE_CXX_FLAGS=-O2 -g"')
    assert found == (
        *bootstrap.DISABLE_AMX,
        *bootstrap.OWN_THREADS,
        "-DGGML_CUDA=on",
        "-DA=1",
        "-DCMAKE_CXX_FLAGS=-O2 -g",
    )


# progress


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("  [48/193] /usr/bin/g++ -DGGML_SHARED -o x.o", (48, 193)),
        ("[193/193] Linking", (193, 193)),
        ("[ 25%] Building CXX object ggml.cpp.o", (25, 100)),
        ("[100%] Built target llama", (100, 100)),
        ("  Downloading x.whl (295 kB) [1/2]", None),
        ("  -- Performing Test CMAKE_HAVE_LIBC_PTHREAD", None),
        ("  [error] no", None),
        ("", None),
    ],
)
def test_progress_is_read_from_lines_of_ninja_and_make(line: str, found: tuple[int, int] | None) -> None:
    assert bootstrap.step(line) == found


def show(out: io.StringIO, interval_seconds: float) -> list[str]:
    lines = ["configuring\n", "[1/3] a\n", "  note\n", "[2/3] b\n", "[3/3] c\n"]
    assert list(bootstrap.show_progress(lines, out, interval_seconds)) == lines
    return lines


def test_progress_updates_one_line_on_a_terminal() -> None:
    out = Terminal()
    show(out, interval_seconds=1000)
    assert out.getvalue().count("\r") == 3
    assert "  2 of 3 (66 %), 0:00 min" in out.getvalue()
    assert out.getvalue().endswith("\n") and out.getvalue().count("\n") == 1


def test_progress_prints_a_line_per_interval_elsewhere() -> None:
    out = io.StringIO()
    show(out, interval_seconds=1000)
    assert [line.split(" (")[0] for line in out.getvalue().splitlines()] == ["  1 of 3", "  3 of 3"]
    assert "\r" not in out.getvalue()


def test_a_build_that_never_started_shows_no_progress() -> None:
    out = Terminal()
    assert list(bootstrap.show_progress(["error\n"], out, 30)) == ["error\n"]
    assert out.getvalue() == ""


def test_a_failure_shows_its_last_lines_truncated() -> None:
    shown = bootstrap.tail("\n".join([*(str(n) for n in range(30)), "", " ", "x" * 1000, ""])).splitlines()
    assert len(shown) == 20
    assert shown[0].strip() == "11"
    assert shown[-1].strip() == "x" * 200


def test_a_failed_build_shows_the_output_of_the_compiler_and_not_of_pip() -> None:
    log = "x.cpp: error: no\nninja: build stopped\n  error: subprocess-exited-with-error\n  × Building wheel failed\n"
    assert bootstrap.tail(bootstrap.compiler_output(log)).splitlines()[-1].strip() == "ninja: build stopped"
    assert bootstrap.compiler_output("cut short\n") == "cut short\n"


# messages


def test_missing_compilers_are_named_with_instructions() -> None:
    text = bootstrap.missing_tools({"C": "gcc 12", "C++": ""})
    assert text.startswith("no C++ compiler found")
    for remedy in ("apt install g++", "dnf install gcc-c++", "xcode-select --install", "--prebuilt"):
        assert remedy in text
    assert bootstrap.missing_tools({"C": "", "C++": ""}).startswith("no C and no C++ compiler found")
    assert bootstrap.missing_tools({"C": "gcc 12", "C++": "g++ 12"}) == ""


def test_without_a_compiler_only_a_prebuilt_wheel_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "compiler_version", lambda language: "")
    monkeypatch.setattr(bootstrap.os, "name", "posix")
    with pytest.raises(bootstrap.Stop, match="no C and no C"):
        bootstrap.plan("cpu", prebuilt=False)
    assert bootstrap.plan("cuda", prebuilt=True)[1:3] == ("cuda", True)


def test_cxx_selects_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "mycxx"
    fake.write_text('#!/bin/sh\n[ "$2" = --version ] && echo my compiler, mode "$1"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", f"{fake} -m64")
    assert bootstrap.compiler_version("C++") == "my compiler, mode -m64\n"
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert bootstrap.compiler_version("C++") == ""


# versions


def test_the_locked_version_is_read() -> None:
    lock = "# llama-cpp-python==9\nllama-cpp-python-x==8\nllama-cpp-python==0.3.36; python_version > '3'\nzlib==1\n"
    assert bootstrap.locked_version(lock) == "0.3.36"
    with pytest.raises(bootstrap.Stop, match="scripts/lock"):
        bootstrap.locked_version("numpy==2\n")


def locked_names(name: str) -> list[str]:
    lines = [line for line in (ROOT / name).read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    return [line.partition("==")[0] for line in lines]


def test_the_runtime_lock_has_what_the_installation_needs() -> None:
    names = locked_names("requirements.lock")
    assert bootstrap.locked_version((ROOT / "requirements.lock").read_text("utf-8"))
    assert "setuptools" in names  # galago is installed without pip's build isolation


def test_the_locks_separate_runtime_and_development() -> None:
    runtime, development = locked_names("requirements.lock"), locked_names("requirements-dev.lock")
    assert not set(runtime) & set(development)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    required = {re.split(r"[>\[]", line)[0] for line in project["dependencies"]}
    assert required <= set(runtime)
    for_development = {re.split(r"[>\[]", line)[0] for line in project["optional-dependencies"]["dev"]}
    assert for_development <= set(development)


@pytest.mark.parametrize("development", [True, False])
def test_only_a_development_setup_installs_the_development_lock(
    development: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[object] = []
    monkeypatch.setattr(bootstrap, "MARKER", tmp_path / "bootstrap.json")
    monkeypatch.setattr(bootstrap, "PYTHON", tmp_path / "python")
    (tmp_path / "python").touch()
    monkeypatch.setattr(bootstrap, "create_venv", lambda: None)
    monkeypatch.setattr(bootstrap, "pip", lambda action, *args: installed.extend(args))
    bootstrap.set_up(BUILD, development, {"key": BUILD.key()}, False)
    assert bootstrap.LOCK in installed
    assert (bootstrap.DEVELOPMENT_LOCK in installed) == development
    assert bootstrap.last_setup()["development"] is development


@pytest.mark.parametrize(
    ("version", "old"),
    [((3, 6, 15), True), ((3, 10, 13), True), ((3, 11, 0), False), ((3, 14), False), ((4, 0), False)],
)
def test_old_pythons_are_rejected(version: tuple[int, ...], old: bool) -> None:
    assert bootstrap.too_old(version) is old


def test_a_newer_python_that_does_not_run_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.newer_python() == ""
    for minor, status in [(11, 127), (13, 0)]:
        fake = tmp_path / f"python3.{minor}"
        fake.write_text(f"#!/bin/sh\nexit {status}\n")
        fake.chmod(0o755)
    assert bootstrap.newer_python() == str(tmp_path / "python3.13")


def test_an_old_python_alone_prints_which_version_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: "")
    with pytest.raises(SystemExit, match="needs Python 99.0 or newer"):
        bootstrap.insist_on_python()


def test_an_old_python_starts_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: "/usr/bin/python3.13")
    monkeypatch.setattr(os, "execv", lambda path, args: handed.append((path, args)))
    bootstrap.insist_on_python()
    assert handed == [("/usr/bin/python3.13", ["/usr/bin/python3.13", *sys.argv])]


# folders


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bootstrap.cache_folder() == tmp_path / "galago"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    assert bootstrap.cache_folder() == tmp_path / ".cache" / "galago"
    monkeypatch.setattr(bootstrap.sys, "platform", "darwin")
    assert bootstrap.cache_folder() == tmp_path / "Library" / "Caches" / "galago"
