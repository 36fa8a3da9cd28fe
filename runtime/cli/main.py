"""`galago`: finds a command and runs it. Imports nothing else, so that `--help` is instant.

Exit codes: 0 success, 1 an error, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import keyword
import os
import sys
from collections.abc import Sequence

from ...models.errors import GalagoError

COMMANDS = {
    "search": "Find a model in the catalog or on the Hub",
    "pull": "Download a model, or resume a download",
    "list": "List the models on this machine",
    "show": "Describe a model or GGUF file",
    "rm": "Delete a model",
    "gc": "Delete partial downloads and older commits",
    "verify": "Check models against their published checksums",
    "import": "Use models that other programs have downloaded",
    "preset": "Give a model a name with its own settings",
    "run": "Answer one prompt, with images, audio and video",
    "chat": "Chat with a model in the terminal",
    "serve": "Serve models over HTTP (OpenAI, Anthropic, Ollama APIs)",
    "ps": "Show what a running server is doing",
    "load": "Load a model in a running server",
    "stop": "Unload a model in a running server",
    "logs": "Show the log of a server",
    "service": "Run a server in the background, from login on",
    "fit": "Check whether a model fits this machine, and how",
    "convert": "Convert a Hugging Face checkpoint to GGUF",
    "quantize": "Make a smaller variant of a model or projector",
    "calibrate": "Measure the importance matrix that quantization needs",
    "evaluate": "Find the best variant of a model for this machine",
    "compare": "Compare two evaluations",
    "cache": "Show or delete the prefix cache on disk",
    "store": "Show or delete the files that a server stores for clients",
    "doctor": "Check this machine and its llama.cpp build",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code. Reports every error on one line, or as a list."""
    _open_missing_streams()
    try:
        return _dispatch(sys.argv[1:] if arguments is None else arguments)
    except GalagoError as error:
        from .ui.help_pages import page_for
        from .ui.report import error_summary

        page, summary = page_for(error), error_summary(error)
        return _fail(f"{summary} (see {page})" if page else summary, error.items)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has exited
        _silence()
        return 1
    except OSError as error:
        _silence()
        return _fail(str(error))


def _dispatch(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal's encoding may lack characters
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(_help(), flush=True)
        return 0
    if name in ("--version", "-V"):
        from importlib import metadata

        print(f"galago {metadata.version('galago')}", flush=True)
        return 0
    if name not in COMMANDS:
        import difflib

        similar = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {similar[0]}? " if similar else ""
        _fail(f"there is no command {name!r}; {hint}galago --help lists the commands")
        return 2
    return _run(name, arguments[1:])


def _run(name: str, arguments: list[str]) -> int:
    import typer

    module_name = f"{name}_" if keyword.iskeyword(name) else name
    module = importlib.import_module(f".{module_name}", __package__)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(getattr(module, module_name))
    command = typer.main.get_command(app)
    try:
        if hasattr(module, "run_command"):
            code = module.run_command(command, arguments)
        else:
            code = command.main(arguments, f"galago {name}", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show") or not hasattr(error, "message"):
            raise
        error.message = error.message.removeprefix("Value error, ")  # words of the library that checks values
        error.show()  # click's own usage errors
        return int(error.exit_code)
    return int(code or 0)


def _fail(message: str, items: Sequence[str] = ()) -> int:
    """Prints a message, and below it the items that it is about, one per line."""
    if sys.stderr is not None:
        lines = [f"galago: {message}{':' if items else ''}", *(f"  {item}" for item in items)]
        for line in lines:  # they may quote an untrusted file
            print("".join(c if c.isprintable() else " " for c in line), file=sys.stderr)
    return 1


def _open_missing_streams() -> None:
    """Opens the null device for each closed standard stream: the next file would get its number, and its output."""
    for handle, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is `handle`
            setattr(sys, name, open(handle, "r" if handle == 0 else "w", closefd=False))


def _silence() -> None:
    """Keeps the interpreter from flushing buffered text to a closed output at exit."""
    sys.stdout = open(os.devnull, "w")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "galago: run small multimodal models on your own device",
            "",
            "Usage: galago COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "galago COMMAND --help describes a command; galago --version shows the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
