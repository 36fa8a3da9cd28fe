"""The files that make `galago serve` a service of the user: a unit of systemd, or a property list of launchd."""

from __future__ import annotations

import math
import plistlib
from collections.abc import Mapping, Sequence

LABEL = "galago"
"""The name of the service."""

_STOP_MARGIN_SECONDS = 15
"""Time to close connections and workers after the running requests."""


def systemd_unit(command: Sequence[str], environment: Mapping[str, str], grace_seconds: float) -> str:
    """Returns a unit for the user's systemd.

    Its limits need no user namespaces, which some systems forbid. If a worker runs out of memory, the server restarts
    it, so systemd must not end the service.
    """
    variables = [f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items()]
    lines = [
        "# Written by `galago service install`, which overwrites it.",
        "[Unit]",
        "Description=Galago model server",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(_quoted(word, is_command=True) for word in command)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        *variables,
        "WorkingDirectory=%h",
        "Restart=on-failure",
        "RestartSec=5",
        f"TimeoutStopSec={_stop_seconds(grace_seconds)}",
        "KillMode=mixed",
        "OOMPolicy=continue",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RestrictNamespaces=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def launchd_list(command: Sequence[str], environment: Mapping[str, str], grace_seconds: float) -> str:
    """Returns a property list for the user's launchd."""
    content = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": _stop_seconds(grace_seconds),
        "ProcessType": "Interactive",
        "Umask": 0o077,
    }
    return plistlib.dumps(content).decode()


def _stop_seconds(grace_seconds: float) -> int:
    return math.ceil(grace_seconds) + _STOP_MARGIN_SECONDS


def _quoted(text: str, is_command: bool = False) -> str:
    """A word in systemd's quotation marks. In commands, systemd also replaces variables."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if is_command else escaped}"'
