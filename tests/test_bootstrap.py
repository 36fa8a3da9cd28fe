"""What scripts/bootstrap decides: keys, CMake options, progress, what to tell people. Builds and installs nothing."""

import importlib.util
import io
import os
import sys
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
def test_key_changes_with_every_ingredient(change: dict[str, object]) -> None:
    assert BUILD._replace(**change).key() != BUILD.key()


def test_no_ingredient_of_the_key_is_untested() -> None:
    assert len(BUILD) == 7


def test_key_is_the_same_in_another_run() -> None:
    assert load().Build(*BUILD).key() == BUILD.key()


def test_key_tells_where_one_option_ends() -> None:
    assert BUILD._replace(cmake_args=("a", "b")).key() != BUILD._replace(cmake_args=("a b",)).key()


def test_stamp_changes_with_the_lock_and_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, project = tmp_path / "requirements.lock", tmp_path / "pyproject.toml"
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "LOCK", lock)
    stamps = []
    for texts in [("a", "b"), ("A", "b"), ("a", "B")]:
        lock.write_text(texts[0])
        project.write_text(texts[1])
        stamps += [bootstrap.stamp(BUILD), bootstrap.stamp(BUILD._replace(backend="cuda"))]
    assert len(set(stamps)) == 6


# the CPU and the compiler


def test_cpu_flags_are_those_of_the_first_processor_in_order() -> None:
    assert (
        bootstrap.cpu_flags_in("processor\t: 0\nflags\t\t: sse avx2 fma\nbugs\t\t: x\n\nflags\t\t: z\n")
        == "avx2 fma sse"
    )
    assert bootstrap.cpu_flags_in("processor : 0\nFeatures\t: fp asimd\nCPU part : 0xd0b\n") == "asimd fp"
    assert bootstrap.cpu_flags_in("vmx flags\t: ept\n") == ""


@pytest.mark.parametrize(("text", "major"), [(GCC_12, 12), (GCC_13, 13), (CLANG, 0), ("", 0)])
def test_gcc_is_told_from_other_compilers(text: str, major: int) -> None:
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
def test_amx_remedy_is_for_old_gcc_on_cpus_with_amx(flags: str, compiler: str, needed: bool) -> None:
    assert bootstrap.needs_amx_remedy(flags, compiler) is needed


def test_a_build_that_fails_on_amx_is_made_again_with_the_remedy_once() -> None:
    build = BUILD._replace(cpu_flags="amx_int8 avx2")
    again = bootstrap.remedied(build)
    assert again.cmake_args == (*bootstrap.AMX_REMEDY, "-DX=1")
    assert bootstrap.remedied(again) == again


def test_a_build_the_remedy_cannot_help_stays() -> None:
    assert bootstrap.remedied(BUILD) == BUILD
    prebuilt = BUILD._replace(cpu_flags="amx_int8", prebuilt=True)
    assert bootstrap.remedied(prebuilt) == prebuilt


def test_a_remedy_that_was_needed_once_is_remembered() -> None:
    build = BUILD._replace(cpu_flags="amx_int8")
    again = bootstrap.remedied(build)
    assert bootstrap.as_before(build, {"key": again.key()}) == again
    assert bootstrap.as_before(build, {"key": build.key()}) == build
    assert bootstrap.as_before(build, {}) == build


# checking the finished library


class Checks:
    """Stands in for galago's own check: plays the given results in turn and notes what was installed between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *results: str) -> None:
        self.results = list(results)
        self.installed: list[object] = []
        monkeypatch.setattr(bootstrap, "check", lambda: self.results.pop(0))
        monkeypatch.setattr(bootstrap, "install_engine", lambda build, again: self.installed.append(build))


def test_a_library_that_computes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(monkeypatch, "")
    build = BUILD._replace(cpu_flags="amx_int8")
    assert bootstrap.checked(build) == build
    assert checks.installed == []


def test_a_library_that_dies_on_amx_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(monkeypatch, "killed by signal 11", "")
    build = BUILD._replace(cpu_flags="amx_int8")
    assert bootstrap.checked(build) == bootstrap.remedied(build)
    assert checks.installed == [bootstrap.remedied(build)]


def test_a_library_that_dies_elsewhere_stops_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(monkeypatch, "killed by signal 4")
    with pytest.raises(bootstrap.Stop, match="killed by signal 4"):
        bootstrap.checked(BUILD)
    assert checks.installed == []


def test_the_check_tells_a_death_from_a_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert bootstrap.cmake_args(backend, False, "") == options


def test_every_backend_can_be_had_prebuilt() -> None:
    assert set(bootstrap.PREBUILT_FOLDER) == set(bootstrap.BACKENDS)


def test_the_users_options_come_last_and_keep_their_quotes() -> None:
    found = bootstrap.cmake_args("cuda", True, '-DA=1 "-DCMAKE_CXX_FLAGS=-O2 -g"')
    assert found == (*bootstrap.AMX_REMEDY, "-DGGML_CUDA=on", "-DA=1", "-DCMAKE_CXX_FLAGS=-O2 -g")


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
def test_a_step_is_read_from_ninjas_and_makes_lines(line: str, found: tuple[int, int] | None) -> None:
    assert bootstrap.step(line) == found


def show(out: io.StringIO, every: float) -> list[str]:
    lines = ["configuring\n", "[1/3] a\n", "  note\n", "[2/3] b\n", "[3/3] c\n"]
    assert list(bootstrap.show_progress(lines, out, every)) == lines
    return lines


def test_progress_rewrites_one_line_on_a_terminal() -> None:
    out = Terminal()
    show(out, every=1000)
    assert out.getvalue().count("\r") == 3
    assert "  2 of 3 (66 %), 0:00 min" in out.getvalue()
    assert out.getvalue().endswith("\n") and out.getvalue().count("\n") == 1


def test_progress_is_told_now_and_then_elsewhere() -> None:
    out = io.StringIO()
    show(out, every=1000)
    assert [line.split(" (")[0] for line in out.getvalue().splitlines()] == ["  1 of 3", "  3 of 3"]
    assert "\r" not in out.getvalue()


def test_no_progress_is_shown_of_a_build_that_never_started() -> None:
    out = Terminal()
    assert list(bootstrap.show_progress(["error\n"], out, 30)) == ["error\n"]
    assert out.getvalue() == ""


def test_a_failure_shows_the_last_lines_cut_to_readable_length() -> None:
    shown = bootstrap.tail("\n".join([*(str(n) for n in range(30)), "", " ", "x" * 1000, ""])).splitlines()
    assert len(shown) == 20
    assert shown[0].strip() == "11"
    assert shown[-1].strip() == "x" * 200


def test_a_failed_build_shows_the_compilers_words_and_not_pips() -> None:
    log = "x.cpp: error: no\nninja: build stopped\n  error: subprocess-exited-with-error\n  × Building wheel failed\n"
    assert bootstrap.tail(bootstrap.before_pips_own(log)).splitlines()[-1].strip() == "ninja: build stopped"
    assert bootstrap.before_pips_own("cut short\n") == "cut short\n"


# what to tell people


def test_missing_compilers_are_named_with_what_to_do() -> None:
    text = bootstrap.missing_tools({"C": "gcc 12", "C++": ""})
    assert text.startswith("no C++ compiler found")
    for remedy in ("apt install g++", "dnf install gcc-c++", "xcode-select --install", "--prebuilt"):
        assert remedy in text
    assert bootstrap.missing_tools({"C": "", "C++": ""}).startswith("no C and no C++ compiler found")
    assert bootstrap.missing_tools({"C": "gcc 12", "C++": "g++ 12"}) == ""


def test_without_a_compiler_only_the_prebuilt_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "compiler_version", lambda language: "")
    monkeypatch.setattr(bootstrap.os, "name", "posix")
    with pytest.raises(bootstrap.Stop, match="no C and no C"):
        bootstrap.plan("cpu", prebuilt=False)
    assert bootstrap.plan("cuda", prebuilt=True)[1:3] == ("cuda", True)


def test_a_named_compiler_is_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_projects_lock_holds_exact_versions_of_what_the_install_needs() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert bootstrap.locked_version(text)
    # galago is installed without pip's build isolation
    assert any(line.startswith("setuptools==") for line in lines)


@pytest.mark.parametrize(
    ("version", "old"),
    [((3, 6, 15), True), ((3, 10, 13), True), ((3, 11, 0), False), ((3, 14), False), ((4, 0), False)],
)
def test_old_pythons_are_refused(version: tuple[int, ...], old: bool) -> None:
    assert bootstrap.too_old(version) is old


def test_a_newer_python_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.newer_python() == ""
    for minor, status in [(11, 127), (13, 0)]:
        fake = tmp_path / f"python3.{minor}"
        fake.write_text(f"#!/bin/sh\nexit {status}\n")
        fake.chmod(0o755)
    assert bootstrap.newer_python() == str(tmp_path / "python3.13")


def test_an_old_python_without_a_newer_one_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: "")
    with pytest.raises(SystemExit, match="needs Python 99.0 or newer"):
        bootstrap.insist_on_python()


def test_an_old_python_hands_over_to_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: "/usr/bin/python3.13")
    monkeypatch.setattr(os, "execv", lambda path, args: handed.append((path, args)))
    bootstrap.insist_on_python()
    assert handed == [("/usr/bin/python3.13", ["/usr/bin/python3.13", *sys.argv])]


# where things are kept


def test_the_cache_folder_follows_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bootstrap.cache_folder() == tmp_path / "galago"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    assert bootstrap.cache_folder() == tmp_path / ".cache" / "galago"
    monkeypatch.setattr(bootstrap.sys, "platform", "darwin")
    assert bootstrap.cache_folder() == tmp_path / "Library" / "Caches" / "galago"
