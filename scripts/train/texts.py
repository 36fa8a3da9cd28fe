"""Collects freely licensed English texts from Debian packages, by domain, for training and as held-out data.

`apt-get download` fetches the packages and `dpkg-deb` unpacks them; nothing is installed.
"""

from __future__ import annotations

import gzip
import html.parser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """A package: a pattern below /usr that matches its texts, their domain, and their stated license."""

    package: str
    files: str
    domain: str
    licence: str


SOURCES = (
    Source("python3.11-doc", "share/doc/python3.11/html/**/*.html", "manuals", "PSF-2.0"),
    Source("perl-doc", "share/perl/*/pod/*.pod", "manuals", "GPL-1+ or Artistic"),
    Source("git-doc", "share/doc/git-doc/*.html", "manuals", "GPL-2"),
    Source("postgresql-doc-15", "share/doc/postgresql-doc-15/html/*.html", "manuals", "PostgreSQL"),
    Source("debian-handbook", "share/doc/debian-handbook/html/en-US/*.html", "manuals", "GPL-2+ or CC-BY-SA-3.0"),
    Source("debian-reference-en", "share/debian-reference/*.html", "manuals", "GPL-2+"),
    Source("developers-reference", "share/developers-reference/*.html", "manuals", "GPL-2+"),
    Source("anarchism", "share/doc/anarchism/html/*.html", "prose", "GPL-2+"),
    Source("cfi-en", "share/doc/cfi-en/html/*.htm", "prose", "public domain"),
    Source("fortunes", "share/games/fortunes/*", "prose", "BSD"),
    Source("dict-devil", "share/dictd/*.dz", "prose", "public domain"),
    Source("dict-jargon", "share/dictd/*.dz", "dictionaries", "public domain"),
    Source("dict-gcide", "share/dictd/*.dz", "dictionaries", "GPL-2+"),
    Source("dict-wn", "share/dictd/*.dz", "dictionaries", "WordNet-3.0"),
    Source("dict-foldoc", "share/dictd/*.dz", "dictionaries", "GFDL-1.1+"),
)
MOST, PIECE, HELD_OUT = 6_000_000, 20_000, 20
"""Maximum characters per package, characters per piece, and pieces per held-out piece."""


class Piece(NamedTuple):
    domain: str
    text: str
    held_out: bool


def collect(folder: Path) -> Iterator[Piece]:
    """Returns all pieces, in an order that depends only on the packages' contents; prints what it read."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        root = _unpacked(source.package, folder)
        text = "\n\n".join(filter(None, map(_plain, sorted((root / "usr").glob(source.files)))))
        pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        step = max(1, len(text) // MOST)
        kept = pieces[::step]
        print(f"{source.package} ({source.licence}): {sum(map(len, kept)) / 1e6:.2f} MB of {len(text) / 1e6:.2f}")
        yield from (Piece(source.domain, piece, i % HELD_OUT == 0) for i, piece in enumerate(kept))


def _unpacked(package: str, folder: Path) -> Path:
    root = folder / package
    if not root.exists():
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        part = folder / f"{package}.part"
        subprocess.run(["dpkg-deb", "-x", archive, part], check=True)
        part.rename(root)
    return root


def _plain(path: Path) -> str:
    """The text of a file without markup; empty if the file is not text."""
    if not path.is_file() or path.suffix in (".dat", ".u8"):
        return ""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".dz" else path.read_bytes()
    text = data.decode("utf-8", "replace")
    if path.suffix in (".html", ".htm"):
        reader = _Reader()
        reader.feed(text)
        text = "".join(reader.pieces)
    if path.suffix == ".pod":
        text = re.sub(r"[A-Z]<+ ?([^<>]*?) ?>+", r"\1", re.sub(r"^=(head\d|item|over|back|cut|pod|encoding)[ \d]*", "",
                                                               text, flags=re.M))  # fmt: skip
    lines = (line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader(html.parser.HTMLParser):
    _SKIPPED = ("script", "style", "head", "nav")
    _BLOCKS = ("p", "div", "li", "tr", "h1", "h2", "h3", "h4", "pre", "dt", "dd", "br", "blockquote")

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden, self._verbatim = 0, 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in self._SKIPPED
        self._verbatim += tag == "pre"
        if tag in self._BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self._SKIPPED))
        self._verbatim = max(0, self._verbatim - (tag == "pre"))
        if tag in ("p", "pre", "h1", "h2", "h3", "h4"):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data if self._verbatim else re.sub(r"\s+", " ", data))
