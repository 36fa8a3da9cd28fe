"""`galago service`: the file that it writes, the commands that it runs, and what it says without systemd."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.server import Server
from galago.runtime.cli.ui import service_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="writes units of systemd")


class Home:
    """A home folder with a `systemctl` that only writes down how it is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unit = folder / "config/systemd/user/galago.service"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        self.set_systemctl('echo "$@" >> "$HOME/calls"; echo active; echo "runtime $XDG_RUNTIME_DIR"')

    def set_systemctl(self, script: str) -> None:
        program = self.bin / "systemctl"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def galago(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "HOME": str(self.folder),
            "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_RUNTIME_DIR": str(self.folder),
            "GALAGO_API_KEY": "secret",
        }
        command = [sys.executable, "-m", "galago.runtime.cli.main", "service", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, cwd=self.folder)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def command_of(unit: Path) -> list[str]:
    """The words of `ExecStart`, as systemd reads them."""
    found = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    assert found
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', found[1])
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%").replace("$$", "$") for word in words]


def test_install_writes_a_unit_starts_it_and_shows_both(home: Home) -> None:
    done = home.galago("install", "--model", "builtin", "--port", "0", "--grace", "3.5")
    assert done.returncode == 0, done.stderr
    text = home.unit.read_text()
    assert text in done.stdout and str(home.unit) in done.stdout and "secret" not in text + done.stdout
    assert home.calls.read_text().splitlines() == ["--user daemon-reload", "--user enable --now galago.service"]
    assert "$ systemctl --user enable --now galago.service" in done.stdout
    for line in (
        "Restart=on-failure",
        "TimeoutStopSec=19",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "NoNewPrivileges=yes",
        "OOMPolicy=continue",
        "WantedBy=default.target",
        f'Environment="XDG_CONFIG_HOME={home.folder / "config"}"',
    ):
        assert line in text.splitlines()
    home.galago("install", "--port", "1234")
    assert home.calls.read_text().splitlines()[-1] == "--user restart galago.service"
    assert command_of(home.unit)[-4:-2] == ["--port", "1234"]


def test_the_command_of_the_unit_serves_and_logs(home: Home) -> None:
    home.galago("install", "--model", "builtin", "--port", "0")
    process = subprocess.Popen(command_of(home.unit), stderr=subprocess.PIPE, text=True, cwd=home.folder)
    server = Server(process)
    try:
        server.wait_until_ready()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    finally:
        server.stop()
    assert "is ready" in (home.folder / "state/galago/log/galago.log").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(home: Home) -> None:
    (home.folder / "a $b %c").mkdir()
    done = home.galago("install", "--store", "./a $b %c/store", "--alias", 'with "quotes" and \\ and spaces')
    assert done.returncode == 0, done.stderr
    assert command_of(home.unit)[-5:-2] == [
        str(home.folder / "a $b %c/store"),
        "--alias",
        'with "quotes" and \\ and spaces',
    ]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(home.folder), "HOME": str(home.folder)}
    command = ["systemd-analyze", "--user", "verify", str(home.unit)]
    verified = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert verified.returncode == 0, verified.stderr
    assert "galago" not in verified.stderr  # no warning about the unit


def test_options_are_checked_before_anything_is_written(home: Home) -> None:
    for options, problem in (
        (["--prot", "1"], "--prot"),
        (["--port", "many"], "port"),
        (["--api-key", "secret"], "use --api-key-file"),
        (["--config", "none.toml"], "cannot be read"),
    ):
        done = home.galago("install", *options)
        assert done.returncode != 0 and problem in done.stderr, done.stderr
    assert not home.unit.exists() and not home.calls.exists()


def test_without_systemctl_the_unit_is_written_and_it_says_what_to_do(home: Home) -> None:
    home.set_systemctl("echo 'Failed to connect to bus' >&2; exit 1")
    done = home.galago("install")
    assert done.returncode == 1 and home.unit.exists()
    assert "Failed to connect to bus" in done.stderr and "run the server yourself:" in done.stderr
    (home.bin / "systemctl").unlink()
    (home.bin / "systemctl").symlink_to(home.folder / "missing")
    environment = {"PATH": str(home.bin), "HOME": str(home.folder), "XDG_CONFIG_HOME": str(home.folder / "config")}
    command = [sys.executable, "-m", "galago.runtime.cli.main", "service", "install"]
    without = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert without.returncode == 1 and "there is no systemctl on this machine" in without.stderr


def test_status_and_uninstall(home: Home) -> None:
    for action in ("status", "uninstall"):
        missing = home.galago(action)
        assert missing.returncode == 1 and "galago service install" in missing.stderr
    home.galago("install")
    shown = home.galago("status")
    assert shown.returncode == 0 and "active" in shown.stdout and f"runtime {home.folder}" in shown.stdout
    done = home.galago("uninstall")
    assert done.returncode == 0 and not home.unit.exists()
    assert home.calls.read_text().splitlines()[-2:] == ["--user disable --now galago.service", "--user daemon-reload"]


def test_the_property_list_of_launchd() -> None:
    text = service_files.launchd_list(["galago", "serve", "--alias", "<&>"], {"HF_HOME": "/m"}, 10)
    content = plistlib.loads(text.encode())
    assert content["ProgramArguments"] == ["galago", "serve", "--alias", "<&>"]
    assert (content["Label"], content["RunAtLoad"], content["ExitTimeOut"]) == ("galago", True, 25)
    assert content["KeepAlive"] == {"SuccessfulExit": False} and content["EnvironmentVariables"] == {"HF_HOME": "/m"}
