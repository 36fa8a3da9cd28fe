"""A checkpoint's tokenizer as GGUF stores it: tokens, their kinds, and how text is cut. Tokenizes nothing itself.

Three kinds are known: byte-level BPE ("gpt2" in GGUF), SentencePiece's BPE with bytes for what is in no token
("llama"), and WordPiece ("bert"). tokenizer.json is read first, tokenizer.model and vocab.txt where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from .checkpoint import Checkpoint, Settings
from .pretokenizers import recognise
from .safetensors import shown
from .sentencepiece import check_kind, read_pieces
from .target import Value

MAX_TOKENS = 1 << 20

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""enum llama_token_type in llama.cpp's include/llama.h"""

_SPACE = "\u2581"  # SentencePiece's letter for a space
_NEVER = -1e9  # the score of what no merge makes


@dataclass
class Vocabulary:
    """Tokens by id with their kinds; `metadata` holds what else GGUF says of them, `notes` what it cannot."""

    tokens: list[str]
    kinds: list[int]
    metadata: dict[str, Value]
    scores: list[float] | None = None
    notes: list[str] = field(default_factory=list)

    def all_metadata(self) -> dict[str, Value]:
        scores: dict[str, Value] = {"tokenizer.ggml.scores": self.scores} if self.scores is not None else {}
        return {"tokenizer.ggml.tokens": self.tokens, "tokenizer.ggml.token_type": self.kinds, **scores} | self.metadata


def read_vocabulary(checkpoint: Checkpoint, encoder: bool) -> Vocabulary:
    """With as many tokens as the embeddings have rows. Raises `ModelError` for a tokenizer that GGUF cannot hold.

    `encoder` where the model is one of the BERT family, which reads WordPiece and nothing else.
    """
    folder, size = checkpoint.folder, checkpoint.config.whole("vocab_size", most=MAX_TOKENS + 1)
    if (folder / "tokenizer.json").is_file():
        read = _Json(checkpoint.read("tokenizer.json"), size)
        found = read.vocabulary()
    elif (folder / "tokenizer.model").is_file():
        found = _from_pieces(checkpoint, folder / "tokenizer.model", size)
    elif (folder / "vocab.txt").is_file():
        found = _from_lines(checkpoint, folder / "vocab.txt", size)
    else:
        raise ModelError(f"{folder} holds none of tokenizer.json, tokenizer.model and vocab.txt", str(folder))
    if encoder != (found.metadata["tokenizer.ggml.model"] == "bert"):
        raise checkpoint.config.error("the tokenizer is not of the kind that this family of models reads")
    return found


class _Json:
    """tokenizer.json, the file of the tokenizers library."""

    def __init__(self, settings: Settings, size: int) -> None:
        self.settings, self.size = settings, size
        self.model = settings.part("model")
        words = self.model.part("vocab").entries
        added = settings.get("added_tokens", [])
        if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
            raise settings.error("added_tokens is not a list of objects")
        self.added: list[dict[str, Any]] = added
        self.tokens, self.kinds = _by_id(settings, words, added, size)

    def vocabulary(self) -> Vocabulary:
        kind = self.model.get("type", "BPE" if "merges" in self.model.entries else None)
        if kind == "WordPiece":
            return self._word_piece()
        if kind != "BPE":
            raise self.settings.error(f"the tokenizer is of the kind {shown(kind)}; BPE and WordPiece can be converted")
        for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(option):
                raise self.settings.error(
                    f"its BPE has {option} {shown(self.model.get(option))}, which GGUF cannot say"
                )
        found = self._sentence_piece() if self.model.flag("byte_fallback", False) else self._byte_level()
        found.notes += self._loose_tokens()
        return found

    def _byte_level(self) -> Vocabulary:
        pre = recognise(self.settings.get("pre_tokenizer"), self.model.flag("ignore_merges", False))
        if pre is None:
            how = shown(self.settings.get("pre_tokenizer"))
            ignoring = ", ignoring merges" if self.model.get("ignore_merges") else ""
            raise self.settings.error(f"text is cut into words in a way that is not recognised{ignoring}: {how}")
        merges = [" ".join(pair) for pair in self._merges()]
        metadata: dict[str, Value] = {
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges
        }  # fmt: skip
        return Vocabulary(self.tokens, self.kinds, metadata, notes=self._rewriting(self.settings.get("normalizer")))

    def _sentence_piece(self) -> Vocabulary:
        """llama.cpp joins the pair with the best score, where tokenizer.json has an order of merges: the first merge
        that makes a token gives its score."""
        scores = [_NEVER] * len(self.tokens)
        ids = {token: i for i, token in enumerate(self.tokens)}
        for rank, (left, right) in enumerate(self._merges()):
            made = ids.get(left + right)
            if made is None:
                raise self.settings.error(f"a merge makes {shown(left + right)}, which is no token")
            scores[made] = max(scores[made], -float(rank))
        for i, token in enumerate(self.tokens):
            if self.kinds[i] == NORMAL and len(token) == 6 and token.startswith("<0x"):
                self.kinds[i] = BYTE
            elif self.kinds[i] == USER_DEFINED:  # found in text before its spaces are rewritten
                self.tokens[i] = token.replace(_SPACE, " ")
        unknown = ids.get(self.model.get("unk_token", ""))
        if unknown is not None:
            self.kinds[unknown] = UNKNOWN
        prefixed, notes = self._spaces()
        metadata: dict[str, Value] = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.add_space_prefix": prefixed,
        }
        return Vocabulary(self.tokens, self.kinds, metadata, scores, notes)

    def _spaces(self) -> tuple[bool, list[str]]:
        """Whether a space is put before a text, and how that differs from llama.cpp's way."""
        steps = _steps(self.settings.get("normalizer"), "normalizers")
        cuts = _steps(self.settings.get("pre_tokenizer"), "pretokenizers")
        replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        rest = [step for step in steps if step not in (replaced, {"type": "Prepend", "prepend": _SPACE})]
        if not cuts and len(rest) == 0 and replaced in steps:
            return len(steps) == 2, []
        if not steps and len(cuts) == 1 and cuts[0].get("type") == "Metaspace" and not cuts[0].get("split", True):
            scheme = cuts[0].get("prepend_scheme", "always")
            differs = "a text that begins with a space gets another one, and so does one behind a control token"
            return scheme != "never", [differs] if scheme != "never" else []
        raise self.settings.error(f"spaces are handled in a way that is not recognised: {shown(steps + cuts)}")

    def _word_piece(self) -> Vocabulary:
        normalizer = self.settings.part("normalizer")
        cuts = self.settings.part("pre_tokenizer").get("type")
        if normalizer.get("type") != "BertNormalizer" or cuts != "BertPreTokenizer":
            found = shown([normalizer.get("type"), cuts])
            raise self.settings.error(f"words are cut by {found}; BertNormalizer and BertPreTokenizer are known")
        if self.model.get("continuing_subword_prefix") != "##" or not normalizer.flag("handle_chinese_chars", True):
            raise self.settings.error(
                "its WordPiece marks parts of words otherwise than BERT's, or keeps Chinese whole"
            )
        lower = normalizer.flag("lowercase", True)
        return _word_piece(self.tokens, self.kinds, lower, normalizer.flag("strip_accents", lower))

    def _merges(self) -> list[tuple[str, str]]:
        merges = self.model.get("merges", [])
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else m for m in merges] if isinstance(merges, list) else []
        if not pairs or not all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], str) for p in pairs):
            raise self.settings.error("its merges are missing or are not pairs of tokens")
        return [(left, right) for left, right in pairs]

    def _rewriting(self, normalizer: Any) -> list[str]:
        kinds = [step.get("type") for step in _steps(normalizer, "normalizers")]
        if kinds == ["NFC"]:
            return ["text that is not composed (NFC) reads otherwise: llama.cpp does not compose it"]
        if kinds:
            raise self.settings.error(
                f"text is rewritten before it is cut, which llama.cpp does not do: {shown(kinds)}"
            )
        return []

    def _loose_tokens(self) -> list[str]:
        loose = [t.get("content") for t in self.added if t.get("lstrip") or t.get("rstrip") or t.get("single_word")]
        named = ", ".join(map(shown, loose[:3]))
        return [f"spaces around {named} stay, which the tokenizer would take away"] if loose else []


def _by_id(
    settings: Settings, words: Mapping[str, Any], added: Iterable[Mapping[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    """Tokens in the order of their ids with kinds; ids that no token has are filled with unused ones."""
    found: dict[int, str] = {}
    kinds: dict[int, int] = {}
    entries = [(text, number, NORMAL) for text, number in words.items()]
    entries += [(t.get("content"), t.get("id"), CONTROL if t.get("special") else USER_DEFINED) for t in added]  # type: ignore[misc]
    for text, number, kind in entries:
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise settings.error(f"the token {shown(text)} has the impossible id {shown(number)}")
        if number >= size:
            raise settings.error(f"the token {shown(text)} has the id {number}; config.json counts {size} tokens")
        if found.setdefault(number, text) != text:
            raise settings.error(f"the tokens {shown(found[number])} and {shown(text)} share the id {number}")
        kinds[number] = kind
    if len(set(found.values())) != len(found) or "" in found.values():
        raise settings.error("a token stands twice, or is empty")
    return _filled(found, kinds, size)


def _filled(found: dict[int, str], kinds: dict[int, int], size: int) -> tuple[list[str], list[int]]:
    taken = set(found.values())
    for number in range(size):
        if number not in found:
            name = f"[PAD{number}]"
            while name in taken:
                name += "_"
            found[number], kinds[number] = name, UNUSED
    return [found[i] for i in range(size)], [kinds[i] for i in range(size)]


def _steps(step: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a part of tokenizer.json, which may be none, one, or a sequence."""
    if not isinstance(step, dict):
        return []
    if step.get("type") != "Sequence":
        return [step]
    parts = step.get(inner)
    return [one for part in parts for one in _steps(part, inner)] if isinstance(parts, list) else []


def _word_piece(tokens: list[str], kinds: list[int], lower: bool, bare: bool) -> Vocabulary:
    """llama.cpp marks where words begin, BERT where they go on."""
    written = [
        text if kind in (CONTROL, UNUSED) else text[2:] if text.startswith("##") else _SPACE + text
        for text, kind in zip(tokens, kinds, strict=True)
    ]
    seen: dict[str, int] = {}
    for number, text in enumerate(written):  # "##" alone, or a word with that very letter in it
        if not text or seen.setdefault(text, number) != number:
            written[number] = f"[PAD{number}]"
            kinds[number] = UNUSED
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.normalizer.lowercase": lower,
        "tokenizer.ggml.normalizer.strip_accents": bare,
    }
    return Vocabulary(written, kinds, metadata)


def _from_lines(checkpoint: Checkpoint, path: Path, size: int) -> Vocabulary:
    """vocab.txt: a token a line. BERT's own control tokens stand in brackets."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name}: cannot be read: {error}", str(path)) from None
    words = {line.rstrip("\r"): i for i, line in enumerate(lines) if line.rstrip("\r")}
    settings = Settings(path, {})
    control = [{"content": name, "id": words[name], "special": True} for name in _BERT_CONTROL if name in words]
    tokens, kinds = _by_id(settings, words, control, size)
    lower = checkpoint.read("tokenizer_config.json").flag("do_lower_case", True)
    return _word_piece(tokens, kinds, lower, lower)


_BERT_CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _from_pieces(checkpoint: Checkpoint, path: Path, size: int) -> Vocabulary:
    """tokenizer.model with its scores, and the tokens that tokenizer_config.json adds."""
    pieces = read_pieces(path)
    check_kind(path, pieces)
    if pieces.squeezed or pieces.rewritten:
        raise ModelError(f"{path.name}: it rewrites text before it is cut, which llama.cpp does not do", str(path))
    words = {text: i for i, text in enumerate(pieces.texts)}
    settings = checkpoint.read("tokenizer_config.json")
    extra = checkpoint.read("added_tokens.json").entries
    added = [{"content": text, "id": number, "special": False} for text, number in extra.items()]
    decoder = settings.part("added_tokens_decoder")
    for number in decoder.entries:
        added.append({**decoder.part(number).entries, "id": int(number) if number.isdecimal() else -1})
    tokens, kinds = _by_id(settings, words, added, size)
    scores = pieces.scores + [_NEVER] * (size - len(pieces.scores))
    for i, kind in enumerate(pieces.kinds):
        kinds[i] = kind if kinds[i] == NORMAL or kind != NORMAL else kinds[i]
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": settings.flag("add_prefix_space", pieces.prefixed),
    }
    return Vocabulary(tokens, kinds, metadata, scores)
