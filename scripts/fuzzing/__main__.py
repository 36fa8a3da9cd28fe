"""`scripts/fuzz [TARGET] [SECONDS]`: runs fuzz targets, each in a child process, so that a crash is reported too."""

from __future__ import annotations

import argparse
import pprint
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from .target import names, run_for

_FOLDER = Path(__file__).parents[2] / "build/fuzz"
_MAX_DEPTH = 20_000
"""Recursion limit while an input is written: the deepest has 3,000 levels."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("scripts/fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=[*names(), "all"], default="all", metavar="TARGET",
                        help=f"{', '.join(names())}, or all (default)")  # fmt: skip
    parser.add_argument("seconds", nargs="?", type=float, default=120.0, metavar="SECONDS", help="default: 120")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.in_this_process:
        return _run(options.target, options.seconds)
    chosen = names() if options.target == "all" else [options.target]
    return max(_run_in_child(name, options.seconds) for name in chosen)


def _input_file(name: str) -> Path:
    return _FOLDER / f"{name}.input"


def _written(value: Any) -> str:
    """The input as Python would write it; on one line if it is nested too deeply for `pprint`."""
    try:
        return pprint.pformat(value)
    except RecursionError:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(_MAX_DEPTH)
        try:
            return repr(value)
        finally:
            sys.setrecursionlimit(limit)


def _run_in_child(name: str, seconds: float) -> int:
    """Returns 0, or 1 if an input fails or ends the process."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    _input_file(name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "fuzzing", name, str(seconds), "--in-this-process"]
    code = subprocess.run(command, check=False).returncode
    if code < 0:
        print(f"{name}: signal {-code} with the input in {_input_file(name)}", flush=True)
    return int(code != 0)


def _run(name: str, seconds: float) -> int:
    def keep(value: Any) -> None:
        _input_file(name).write_text(_written(value), "utf-8", "backslashreplace")

    try:
        count = run_for(name, seconds, keep)
    except Exception:
        traceback.print_exc()
        print(f"{name}: an undeclared error", flush=True)
        return 1
    print(f"{name}: {count} inputs, none with an undeclared error", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
