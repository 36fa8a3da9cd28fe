"""Rewrites regular expressions of JSON schemas: look-aheads and word boundaries, which llguidance lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LOOKS = re.compile(r"\(\?<?[=!]|\\[bB]")
"""Look-around and word boundaries. An escaped backslash before one only costs an attempt to rewrite it."""
_ATOM = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^xu])|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\](){}*+?|^$.]", re.S)
"""One character: an escape, a class, or itself."""
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_ASCII_CLASSES = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]"}
_OPPOSITE_ESCAPES = dict(zip("dDwWsS", "DdWwSs", strict=True))
_WORD_ATOM = re.compile(r"\\[wd]|\w|\[(?:\\[wd]|\w-\w|\w)+\]", re.ASCII)
_ANYTHING = "[\\s\\S]*"
_REPEATS_MUCH = re.compile(r"\)[*+{]|\{\d*,?\d{3}")
_MAX_SIMPLE_CHARS = 100
_MAX_EXCLUDED_CHARS = 12
"""The longest text whose absence is written as a regular expression: its size grows with the square."""


def is_simple(schema: dict[str, Any]) -> bool:
    """Whether a schema's pattern is short, repeats no groups, and is its only constraint on texts."""
    return (
        len(schema["pattern"]) <= _MAX_SIMPLE_CHARS
        and not _REPEATS_MUCH.search(schema["pattern"])
        and not _LOOKS.search(schema["pattern"])
        and not schema.keys() & {"minLength", "maxLength", "format", "enum", "const", "allOf", "anyOf", "$ref"}
    )


def without_looks(pattern: str) -> list[str] | None:
    """Patterns without look-aheads and word boundaries. A text that matches them all matches `pattern`.

    Returns `None` if there are no such patterns, or none are known.
    """
    if not _LOOKS.search(pattern):
        return [pattern]
    if len(_alternatives(pattern)) > 1:
        return None
    patterns: list[str] = []
    rest = pattern.removeprefix("^")
    while (group := _leading_look(rest)) is not None:
        sign, inside, rest = group
        if _LOOKS.search(inside):
            return None
        result = [f"^(?:{inside})"] if sign == "=" else not_beginning(inside)
        if result is None:
            return None
        patterns += result
    anchored = pattern.startswith("^") or bool(patterns)
    bounded = _without_word_boundaries(_without_outer_looks(("^" if anchored else "") + rest))
    if bounded is None or _LOOKS.search(bounded):
        return None
    return patterns if bounded in ("^", "") else [*patterns, bounded]


def opposite(pattern: str) -> list[str] | None:
    """Patterns for texts that do not match `pattern`. A text that matches them all certainly does not match it."""
    result: list[str] = []
    for branch in _alternatives(pattern):
        patterns = not_beginning(branch[1:] if branch.startswith("^") else ".*" + branch)
        if patterns is None:
            return None
        result += patterns
    return result


def not_beginning(pattern: str) -> list[str] | None:
    """Patterns of texts that do not begin with a match of `pattern`: a few characters, perhaps after `.*`."""
    result: list[str] = []
    for branch in _spread(pattern):
        anywhere = branch.startswith(".*")
        rest = branch.removeprefix(".*").removeprefix("?" if anywhere else "")
        at_end = rest.endswith("$") and not rest.endswith("\\$")
        atoms = _atoms(rest[:-1] if at_end else rest)
        if atoms is None or (at_end and anywhere):
            return None
        if not atoms:
            return ["^[\\s\\S]"] if at_end else None
        elif anywhere and len(atoms) == 1:
            result.append(f"^{_negated(atoms[0])}*$")
        elif anywhere:
            text = _literal(atoms)
            if text is None:
                return None
            result.append(_never_contains(text))
        else:
            result.append(_differs(atoms, at_end=at_end))
    return result


def not_equal(text: str) -> str | None:
    """A pattern that every text matches except this one, or `None` if it is too long for that."""
    if len(text) > _MAX_EXCLUDED_CHARS * 4:
        return None
    return _differs([_escape(char) for char in text], at_end=True) if text else "^[\\s\\S]"


def whole_text(pattern: str) -> str | None:
    """A Rust regular expression without anchors for all texts in which `pattern` matches. `None` if it has other ones.

    Classes such as backslash w are ASCII, as in JavaScript.
    """
    branches = []
    for branch in _alternatives(pattern):
        at_end = branch.endswith("$") and not branch.endswith("\\$")
        inner = branch.removeprefix("^")[: -1 if at_end else None]
        if _has_anchor(inner):
            return None
        branches.append(("" if branch.startswith("^") else "(?s:.*)") + f"(?:{inner})" + ("" if at_end else "(?s:.*)"))
    text = re.sub(r"\\([\s\S])", lambda match: _ASCII_CLASSES.get(match[1], match[0]), "|".join(branches))
    return text if len(branches) == 1 else f"(?:{text})"


def _has_anchor(pattern: str) -> bool:
    at = 0
    while at < len(pattern):
        match = _ATOM.match(pattern, at)
        if match is None and pattern[at] in "^$":
            return True
        if match is not None and match[0] in ("\\b", "\\B"):
            return True
        at = match.end() if match else at + 1
    return False


def _differs(atoms: list[str], *, at_end: bool) -> str:
    """Texts that do not begin with these atoms, or with `at_end` that do not consist of them."""
    pattern = "[\\s\\S]+" if at_end else ""
    for atom in reversed(atoms):
        pattern = f"(?:|{_negated(atom)}{_ANYTHING}{pattern and f'|{atom}{pattern}'})"
    return f"^{pattern}$"


def _never_contains(text: str) -> str:
    """Texts without this one in them: the automaton that searches for it, as a regular expression."""
    count = len(text)
    edges: dict[tuple[int, int], str] = {}
    for state in range(count):
        chars = sorted(set(text))
        targets = {char: _next_state(text, state, char) for char in chars}
        for target in set(targets.values()) - {count}:
            leading = "".join(_escape(char) for char in chars if targets[char] == target)
            edges[state, target] = f"[{leading}]"
        others = f"[^{''.join(map(_escape, chars))}]"
        edges[state, 0] = f"(?:{edges[state, 0]}|{others})" if (state, 0) in edges else others
    final = count
    edges |= {(state, final): "" for state in range(count)}
    for state in range(count - 1, 0, -1):
        _eliminate(edges, state)
    return f"^{edges[0, 0]}*(?:{edges[0, final]})$"


def _next_state(text: str, state: int, char: str) -> int:
    read = text[:state] + char
    return next(length for length in range(len(read), -1, -1) if text.startswith(read[len(read) - length :]))


def _eliminate(edges: dict[tuple[int, int], str], state: int) -> None:
    loop = edges.pop((state, state), None)
    repeat = f"(?:{loop})*" if loop else ""
    into = [(source, label) for (source, target), label in edges.items() if target == state]
    out = [(target, label) for (source, target), label in edges.items() if source == state]
    for source, first in into:
        for target, last in out:
            path = f"{first}{repeat}{last}"
            known = edges.get((source, target))
            edges[source, target] = path if known is None else f"(?:{known}|{path})"
    for edge in [edge for edge in edges if state in edge]:
        del edges[edge]


def _without_word_boundaries(pattern: str) -> str | None:
    """The pattern with a boundary at its start or end written as the character beyond it."""
    start, rest = ("^", pattern[1:]) if pattern.startswith("^") else ("", pattern)
    at_end = rest.endswith("$") and not rest.endswith("\\$")
    end, rest = ("$", rest[:-1]) if at_end else ("", rest)
    if rest.startswith("\\b"):
        rest = rest[2:]
        if not _WORD_ATOM.match(rest):
            return None
        start = start or f"^(?:|{_ANYTHING}\\W)"
    if rest.endswith("\\b") and not rest.endswith("\\\\b"):
        rest = rest[:-2]
        if not re.search(rf"(?:{_WORD_ATOM.pattern})\+?$", rest, re.ASCII):
            return None
        end = end or f"(?:|\\W{_ANYTHING})$"
    return start + rest + end


def _without_outer_looks(pattern: str) -> str:
    """The pattern with look-behind at its start and look-ahead at its end written as the text beyond it."""
    end = _group_end(pattern) if pattern.startswith(("(?<=", "(?<!")) else None
    if end is not None:
        inside, rest = pattern[4:end], pattern[end + 1 :]
        atoms = _atoms(inside) or []
        if pattern[3] == "=":
            pattern = f"(?:{inside}){rest}"
        elif len(atoms) == 1:
            pattern = f"^(?:|{_ANYTHING}{_negated(atoms[0])}){rest}"
    for at in range(1, len(pattern)):
        look = _leading_look(pattern[at:])
        if look is not None and not look[2] and pattern[at - 1] != "\\":
            sign, inside, _ = look
            failing = not_beginning(inside) if sign == "!" else [f"^(?:{inside})"]
            return pattern if failing is None or len(failing) > 1 else pattern[:at] + failing[0][1:]
    return pattern


def _leading_look(pattern: str) -> tuple[str, str, str] | None:
    """The sign and the inside of a look-ahead at the start, and what follows it."""
    if not pattern.startswith(("(?=", "(?!")):
        return None
    end = _group_end(pattern)
    return None if end is None else (pattern[2], pattern[3:end], pattern[end + 1 :])


def _structure(pattern: str) -> Iterator[tuple[int, str, int]]:
    """Each parenthesis and `|` outside escapes and classes: its place, itself, and the depth of groups after it."""
    depth, at = 0, 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[" and (match := _ATOM.match(pattern, at)):
            at = match.end() - 1
        elif pattern[at] in "()|":
            depth += {"(": 1, ")": -1, "|": 0}[pattern[at]]
            yield at, pattern[at], depth
        at += 1


def _group_end(pattern: str) -> int | None:
    return next((at for at, sign, depth in _structure(pattern) if sign != "|" and depth == 0), None)


def _alternatives(pattern: str) -> list[str]:
    """The branches of a pattern, split at each `|` outside groups and classes."""
    bars = [at for at, sign, depth in _structure(pattern) if sign == "|" and depth == 0]
    return [pattern[start + 1 : end] for start, end in zip([-1, *bars], [*bars, len(pattern)], strict=True)]


def _spread(pattern: str) -> list[str]:
    """The branches of a pattern, with a group of branches at its start or after `.*` expanded."""
    branches: list[str] = []
    for branch in _alternatives(pattern):
        lead = ".*" if branch.startswith(".*") else ""
        rest = branch[len(lead) :]
        end = _group_end(rest) if rest.startswith("(") else None
        after = rest[end + 1 :] if end is not None else ""
        if end is None or after[:1] in ("*", "+", "?", "{") or rest.startswith(("(?=", "(?!", "(?<")):
            branches.append(branch)
        else:
            inside = rest[:end].removeprefix("(").removeprefix("?:")
            branches += [f"{lead}{part}{after}" for part in _alternatives(inside)]
    return branches


def _atoms(pattern: str) -> list[str] | None:
    """The single characters that a pattern consists of, or `None` if it has anything else."""
    atoms, at = [], 0
    while at < len(pattern):
        match = _ATOM.match(pattern, at)
        if match is None or match[0] in ("\\b", "\\B") or (match[0][0] == "\\" and match[0][1] in "123456789pPkc"):
            return None
        atoms.append(match[0])
        at = match.end()
    return atoms


def _literal(atoms: list[str]) -> str | None:
    chars = [_char(atom) for atom in atoms]
    return None if None in chars or len(chars) > _MAX_EXCLUDED_CHARS else "".join(char for char in chars if char)


def _char(atom: str) -> str | None:
    if len(atom) == 1:
        return atom
    if atom[0] == "[" or atom[1] in _OPPOSITE_ESCAPES:
        return None
    return chr(int(atom[2:], 16)) if atom[1] in "xu" else _ESCAPED.get(atom[1], atom[1])


def _negated(atom: str) -> str:
    if atom[0] == "[":
        return "[" + atom[2:] if atom.startswith("[^") else "[^" + atom[1:]
    if atom[0] == "\\" and atom[1] in _OPPOSITE_ESCAPES:
        return "\\" + _OPPOSITE_ESCAPES[atom[1]]
    return f"[^{atom}]" if len(atom) > 1 else f"[^{_escape(atom)}]"


def _escape(char: str) -> str:
    """Escapes a character for use inside or outside a class."""
    known = {value: key for key, value in _ESCAPED.items() if key != "0"}
    if char in known:
        return "\\" + known[char]
    if char < " ":
        return f"\\x{ord(char):02x}"
    return char if char.isalnum() or char in "_ " or char > "~" else "\\" + char
