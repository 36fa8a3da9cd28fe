"""`galago chat`: a conversation in the terminal, with pictures, sounds and films by path."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from ...models.errors import GalagoError, MediaError, PromptTooLong, SenseMissing, UnsupportedField
from ..python_api import LocalModel, MediaKind, read_media
from ..types.messages import Message, Part, Text
from ..types.request import Request, Sampling
from .ui import options

with contextlib.suppress(ImportError):  # not on Windows; gives `input` arrow keys and a history
    import readline  # noqa: F401

_HELP = """/image FILE   add a picture to your next message
/audio FILE   add a sound to your next message
/video FILE   add a film to your next message
/clear        forget the conversation
/bye          leave, as Ctrl-D does; Ctrl-C stops an answer"""

_MEDIA: dict[str, MediaKind] = {"/image": "image", "/audio": "audio", "/video": "video"}


def chat(
    model: options.ModelArgument,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    mmproj: options.ProjectorOption = None,
    ctx: options.ContextLength = None,
    memory: options.MemoryOption = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    kv_type: options.KVTypeOption = "f16",
    flash_attention: options.FlashAttentionOption = "auto",
    lora: options.Lora = None,
    draft: options.Draft = None,
) -> None:
    """Talk with a model in the terminal."""
    with options.load(model, mmproj, ctx, threads, gpu_layers, kv_type, flash_attention, lora, memory, draft) as loaded:
        sampling = Sampling(temperature, top_p, top_k, min_p, seed)
        _Conversation(loaded, system, sampling, max_tokens).run()


class _Conversation:
    def __init__(self, model: LocalModel, system: str | None, sampling: Sampling, max_tokens: int | None) -> None:
        self._model = model
        self._opening = [] if system is None else [Message("system", (Text(system),))]
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._history: list[Message] = []
        self._media: list[Part] = []

    def run(self) -> None:
        if sys.stdin.isatty():
            print(f"{self._model.info.id}: {self._model.info.description}\n{_HELP}")
        while (line := _ask()) is not None:
            try:
                if not self._take(line.strip()):
                    return
            except PromptTooLong as error:
                print(f"galago: {error.message}; /clear forgets the conversation", file=sys.stderr)
            except (MediaError, SenseMissing, UnsupportedField) as error:
                self._media = []
                print(f"galago: {error.message}", file=sys.stderr)
            except GalagoError as error:
                print(f"galago: {error.message}", file=sys.stderr)

    def _take(self, line: str) -> bool:
        """Acts on one line; false ends the conversation."""
        command, _, rest = line.partition(" ")
        if command in _MEDIA:
            self._attach(_MEDIA[command], rest.strip())
        elif command == "/clear":
            self._history, self._media = [], []
        elif command in ("/bye", "/exit", "/quit"):
            return False
        elif command.startswith("/"):
            print(_HELP)
        elif line:
            self._answer(line)
        return True

    def _attach(self, kind: MediaKind, path: str) -> None:
        if not path:
            raise MediaError(f"name the file: /{kind} FILE")
        self._media.append(read_media(kind, Path(path)))
        if sys.stdin.isatty():
            print(f"{path} goes with your next message")

    def _answer(self, line: str) -> None:
        from .run import tell

        question = Message("user", (*self._media, Text(line)))
        messages = (*self._opening, *self._history, question)
        said: list[str] = []
        with self._model.stream(Request(messages, self._sampling, self._max_tokens)) as answer:
            try:
                for piece in answer:
                    said.append(piece)
                    print(piece, end="", flush=True)
                print()
                tell(answer.reply, False, self._model.info.warnings)
            except KeyboardInterrupt:
                print(" (stopped)")
        self._media = []
        if said:
            self._history += [question, Message("assistant", (Text("".join(said)),))]


def _ask() -> str | None:
    """The next line; `None` at the end of the input. Ctrl-C only drops the line that was being typed."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                print()
            return None
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /bye leaves)")
