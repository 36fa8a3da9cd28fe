"""`scripts/bench WHAT`: runs one of the measurements."""

from __future__ import annotations

import argparse
import importlib

MEASUREMENTS = (
    "speed",
    "pauses",
    "pictures",
    "memory",
    "guesses",
    "forms",
    "crashes",
    "soak",
    "fit",
    "plan",
    "embed",
    "gpu",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    commands = parser.add_subparsers(dest="measurement", required=True)
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in MEASUREMENTS}
    for name, module in modules.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        module.arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    options = parser.parse_args()
    modules[options.measurement].main(options)


if __name__ == "__main__":
    main()
