"""Model names as users write them: one parser and one printed form.

builtin                             the model that ships with Galago
./model.gguf  /data/model.gguf      a path: ends in .gguf, or begins with /, ., ~ or a drive
NAME[:QUANT][@REVISION]             a name from the catalog, or of an imported model
hf:OWNER/REPO[:QUANT][@REVISION]    a repository on the Hub; hf: may be left out

Instead of a quantization, the path of a file in the repository, or of a folder, may be given. Addresses of the Hub's
pages are read, too: hf.co/OWNER/REPO[:QUANT], https://huggingface.co/OWNER/REPO/blob/REVISION/FILE.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import NotFound

BUILTIN = "builtin"

_PATH = re.compile(r"(?i)[/.~].*|[a-z]:[\\/].*|.*\\.*|.*\.gguf|[^:@]*/[^:@]*/.*", re.DOTALL)
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_NAMED = re.compile(
    rf"(?P<name>(?P<hub>hf:)?{_PART}(?P<repo>/{_PART})?)(?::(?P<quant>[^\s@:/][^@:]*))?"
    r"(?:@(?P<revision>\w[\w./-]*))?",
    re.ASCII,
)
_IN_REPOSITORY = re.compile(rf"(hf:)?{_PART}/{_PART}:.*", re.ASCII | re.DOTALL)
_ADDRESS = re.compile(r"(?i)(https?://|hf://|huggingface://|(?:hf\.co|huggingface\.co)/)(.*)", re.DOTALL)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co")
_PAGES = ("blob", "resolve", "raw", "blame", "commit", "commits", "discussions", "edit", "settings")
"""Pages of a repository on the Hub, besides those of its folders. Any other path after its name is that of a file."""
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".onnx")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A parsed model name.

    `name` is a path, a name, or OWNER/REPO. `quant` is the quantization, or the path of a file in the repository
    without its extension, in lower case. `revision` is a branch, tag or commit. Both are empty if omitted.
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


def is_builtin(model: str | Path) -> bool:
    """Whether a name means the model that ships with Galago."""
    return str(model).rstrip("/").lower().removesuffix(":latest") == BUILTIN


def parse_ref(text: str) -> ModelRef:
    """Parses a model name. Raises `NotFound` for a text that cannot be one."""
    if is_builtin(text):
        return ModelRef("builtin", BUILTIN)
    if _NAMED.fullmatch(text.rstrip("/")):
        text = text.rstrip("/")
    if text.lower().startswith("hf:"):
        text = "hf:" + text[3:]
    if address := _ADDRESS.fullmatch(text):
        return _parse_address(text, address[1].lower(), address[2])
    if not text.startswith("hf:") and not _IN_REPOSITORY.fullmatch(text) and _PATH.fullmatch(text):
        return ModelRef("path", text)
    match = _NAMED.fullmatch(text)
    if match is None or (match["hub"] and not match["repo"]) or not _is_valid(match):
        raise NotFound(
            f"{text!r:.100} is not a model name: use a name from `galago search`, OWNER/REPO[:QUANT][@REVISION] on the "
            "Hub, or the path of a GGUF file",
            "model",
        )
    name, quant, revision = match["name"].removeprefix("hf:"), (match["quant"] or "").lower(), match["revision"] or ""
    if match["repo"]:
        return ModelRef("hub", name, quant.removesuffix(".gguf").strip(), revision)
    return ModelRef("name", name.lower(), quant.strip(), revision)


def _is_valid(match: re.Match[str]) -> bool:
    """Rejects names that the Hub does not allow. `--` stands for / in the folder names of its cache."""
    name_and_revision = f"{match['name']}@{match['revision'] or ''}"
    forbidden = ".." in match.string or "--" in name_and_revision or "//" in match.string
    return not forbidden and match.string.isprintable() and not match.string.endswith(("/", ".lock"))


def _parse_address(text: str, scheme: str, rest: str) -> ModelRef:
    """Parses the address of a repository on the Hub, or of a folder or file in it."""
    if scheme.startswith("http"):
        host, _, rest = rest.partition("/")
        _check_host(text, host)
    path = urlsplit(f"//host/{rest}")
    owner, name, kind, *inside = (*unquote(path.path).strip("/").removeprefix("models/").split("/"), "", "")
    if owner in ("datasets", "spaces"):
        raise NotFound(f"{text!r:.200} is the address of a {owner[:-1]}, not of a model", "model")
    ref = parse_ref(f"hf:{owner}/{name}")
    if kind in ("tree", "blob", "resolve", "raw"):
        length = 3 if inside[:1] == ["refs"] else 1  # refs/pr/1
        revision, inside = "/".join(inside[:length]), inside[length:]
        ref = replace(ref, revision="" if revision == "main" else revision)
    elif scheme.startswith("http") and kind in ("", *_PAGES):
        inside = parse_qs(path.query).get("show_file_info", [""])[:1]
    else:
        inside = [kind, *inside]  # hf.co/OWNER/REPO/FILE.gguf
    file = "/".join(inside).strip("/")
    if file.lower().endswith(_OTHER_WEIGHTS):
        raise NotFound(f"{text!r:.200} is the address of a file that is not in the GGUF format", "model")
    is_page = kind in _PAGES and ".gguf" not in file.lower()  # such as README.md
    return ref if is_page or not file else parse_ref(str(replace(ref, quant=file)))


def _check_host(text: str, host: str) -> None:
    """Raises `NotFound` if a web address does not belong to the Hub in use."""
    from ..hub.connection import endpoint

    if host.lower() not in (*_HUB_HOSTS, urlsplit(endpoint()).netloc.lower()):
        raise NotFound(
            f"{text!r:.200} is not an address of the Hub. If {host:.100} is a mirror, set HF_ENDPOINT to it; if not, "
            "download the GGUF file yourself and use its path",
            "model",
        )
