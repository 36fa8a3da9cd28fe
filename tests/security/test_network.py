"""No command connects to another machine unless asked to."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

import loopback_only


def test_the_guard_detects_connections_of_this_process() -> None:
    with pytest.raises(PermissionError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError):
        socket.getaddrinfo("huggingface.co", 443)
    assert loopback_only.take_attempts() == ["192.0.2.1", "huggingface.co"]


def test_the_guard_detects_connections_of_a_child_process() -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 1
    assert loopback_only.take_attempts() == ["192.0.2.1"]


def test_pull_connects_to_the_hub_and_reports_a_failure() -> None:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "pull", "tinygemma3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert loopback_only.take_attempts()[0] == "huggingface.co"


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"], ["list", "--json"], ["show", "builtin"], ["show", "gemma4-e2b"], ["search"], ["verify"],
        ["run", "builtin", "Opposite of big?"],
    ],
)  # fmt: skip
def test_other_commands_open_no_connection(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "def audit(event, _):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'): raise SystemExit(99)\n"
        "sys.addaudithook(audit)\n"
        "from galago.runtime.cli.main import main\n"
        f"sys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
