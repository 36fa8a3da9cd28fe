"""The child process that compiles and renders chat templates: `python -m ...template_renderer MEMORY HANDLE`.

A template is untrusted code. Jinja's sandbox keeps it away from Python's internals (CVE-2024-34359 was caused by the
lack of one). It does not stop endless loops or unlimited memory: the operating system does, as far as it has such
limits, and the parent watches this process too. It writes no files, starts no processes and has no other connection.

A request is JSON. `["compile", seconds, source]` is answered with the names of the template's variables and its code;
`["render", seconds, variables]` renders the code that was sent last, as a message of its own. The reply is JSON,
`[kind, result, seconds used]`: the kind is "ok" or a kind of error.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import marshal
import signal
import sys
import time
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..process.limits import limit_this_process
from ..process.spawn import inherited_connection

_MAX_ERROR_CHARS = 1000
_LOADED_TEMPLATES = 4
_OPEN_FILES = 16  # standard streams, the connection, and modules that are imported late


class _Generation(Extension):
    """Ignores `{% generation %}`, with which templates mark the model's own text for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers defines it for chat templates: non-ASCII text stays readable and HTML is not escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
)
_ENVIRONMENT.filters["tojson"] = _tojson
_ENVIRONMENT.globals["raise_exception"] = _raise
_ENVIRONMENT.globals["strftime_now"] = lambda form: datetime.now().strftime(form)


def _compile(source: str) -> tuple[str, Any]:
    try:
        parsed = _ENVIRONMENT.parse(source)
        variables = meta.find_undeclared_variables(parsed) - set(_ENVIRONMENT.globals)
        code = marshal.dumps(_ENVIRONMENT.compile(parsed))
    except MemoryError:
        raise
    except Exception as error:
        return "invalid", str(error)[:_MAX_ERROR_CHARS]
    return "ok", [sorted(variables), base64.b64encode(code).decode()]


@functools.lru_cache(_LOADED_TEMPLATES)
def _loaded(code: bytes) -> jinja2.Template:
    return jinja2.Template.from_code(_ENVIRONMENT, marshal.loads(code), _ENVIRONMENT.globals)


def _render(code: bytes, variables: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "ok", _loaded(code).render(variables)
    except MemoryError:
        raise
    except jinja2.TemplateError as error:
        return "refuses", str(error)[:_MAX_ERROR_CHARS]
    except Exception as error:
        return "fails on", str(error)[:_MAX_ERROR_CHARS]


def _limit_time(seconds: float) -> None:
    """Makes the operating system end this process after this much more CPU time. 0 removes the limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _reply(request: bytes, code: bytes) -> bytes:
    task, seconds, given = json.loads(request)
    begin = time.process_time()
    _limit_time(seconds)
    kind, result = _compile(given) if task == "compile" else _render(code, given)
    _limit_time(0)
    reply = json.dumps([kind, result, time.process_time() - begin], ensure_ascii=False)
    return reply.encode("utf-8", "surrogatepass")


def main(memory: int, handle: int) -> None:
    connection = inherited_connection(handle)
    limit_this_process(data_bytes=memory, file_bytes=0, open_files=_OPEN_FILES, processes=0)
    code = b""
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        connection.send_bytes(b"ready")
        while True:
            try:
                message = connection.recv_bytes()
                if not message.startswith(b"["):
                    code = message
                    continue
                reply = _reply(message, code)
            except MemoryError:
                reply = b'["memory", "", 0]'
            connection.send_bytes(reply)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
