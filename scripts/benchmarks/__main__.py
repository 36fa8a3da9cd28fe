"""`scripts/bench [NAME...]` runs benchmarks one after another, `summary` by default; a single one takes options."""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys

from . import llama_cpp_build

BENCHMARKS = (
    "summary",
    "speed",
    "stalls",
    "depth",
    "images",
    "memory",
    "reload",
    "speculation",
    "structured_output",
    "crashes",
    "soak",
    "fit",
    "plan",
    "embed",
    "gpu",
)


def parser() -> argparse.ArgumentParser:
    usage = "scripts/bench NAME... | NAME [OPTIONS]"
    result = argparse.ArgumentParser(prog="scripts/bench", usage=usage, description=__doc__)
    commands = result.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.arguments(command)
        command.set_defaults(run=module.main)
    return result


def main(arguments: list[str]) -> None:
    arguments = arguments or [BENCHMARKS[0]]
    names = list(itertools.takewhile(BENCHMARKS.__contains__, arguments))
    commands = [[name] for name in names] if len(names) == len(arguments) > 1 else [arguments]
    runs = [parser().parse_args(command) for command in commands]
    if all(getattr(options, "baseline", None) for options in runs):
        llama_cpp_build.fetch_source()  # only its vocabulary is needed
    else:
        llama_cpp_build.build("llama-server", "llama-bench", "llama-batched-bench")
    for options in runs:
        if len(runs) > 1:
            print(f"== {options.name}", flush=True)
        options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
