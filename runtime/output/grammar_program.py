"""The program of a process that writes and tries grammars: `python -m ...grammar_program MEMORY HANDLE`.

llguidance may need unlimited time and memory for a grammar, or crash. Here this affects no other request: the parent
ends this process when the time is up, and the operating system limits its memory.

Messages are JSON. The first one describes the model; the reply to it is `ready`, without quotes. Each further one is an
order, which `_answer` answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
from typing import Any

from ...models.errors import GalagoError
from ..process.limits import limit_this_process
from ..process.spawn import inherited_connection
from ..types.limits import limit
from .grammar_order import GrammarOrder
from .grammar_writer import GrammarWriter
from .structured.grammar import GrammarCompiler
from .tool_formats.detect import TOOL_FORMATS
from .tool_formats.generic import GENERIC
from .tool_formats.tool_format import speller

_IDLE_SECONDS = 120.0
_TOKENS_TO_TRY = 48
_WARM_UP = GrammarOrder((), False, False, False, None, None, "a")
"""Makes llguidance read the vocabulary."""

_TOKENIZE_FUNCTION = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_int32, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32),
    *(ctypes.c_bool, ctypes.c_bool),
)
"""The type of `llama_tokenize`: vocabulary, text, its length, tokens, their maximum, and two switches."""


class _ByteTokenizer:
    """Stands in for llama.cpp's tokenizer, which a trial does not need: each byte becomes its token."""

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = {token: number for number, token in enumerate(tokens) if len(token) == 1}
        self._function = _TOKENIZE_FUNCTION(self._tokenize)

    def pointers(self) -> tuple[int, int]:
        address = ctypes.cast(self._function, ctypes.c_void_p).value or 0
        return address, address

    def _tokenize(self, _vocab: Any, text: Any, length: int, tokens: Any, room: int, *_switches: bool) -> int:
        numbers = [self._tokens[byte] for byte in map(int.to_bytes, text[:length]) if byte in self._tokens]
        if len(numbers) > room:
            return -len(numbers)
        for i, token in enumerate(numbers):
            tokens[i] = token
        return len(numbers)


def _writer(description: bytes) -> GrammarWriter:
    texts, end_tokens, tool_format, control_tokens = json.loads(description)
    tokens = [text.encode("latin-1") for text in texts]
    compiler = GrammarCompiler(lambda: (tokens, end_tokens), _ByteTokenizer(tokens).pointers, _TOKENS_TO_TRY)
    named = {one.name: one for one in (*TOOL_FORMATS, GENERIC)}
    return GrammarWriter(compiler, named[tool_format], speller(control_tokens))


def _limit_time(seconds: float) -> None:
    """Makes the operating system end this process after this much more CPU time. 0 removes the limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(writer: GrammarWriter, order: str) -> list[Any]:
    """The grammar as text, its field, the tools' schemas as enforced, and the warnings; or an error's parts."""
    try:
        written = writer.write(GrammarOrder.from_json(order))
    except GalagoError as error:
        return ["error", type(error).__name__, error.message, error.param]
    except MemoryError:
        return ["memory"]
    except RecursionError:
        return ["error", "InvalidRequest", "the schema is nested too deeply", None]
    grammar = written.grammar
    return ["grammar", grammar.text, grammar.field, [tool.parameters for tool in grammar.tools], written.warnings]


def main(memory: int, handle: int) -> None:
    connection = inherited_connection(handle)
    limit_this_process(data_bytes=memory)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        writer = _writer(connection.recv_bytes())
        writer.write(_WARM_UP)
        connection.send_bytes(b"ready")
        while connection.poll(_IDLE_SECONDS):
            order = connection.recv_bytes()
            _limit_time(limit("grammar_seconds"))
            answer = _answer(writer, order.decode())
            _limit_time(0)
            connection.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
