"""How models are called: one parser and one printed form. Knows neither what is installed nor what the Hub has.

builtin                             the model that ships with Galago
./model.gguf  /data/model.gguf      a path: ends in .gguf, or begins with /, ., ~ or a drive
NAME[:QUANT][@REVISION]             from the catalogue, or imported
hf:OWNER/REPO[:QUANT][@REVISION]    a repository on the Hub; hf: may be left out
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import NotFound

BUILTIN = "builtin"

_PATH = re.compile(r"(?i)[/.~].*|[a-z]:[\\/].*|.*\\.*|.*\.gguf|[^:@]*/[^:@]*/.*", re.DOTALL)
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_NAMED = re.compile(
    rf"(?P<name>(?P<hub>hf:)?{_PART}(?P<repo>/{_PART})?)(?::(?P<quant>[A-Za-z0-9][\w.-]*))?(?:@(?P<revision>\w[\w./-]*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """What a user calls a model. `name` is a path, a name, or OWNER/REPO; `quant` is in small letters; both it and
    `revision` (a branch, tag or commit) are empty where they were left out."""

    kind: Literal["builtin", "path", "name", "hub"]
    name: str
    quant: str = ""
    revision: str = ""

    def __str__(self) -> str:
        text = f"hf:{self.name}" if self.kind == "hub" else self.name
        return text + (f":{self.quant}" if self.quant else "") + (f"@{self.revision}" if self.revision else "")

    def plain(self) -> ModelRef:
        """Without quant and revision."""
        return replace(self, quant="", revision="")


def parse_ref(text: str) -> ModelRef:
    """Raises `NotFound` for what cannot be a model's name."""
    if text == BUILTIN:
        return ModelRef("builtin", BUILTIN)
    if not text.startswith("hf:") and _PATH.fullmatch(text):
        return ModelRef("path", text)
    found = _NAMED.fullmatch(text)
    if found is None or (found["hub"] and not found["repo"]) or not _is_valid(text):
        what = "a name of `galago search`, OWNER/REPO[:QUANT][@REVISION], or a path"
        raise NotFound(f"there is no model {text!r:.100}: give {what}", "model")
    name, quant, revision = found["name"].removeprefix("hf:"), (found["quant"] or "").lower(), found["revision"] or ""
    if found["repo"]:
        return ModelRef("hub", name, quant, revision)
    return ModelRef("name", name.lower(), quant, revision)


def _is_valid(text: str) -> bool:
    """The Hub has no such repositories, and `--` stands for / in the cache's folder names."""
    return ".." not in text and "--" not in text and "//" not in text and not text.endswith(("/", ".lock"))
