"""Attacks on a server, one module per kind. Every public function that takes a `Target` is an attack.

The function is called repeatedly, on several threads, until the time is up. It returns the statuses of its requests,
or of the connections it could not open. It may hold connections open until `target.ended()`.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from .target import Target

Attack: TypeAlias = Callable[[Target], Iterable[int | str]]

_FOLDER = Path(__file__).parent
_NO_ATTACKS = ("__init__", "__main__", "target")


def names() -> list[str]:
    """All attacks, as MODULE.FUNCTION, in the order of the files."""
    found = []
    for path in sorted(_FOLDER.glob("*.py")):
        if path.stem not in _NO_ATTACKS:
            functions = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
            found += [f"{path.stem}.{one.name}" for one in functions if _is_attack(one)]
    return found


def _is_attack(function: ast.FunctionDef) -> bool:
    return not function.name.startswith("_") and [argument.arg for argument in function.args.args] == ["target"]


def find(name: str) -> Attack:
    module, _, function = name.partition(".")
    attack: Attack = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return attack
