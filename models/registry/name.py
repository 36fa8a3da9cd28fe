"""Model names as users write them: one parser and one printed form.

builtin                             the model that ships with Galago
./model.gguf  /data/model.gguf      a path: ends in .gguf, or begins with /, ., ~ or a drive
NAME[:QUANT][@REVISION]             a name from the catalog, or of an imported model
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
    """A parsed model name.

    `name` is a path, a name, or OWNER/REPO. `quant` is the quantization in lower case, `revision` a branch, tag or
    commit; both are empty if omitted.
    """

    kind: Literal["builtin", "path", "name", "hub"]
    name: str
    quant: str = ""
    revision: str = ""

    def __str__(self) -> str:
        text = f"hf:{self.name}" if self.kind == "hub" else self.name
        return text + (f":{self.quant}" if self.quant else "") + (f"@{self.revision}" if self.revision else "")

    def without_version(self) -> ModelRef:
        """Returns the name without quantization and revision."""
        return replace(self, quant="", revision="")


def parse_ref(text: str) -> ModelRef:
    """Parses a model name. Raises `NotFound` for a text that cannot be one."""
    if text == BUILTIN:
        return ModelRef("builtin", BUILTIN)
    if not text.startswith("hf:") and _PATH.fullmatch(text):
        return ModelRef("path", text)
    match = _NAMED.fullmatch(text)
    if match is None or (match["hub"] and not match["repo"]) or not _is_valid(text):
        raise NotFound(
            f"{text!r:.100} is not a model name: use a name from `galago search`, OWNER/REPO[:QUANT][@REVISION] on the "
            "Hub, or the path of a GGUF file",
            "model",
        )
    name, quant, revision = match["name"].removeprefix("hf:"), (match["quant"] or "").lower(), match["revision"] or ""
    if match["repo"]:
        return ModelRef("hub", name, quant, revision)
    return ModelRef("name", name.lower(), quant, revision)


def _is_valid(text: str) -> bool:
    """Rejects names that the Hub does not allow. `--` stands for / in the folder names of its cache."""
    return ".." not in text and "--" not in text and "//" not in text and not text.endswith(("/", ".lock"))
