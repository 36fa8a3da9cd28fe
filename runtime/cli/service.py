"""`galago service`: makes `galago serve` a service of the user, which starts at login and again after a crash."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...models.errors import ConfigError, NotFound
from ...models.paths import log_path, service_path
from .ui import service_files

_ON_MACOS = sys.platform == "darwin"
_UNIT = f"{service_files.LABEL}.service"


class ServiceAction(enum.StrEnum):
    install = "install"
    status = "status"
    uninstall = "uninstall"


def run_command(command: Any, arguments: list[str]) -> Any:
    """Runs the command. What follows `install` are options of `galago serve`."""
    if len(arguments) > 1 and arguments[0] == ServiceAction.install and not {"--help", "-h"} & set(arguments):
        arguments = [arguments[0], "--", *arguments[1:]]
    return command.main(arguments, "galago service", standalone_mode=False)


def service(
    action: Annotated[
        ServiceAction,
        typer.Argument(help="write its file and start it, show its state, or stop and remove it"),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(help="for install: options of galago serve", metavar="[SERVE OPTIONS]")
    ] = None,
) -> int:
    """Run `galago serve` as a service: from login on, and again after a crash.

    Uses systemd on Linux and launchd on macOS. config.toml applies to the service too.
    """
    if sys.platform == "win32":
        raise ConfigError("Windows has no services of users; let the Task Scheduler run galago serve at logon")
    path = service_path()
    if action is ServiceAction.install:
        return _install(path, options or [])
    if options:
        raise ConfigError(f"{action} takes no options", "options")
    if not path.exists():
        raise NotFound(f"no service is installed: there is no {path}; galago service install writes it", "service")
    return _uninstall(path) if action is ServiceAction.uninstall else _status(path)


def _install(path: Path, options: Sequence[str]) -> int:
    from ..environment import service_environment
    from ..process.spawn import python_command

    served, grace_seconds = _serve_options(options)
    command, environment = python_command("galago.runtime.cli.main", "serve", *served), service_environment()
    write = service_files.launchd_list if _ON_MACOS else service_files.systemd_unit
    text, existed = write(command, environment, grace_seconds), path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}:\n\n{text}")
    if _ON_MACOS:
        before = [["launchctl", "bootout", _domain(service_files.LABEL)]] if existed else []
        commands = [["launchctl", "bootstrap", _domain(), str(path)]]
    else:
        before = []
        commands = [_systemctl("daemon-reload"), _systemctl("enable", "--now", _UNIT)]
        commands += [_systemctl("restart", _UNIT)] if existed else []
    for one in before:
        _run(one)  # fails if it does not run
    if not all(_run(one) for one in commands):
        print(
            f"galago: the service is installed, but could not be started. Run the commands above in a session of "
            f"yours, or run the server yourself:\n  {' '.join(command)}",
            file=sys.stderr,
        )
        return 1
    print("galago service status and galago logs show how it is doing")
    if not _ON_MACOS:
        print("to keep it running while you are logged out: loginctl enable-linger")
    return 0


def _status(path: Path) -> int:
    print(f"{path}")
    return 0 if _run(_show_command(), shows=True) else 1


def _show_command() -> list[str]:
    if _ON_MACOS:
        return ["launchctl", "print", _domain(service_files.LABEL)]
    return _systemctl("status", "--no-pager", "--lines=10", _UNIT)


def _uninstall(path: Path) -> int:
    stop = _systemctl("disable", "--now", _UNIT)
    stopped = _run(["launchctl", "bootout", _domain(service_files.LABEL)] if _ON_MACOS else stop)
    path.unlink()
    print(f"deleted {path}")
    if not _ON_MACOS:
        stopped = _run(_systemctl("daemon-reload")) and stopped
    if not stopped:
        print("galago: if the service still runs, stop it yourself", file=sys.stderr)
    return 0 if stopped else 1


def _systemctl(*arguments: str) -> list[str]:
    return ["systemctl", "--user", *arguments]


def _domain(name: str = "") -> str:
    """The user's services for launchctl, or one of them."""
    return f"gui/{os.getuid()}{f'/{name}' if name else ''}"


def _run(command: list[str], shows: bool = False) -> bool:
    """Runs a command, prints it and what it says, and returns whether it succeeded."""
    from ..process.spawn import run_session_program

    print(f"$ {' '.join(command)}", flush=True)
    try:
        result = run_session_program(command)
    except FileNotFoundError:
        print(f"galago: there is no {command[0]} on this machine", file=sys.stderr)
        return False
    if shows or not result.ok:
        for stream, output in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            print(output.decode("utf-8", "replace"), end="", file=stream)
    return result.ok


def _serve_options(given: Sequence[str]) -> tuple[list[str], float]:
    """Returns the checked options for the service's command, and its time of grace.

    Paths are made absolute. Without a log file, the usual one is added.
    """
    from . import serve
    from .ui.config_file import SHOW_FLAG, ConfigFile

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(serve.serve)
    command = typer.main.get_command(app)
    typed: dict[str, Any] = command.make_context("galago service install", list(given)).params
    if typed["api_key"] is not None:
        raise ConfigError("--api-key would stand in the service's file; use --api-key-file", "api-key")
    if typed["show_config"]:
        raise ConfigError(f"{SHOW_FLAG} serves nothing; leave it out", "show-config")
    file = ConfigFile(command, typed["config"])
    values: dict[str, Any] = command.make_context("galago service install", file.arguments(given)).params
    words = [_absolute(word) for word in given]
    if values["log_file"] is None:
        words += ["--log-file", str(log_path())]
    return words, values["grace"]


def _absolute(word: str) -> str:
    """An option or value in which the name of a file here is made absolute, because the service starts elsewhere."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    is_path = value and not value.startswith("-") and (os.sep in value or Path(value).is_file())
    return f"{flag}{equals}{Path(value).expanduser().absolute()}" if is_path and Path(value).parent.exists() else word
