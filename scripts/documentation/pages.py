"""The generated pages, each a function from the code to Markdown."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from checks.request_trace import Trace
from galago.models import errors
from galago.runtime.cli.main import COMMANDS
from galago.runtime.cli.main import main as galago
from galago.runtime.config import ServerConfig
from galago.runtime.environment import VARIABLES
from galago.runtime.output.structured.keywords import keyword_groups
from galago.runtime.server.app import ERROR_RESPONSES, build
from galago.runtime.server.http.errors import TABLE
from galago.runtime.server.http.openapi import Endpoint, document
from galago.runtime.types import load_options, options
from galago.runtime.types.limits import LIMITS

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("models", "runtime", "quantize")
_NOTE = "<!-- Written by scripts/docs. Change the code, then run it again. -->\n"


def generated() -> dict[str, str]:
    """Every generated file, by its path in the project."""
    pages: dict[str, Callable[[], str]] = {
        "cli": cli,
        "routes": routes,
        "request-fields": request_fields,
        "options": option_tables,
        "schema-keywords": schema_keywords,
        "environment": environment,
        "limits": limits,
        "errors": error_table,
    }
    texts = {f"docs/reference/{name}.md": _NOTE + page() for name, page in pages.items()}
    return texts | {"docs/architecture.md": architecture((ROOT / "docs/architecture.md").read_text("utf-8"))}


def cli() -> str:
    """`--help` of every command, at 80 columns."""
    parts = ["# Commands", "", "```text", _output(["--help"]), "```"]
    for name in COMMANDS:
        parts += ["", f"## galago {name}", "", "```text", _output([name, "--help"]), "```"]
    return "\n".join(parts) + "\n"


def _output(arguments: list[str]) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            galago(arguments)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def _openapi() -> dict[str, Any]:
    """The OpenAPI document of a server with all options."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        app = build(cast(Any, None), ServerConfig(store=folder))
        endpoints = [route for route in app.routes if isinstance(route, Endpoint)]
        endpoints = [endpoint for endpoint in endpoints if endpoint.path != "/openapi.json"]
        return document(endpoints, ERROR_RESPONSES)


_ALWAYS_POSSIBLE = ("401", "403", "408", "413", "500")


def routes() -> str:
    """Every route with its request body and status codes."""
    lines = [
        "# Routes",
        "",
        "The routes below `/v1` also answer without that prefix. `GET /openapi.json` describes all of them in full.",
        "Every route may answer 401 (API key), 403 (Host or Origin), 408 (request incomplete), 413 (too large) and",
        "500.",
        "",
        "| Route | What it does | Request body | Status codes |",
        "|---|---|---|---|",
    ]
    paths = _openapi()["paths"]
    for path, methods in paths.items():
        if f"/v1{path}" in paths:
            continue
        for method, operation in methods.items():
            contents: dict[str, Any] = operation.get("requestBody", {}).get("content", {})
            content: dict[str, Any] = next(iter(contents.values()), {})
            codes = ", ".join(code for code in operation["responses"] if code not in _ALWAYS_POSSIBLE)
            body = _schema_name(content.get("schema"))
            lines.append(f"| `{method.upper()} {path}` | {operation['summary']} | {body} | {codes} |")
    return "\n".join(lines) + "\n"


def _schema_name(schema: dict[str, Any] | None) -> str:
    if not schema:
        return ""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    return _kind(schema)


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(_value(value) for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [schema[name] for name in ("minimum", "maximum") if name in schema]
    if bounds == [-(2**63), 2**64 - 1]:
        return "any 64-bit integer"
    return f"{kind} from {bounds[0]} to {bounds[1]}" if len(bounds) == 2 else str(kind)


def _value(value: object) -> str:
    """A value that an `enum` allows."""
    if value == "":
        return "empty text"
    return "null" if value is None else f"`{value}`"


def request_fields() -> str:
    """The fields of every request body."""
    described = _openapi()
    schemas = described["components"]["schemas"]
    routes_of: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        if f"/v1{path}" in described["paths"]:
            continue
        for method, operation in methods.items():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                name = _schema_name(content.get("schema")).strip("`")
                if name in schemas:
                    routes_of.setdefault(name, []).append(f"{method.upper()} {path}")
    parts = ["# Request fields", "", _FIELDS_INTRODUCTION]
    for name, (route, *others) in routes_of.items():
        same = f", as for {' and '.join(f'`{other}`' for other in others)}" if others else ""
        parts += ["", f"## {route}", "", f"Body: `{name}`{same}.", "", *_fields(schemas[name])]
    return "\n".join(parts) + "\n"


_FIELDS_INTRODUCTION = """\
[Options](options.md) says what the fields mean and gives their defaults. `GET /openapi.json` describes the types that
the tables name, such as `StreamOptions`.

A field that is not listed is ignored, and listed in the answer's `warnings` and the header `x-galago-warnings`. A
number out of its range is limited or ignored with a warning where its meaning is clear. `galago serve --strict` refuses
both. Where a table says "with a warning unless", it also refuses all values except those listed. A field marked "Not
supported" would change the answer, so any value except those listed is always refused."""


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    yield "| Field | Value | |"
    yield "|---|---|---|"
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        note = field.get("description", "Required." if name in required else "")
        yield f"| `{name}` | {_kind(field)} | {note} |".replace("\n", " ")


def option_tables() -> str:
    """Request options and load options."""
    parts = [
        "# Options",
        "",
        "One table in the code defines every option: its Python keyword, flag, HTTP field, range and default.",
        "",
        "## Sampling",
        "",
        options.markdown(options.SAMPLING),
        "## Requests",
        "",
        options.markdown((*options.PROMPT, *options.REQUEST)),
        "## Loading a model",
        "",
        options.markdown(load_options.LOADING),
    ]
    return "\n".join(parts)


def error_table() -> str:
    """Every error class with its HTTP status, type and code, and what to do."""
    lines = [
        "# Errors",
        "",
        "Every error that Galago raises on purpose is a `GalagoError` of `galago.models.errors`. Python raises it.",
        "The command line prints its message and exits with status 1. The server answers with its status, in the form",
        "of the API that was called.",
        "",
        "| Class | HTTP status | Type | Code | When |",
        "|---|---|---|---|---|",
    ]
    when = dict(re.findall(r"(\w+) {2,}(\S.*)", errors.__doc__ or ""))
    for kind, (status, type_, code) in TABLE.items():
        lines.append(f"| `{kind.__name__}` | {status} | `{type_}` | `{code}` | {when.get(kind.__name__, '')} |")
    return "\n".join(lines) + "\n"


def schema_keywords() -> str:
    """How every JSON schema keyword is handled."""
    names = {group: ", ".join(f"`{name}`" for name in members) for group, members in keyword_groups().items()}
    return f"""\
# JSON schema keywords

The schema of an answer is enforced completely, token by token, or refused with an error that names the keyword and
its place. So is the schema of a tool with `strict`. Keywords of other tools' schemas that cannot be enforced are left
unenforced, and `warnings` name the tool, the keyword and the place; `galago serve --strict` refuses them.

| | Keywords |
|---|---|
| enforced | {names["enforced"]} |
| enforced in part | {names["enforced in part"]}; see below |
| without effect on values | {names["annotations"]}; with a warning: {names["ignored"]} |
| values of `format` | {names["formats"]}; others are named in `warnings` |
| refused | {names["refused"]}, references to other documents |
| unknown | named in `warnings`; those that begin with `x-` are ignored |

- `not`, `if`, `dependentSchemas`, `contains`, `oneOf`, `unevaluatedProperties` and `unevaluatedItems` are rewritten in
  other keywords. Where no exact form is known, a narrower one is enforced: every answer is valid, but some valid ones
  are never generated. Items that satisfy `contains` come first. `not` is refused if no value that it allows is known.
- A `pattern` may begin with look-ahead or look-behind, end with look-ahead, and begin or end with `\\b`. Look-around
  elsewhere and back-references are refused.
- `patternProperties` is enforced if the patterns do not overlap.
- `uniqueItems` is enforced for booleans, and for up to four texts or integers of an `enum`.
- `propertyNames` is enforced if it is an `enum`, a `pattern` or a length.
- `minProperties` is enforced if at least that many properties are listed; without any, up to 1.
- Keywords that are null are ignored with a warning. Types such as `int`, `STRING` and `any` are read as the types of
  JSON Schema that they stand for.

Tool-call formats other than JSON cannot express some keywords, which are then left unenforced, as above.

Properties come in the order of the schema. Arguments of a tool call have only properties that the schema names, unless
it allows others. Integers fit in 64 bits. Numbers with bounds and fractions of a second have at most nine decimals,
because small models often write digits forever.

An answer that reaches `max_tokens` (`finish_reason: length`) is cut off and not valid.
"""


def environment() -> str:
    """Every environment variable that Galago reads."""
    lines = ["# Environment variables", "", "| Variable | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items()]
    lines += ["", "[Limits](limits.md) lists the variables of limits."]
    return "\n".join(lines) + "\n"


def limits() -> str:
    """Every limit with its default, and the error beyond it."""
    lines = [
        "# Limits",
        "",
        "What one request, client or file may use. `galago serve --limit NAME=VALUE` changes a limit; so does the",
        "variable, also for `galago run`, `galago chat` and the Python library. Bytes may be written as `64MiB` or",
        "`64MB`. The [options](options.md) of a request have ranges of their own.",
        "",
        "| Name | What it limits | Default | Variable | Error | HTTP status |",
        "|---|---|---|---|---|---|",
    ]
    for limit in LIMITS:
        default = limit.format(limit.default)
        status = TABLE[limit.error][0]
        name, variable, error = f"`{limit.name}`", f"`{limit.variable}`", f"`{limit.error.__name__}`"
        lines.append(f"| {name} | {limit.help} | {default} | {variable} | {error} | {status} |")
    return "\n".join(lines) + "\n"


def architecture(text: str) -> str:
    """The page with the map of the tree replaced by one made from the modules' docstrings."""
    begin, end = "<!-- map: written by scripts/docs -->\n", "<!-- end of map -->\n"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return head + begin + "\n".join(_map()) + "\n" + end + tail


def with_trace(text: str, trace: Trace) -> str:
    """The architecture page with the traced request replaced."""
    begin, end = "<!-- trace: written by scripts/docs -->\n", "<!-- end of trace -->\n"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return head + begin + "\n".join(_trace(trace)) + "\n" + end + tail


_THREADS = {
    "MainThread": {"server": "event loop", "worker": "main thread", "renderer": "main thread"},
    "asyncio": {"server": "request thread"},
    "galago-worker": {"server": "reader thread"},
    "galago-prepare": {"worker": "preparation thread"},
    "galago-engine": {"worker": "engine thread"},
    "galago-writer": {"worker": "writer thread"},
}


def _trace(trace: Trace) -> Iterator[str]:
    threads = sum(len(process.threads) for process in trace.processes)
    yield f"{len(trace.files)} files run, on {threads} threads of {len(trace.processes)} processes:"
    yield f"{trace.thread_crossings} hand-overs between threads of a process. Each file is listed under the"
    yield "first thread that enters it. Nothing is parsed, since this chat has no tools and the model no reasoning.\n"
    shown: set[str] = set()
    for process in trace.processes:
        for thread in process.threads:
            name = _THREADS.get(thread.partition("_")[0], {}).get(process.name, thread)
            files = [file for file in process.files if process.first_thread[file] == thread and file not in shown]
            shown.update(files)
            yield f"- **{process.name}, {name}**" + (":" if files else "")
            yield from (f"  - `{file}`: {_summary(ROOT / file)}" for file in files)


def traced_files(text: str) -> set[str]:
    """The files that the page's trace names."""
    section = text.partition("<!-- trace: written by scripts/docs -->\n")[2].partition("<!-- end of trace -->")[0]
    return set(re.findall(r"^  - `([^`]+)`", section, re.MULTILINE))


def _map() -> Iterator[str]:
    for part in (*PARTS, "scripts", "tests/fakes"):
        folders = sorted({path.parent for path in (ROOT / part).rglob("*.py")}, key=lambda path: path.parts)
        for folder in folders:
            name = folder.relative_to(ROOT)
            package = folder / "__init__.py"
            yield f"\n**`{name}/`** {_summary(package) if package.exists() else ''}".rstrip() + "\n"
            for path in sorted(folder.glob("*.py")):
                if path.name != "__init__.py":
                    yield f"- `{path.name}`: {_summary(path)}"


def _summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", text)[0]
