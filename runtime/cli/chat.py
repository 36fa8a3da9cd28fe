"""`galago chat`: a conversation in the terminal, with images, audio and video by file name."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from ...models.errors import GalagoError, MediaError, PromptTooLong, UnsupportedField, UnsupportedModality
from ..python_api import LocalModel, MediaKind, read_media
from ..types.load_options import FILES, MODEL_SETTINGS
from ..types.messages import Message, Part, Text
from ..types.options import PROMPT, REQUEST, SAMPLING
from ..types.request import Request, Sampling
from .run import print_notes
from .ui import options, report

with contextlib.suppress(ImportError):  # not on Windows; gives `input` arrow keys and a history
    import readline  # noqa: F401

_COMMANDS = """/image FILE   add an image to your next message
/audio FILE   add an audio file to your next message
/video FILE   add a video to your next message
/clear        start a new conversation
/bye          leave, as Ctrl-D does; Ctrl-C stops an answer"""

_MEDIA: dict[str, MediaKind] = {"/image": "image", "/audio": "audio", "/video": "video"}

_OPTIONS = tuple(option for option in (*PROMPT, *REQUEST) if option.name in ("system", "max_tokens"))


@options.with_options(request=(*_OPTIONS, *SAMPLING), loading=(*FILES, *MODEL_SETTINGS))
def chat(
    model: options.ModelArgument,
    request: options.OptionValues,
    loading: options.OptionValues,
) -> None:
    """Chat with a model in the terminal."""
    system, max_tokens = request.pop("system", None), request.pop("max_tokens", None)
    sampling = Sampling(**request)
    with options.load(model, loading) as loaded:
        _Conversation(loaded, system, sampling, max_tokens).run()


class _Conversation:
    def __init__(self, model: LocalModel, system: str | None, sampling: Sampling, max_tokens: int | None) -> None:
        self._model = model
        self._system = [] if system is None else [Message("system", (Text(system),))]
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._history: list[Message] = []
        self._media: list[Part] = []

    def run(self) -> None:
        if sys.stdin.isatty():
            print(f"{self._model.info.id}: {self._model.info.description}\n{_COMMANDS}")
        while (line := _read_line()) is not None:
            try:
                if not self._handle(line.strip()):
                    return
            except PromptTooLong as error:
                print(f"galago: {error.message}; /clear starts a new conversation", file=sys.stderr)
            except (MediaError, UnsupportedModality, UnsupportedField) as error:
                self._media = []
                print(f"galago: {report.error_summary(error)}", file=sys.stderr)
            except GalagoError as error:
                print(f"galago: {error.message}", file=sys.stderr)

    def _handle(self, line: str) -> bool:
        """Handles one line of input. Returns `False` if it ends the conversation."""
        command, _, rest = line.partition(" ")
        if command in _MEDIA:
            self._attach(_MEDIA[command], rest.strip())
        elif command == "/clear":
            self._history, self._media = [], []
        elif command in ("/bye", "/exit", "/quit"):
            return False
        elif command.startswith("/"):
            if command in ("/help", "/?"):
                print(_COMMANDS)
            else:
                unknown = f"there is no command {command}; nothing was sent to the model"
                print(f"galago: {unknown}\n{_COMMANDS}", file=sys.stderr)
        elif line:
            self._answer(line)
        return True

    def _attach(self, kind: MediaKind, path: str) -> None:
        if not path:
            raise MediaError(f"/{kind} needs the name of a file: /{kind} FILE")
        self._media.append(read_media(kind, Path(path)))
        if sys.stdin.isatty():
            print(f"{path} will be sent with your next message")

    def _answer(self, line: str) -> None:
        question = Message("user", (*self._media, Text(line)))
        messages = (*self._system, *self._history, question)
        texts: list[str] = []
        with self._model.stream(Request(messages, self._sampling, self._max_tokens)) as answer:
            try:
                for text in answer:
                    texts.append(text)
                    print(text, end="", flush=True)
                print()
                print_notes(answer.reply, self._model.info.warnings)
            except KeyboardInterrupt:
                print(" (stopped)")
        self._media = []
        if texts:
            self._history += [question, Message("assistant", (Text("".join(texts)),))]


def _read_line() -> str | None:
    """Reads the next line; `None` at the end of the input. Ctrl-C drops the line being typed."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                print()
            return None
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /bye leaves)")
