"""`scripts/check NAME [OPTIONS]`: runs one check, and exits with its status."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def summaries() -> dict[str, str]:
    """Check name -> first line of its docstring. Imports no check, because some need additional packages."""
    files = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in files}
    return {name: docstring.partition("\n")[0] for name, docstring in docstrings.items()}


def main(arguments: list[str]) -> int:
    checks = summaries()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: scripts/check NAME [OPTIONS]\n")
        for name, summary in checks.items():
            print(f"  {name:<10}  {summary}")
        return 0 if arguments else 2
    name, *options = arguments
    if name not in checks:
        print(f"scripts/check: there is no check {name!r}; choose from {', '.join(checks)}", file=sys.stderr)
        return 2
    sys.argv[0] = f"scripts/check {name}"
    return int(importlib.import_module(f"checks.{name}").main(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
