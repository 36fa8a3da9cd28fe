"""`galago`: finds the command and runs it. Loads nothing else, so that `--help` answers at once.

Exit codes: 0 done, 1 refused with one line that says why, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import keyword
import os
import sys

from ...models.errors import GalagoError

COMMANDS = {
    "search": "Find a model in the catalogue, or on the Hub",
    "pull": "Download a model, or go on with a download",
    "list": "List the models on this machine",
    "show": "Show what a model or GGUF file is",
    "rm": "Delete a model",
    "verify": "Check models against their published digests",
    "import": "Use models where other programs keep them",
    "run": "Answer one prompt, with pictures and sounds",
    "chat": "Talk with a model in the terminal",
    "serve": "Serve an OpenAI-shaped API on this machine",
    "ps": "Show what a running server is doing",
    "fit": "Tell whether a model runs on this machine, and how",
    "convert": "Make a GGUF file of a Hugging Face checkpoint",
    "quantize": "Make a smaller variant of a model or projector",
    "calibrate": "Measure what matters to a model's weights",
    "evaluate": "Tell which variant of a model to run on this machine",
    "compare": "Tell what changed from one evaluation to another",
    "cache": "Show or delete what is kept over restarts",
    "store": "Show or delete what a server keeps for its clients",
    "doctor": "Check this machine and its llama.cpp build",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code. Says every failure in one line."""
    try:
        return _dispatch(sys.argv[1:] if arguments is None else arguments)
    except GalagoError as error:
        return _fail(error.message)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the answer, such as `head`, has left
        _silence()
        return 1
    except OSError as error:
        _silence()
        return _fail(str(error))


def _dispatch(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know every character
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(_help(), flush=True)
        return 0
    if name in ("--version", "-V"):
        from importlib import metadata

        print(f"galago {metadata.version('galago')}", flush=True)
        return 0
    if name not in COMMANDS:
        _fail(f"there is no command {name!r}; see galago --help")
        return 2
    return _run(name, arguments[1:])


def _run(name: str, arguments: list[str]) -> int:
    import typer

    word = f"{name}_" if keyword.iskeyword(name) else name
    module = importlib.import_module(f".{word}", __package__)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(getattr(module, word))
    try:
        code = typer.main.get_command(app).main(arguments, f"galago {name}", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()  # click's own usage errors
        return int(error.exit_code)
    return int(code or 0)


def _fail(message: str) -> int:
    if sys.stderr is not None:
        print(f"galago: {message}", file=sys.stderr)
    return 1


def _silence() -> None:
    """Keeps the interpreter from writing what is left to an output that is gone."""
    sys.stdout = open(os.devnull, "w")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "galago: small multimodal models on your own device",
            "",
            "Usage: galago COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "galago COMMAND --help tells more; galago --version names the release.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
