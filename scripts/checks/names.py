"""Checks names and sizes in models/, runtime/ and quantize/.

    scripts/check names [duplicates] [words] [sizes]        default: all three

`duplicates` lists public classes and type aliases that several modules define. The schemas of an HTTP API may repeat a
name, because it is that API's own word; any other repetition must have a reason in `REASONS`.
`words` lists identifiers that use a home-made word where the field has its own. `sizes` lists files, functions and
classes that are too long. Exits with 1 if anything is listed.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("models", "runtime", "quantize")

REASONS: dict[str, str] = {}
"""Name -> why several modules may define it."""
API_SCHEMAS = re.compile(r"runtime/server/(openai|anthropic|ollama|galago)/.*schema.*\.py")

CLASS_NAMES = frozenset(
    "Outlook Seat Row Offer Wish Echo Odds Trust Recital Tally Pace Governor Raw Thought CallBegun Said".split()
)
"""No class may have one of these names."""
WORDS = frozenset(
    "outlook seat seats wish wishes recital tally retread divisible likeliest films eyes shelf ledger told".split()
)
"""No identifier may contain one of these words."""
IDENTIFIERS = frozenset("odds governor pace said tell about made found".split())
"""No identifier may consist of one of these words, which are part of good names such as `NotFound`."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES = 250

Trees = Mapping[str, ast.Module]
"""Path below the root -> its syntax tree."""


def read(root: Path = ROOT) -> dict[str, ast.Module]:
    files = sorted(path for part in PARTS for path in (root / part).rglob("*.py"))
    return {str(path.relative_to(root)): ast.parse(path.read_text("utf-8")) for path in files}


def duplicates(trees: Trees, reasons: Mapping[str, str] = REASONS) -> list[str]:
    """Names that several modules define without a reason, and reasons that are no longer needed."""
    modules: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for name in _public_types(tree):
            modules[name].append(path)
    repeated = {name: paths for name, paths in modules.items() if len(paths) > 1 and not _is_api_word(paths)}
    problems = [f"{name}: defined in {', '.join(repeated[name])}" for name in sorted(repeated.keys() - reasons.keys())]
    return problems + [
        f"{name}: REASONS explains a name that is defined once" for name in reasons.keys() - repeated.keys()
    ]


def _is_api_word(paths: list[str]) -> bool:
    """Whether at most one of the modules is not an API's schema."""
    return sum(API_SCHEMAS.fullmatch(path) is None for path in paths) <= 1


def _public_types(tree: ast.Module) -> set[str]:
    """Public classes and type aliases at the top level of a module."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and _is_type_expression(node.value):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.dump(node.annotation):
            names |= {node.target.id} if isinstance(node.target, ast.Name) else set()
    return {name for name in names if re.match(r"[A-Z]\w*[a-z]", name)}


def _is_type_expression(value: ast.expr) -> bool:
    """Whether a value can be a type: `A | B`, `dict[str, int]`, `A`, `m.A` or `NewType(...)`."""
    if isinstance(value, ast.BinOp):
        return isinstance(value.op, ast.BitOr)
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "NewType"
    return isinstance(value, ast.Subscript | ast.Name | ast.Attribute)


def words(trees: Trees) -> list[str]:
    """Identifiers that use a home-made word."""
    problems = []
    for path, tree in trees.items():
        stem = Path(path).parent.name if path.endswith("__init__.py") else Path(path).stem
        if is_home_made(stem):
            problems.append(f"{path}: the module's name {stem}")
        for name, line in sorted(set(_definitions(tree)), key=lambda definition: definition[1]):
            if name in CLASS_NAMES or is_home_made(name):
                problems.append(f"{path}:{line}: {name}")
    return problems


def is_home_made(identifier: str) -> bool:
    """Whether an identifier contains a word of `WORDS`, or is one of `IDENTIFIERS`."""
    if identifier.strip("_") in IDENTIFIERS:
        return True
    return not WORDS.isdisjoint(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that a module defines: classes, functions, parameters, variables, attributes and import aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname, node.lineno) for alias in node.names if alias.asname)


def sizes(trees: Trees) -> list[str]:
    """Files, functions and classes that are too long."""
    problems = []
    for path, tree in trees.items():
        lines = len((ROOT / path).read_text("utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            problems.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
        problems += _long_definitions(path, tree)
    return problems


def _long_definitions(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        limit = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > limit:
            yield f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {limit}"


PARTS_OF_CHECK: dict[str, Callable[[Trees], list[str]]] = {"duplicates": duplicates, "words": words, "sizes": sizes}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS_OF_CHECK) + "  [default: all]")
    parts = parser.parse_args(arguments).parts or list(PARTS_OF_CHECK)
    if unknown := set(parts) - set(PARTS_OF_CHECK):
        parser.error(f"there is no part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS_OF_CHECK)}")
    trees = read()
    problems = 0
    for part in parts:
        listed = PARTS_OF_CHECK[part](trees)
        problems += len(listed)
        print(f"{part}: {len(listed)} problems", *(f"  {problem}" for problem in listed), sep="\n")
    return int(problems > 0)
