"""Converts a checkpoint's tokenizer to GGUF: tokens, their types, and how text is split. Tokenizes nothing itself.

Three kinds are supported: byte-level BPE ("gpt2" in GGUF), SentencePiece BPE with byte fallback ("llama"), and
WordPiece ("bert"). tokenizer.json is preferred; tokenizer.model and vocab.txt are read if there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.regular_file import read_text
from .checkpoint import Checkpoint
from .gguf_content import GGUFValue
from .json_config import JSONConfig
from .pretokenizers import identify
from .safetensors import quoted
from .sentencepiece import check_is_bpe, read_sentencepiece

MAX_TOKENS = 1 << 20

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""enum llama_token_type in llama.cpp's include/llama.h"""

_SPACE = "\u2581"  # SentencePiece's character for a space
_UNREACHABLE_SCORE = -1e9  # of a token that no merge produces

_BERT_CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class Vocabulary:
    """Tokens and their types by id. `notes` describe what GGUF cannot express."""

    tokens: list[str]
    types: list[int]
    metadata: dict[str, GGUFValue]
    scores: list[float] | None = None
    notes: list[str] = field(default_factory=list)

    def all_metadata(self) -> dict[str, GGUFValue]:
        scores: dict[str, GGUFValue] = {} if self.scores is None else {"tokenizer.ggml.scores": self.scores}
        return {"tokenizer.ggml.tokens": self.tokens, "tokenizer.ggml.token_type": self.types, **scores} | self.metadata


def read_vocabulary(checkpoint: Checkpoint, encoder: bool) -> Vocabulary:
    """Reads a vocabulary as large as the embedding table. Raises `ModelError` for a tokenizer that GGUF cannot express.

    `encoder` says that the model is of the BERT family, which requires WordPiece.
    """
    folder, size = checkpoint.folder, checkpoint.config.positive_int("vocab_size", below=MAX_TOKENS + 1)
    if (folder / "tokenizer.json").is_file():
        vocabulary = _TokenizerJSON(checkpoint, size).vocabulary()
    elif (folder / "tokenizer.model").is_file():
        vocabulary = _from_sentencepiece(checkpoint, folder / "tokenizer.model", size)
    elif (folder / "vocab.txt").is_file():
        vocabulary = _from_vocab_txt(checkpoint, folder / "vocab.txt", size)
    else:
        advice = (
            "; make tokenizer.json with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
        advice = advice if (folder / "merges.txt").is_file() else ""
        raise ModelError(f"{folder} has no tokenizer.json, tokenizer.model or vocab.txt{advice}", str(folder))
    if encoder != (vocabulary.metadata["tokenizer.ggml.model"] == "bert"):
        raise checkpoint.config.error("the tokenizer is not of the kind that this model family uses")
    return vocabulary


class _TokenizerJSON:
    """tokenizer.json, the file format of the tokenizers library."""

    def __init__(self, checkpoint: Checkpoint, size: int) -> None:
        config = self.config = checkpoint.read("tokenizer.json")
        self.model = config.part("model")
        self.kind = self.model.get("type", "BPE" if "merges" in self.model.entries else None)
        if self.kind not in ("BPE", "WordPiece"):  # others have a vocabulary of another form
            raise config.error(f"the tokenizer is of kind {quoted(self.kind)}; only BPE and WordPiece are supported")
        ids = self.model.part("vocab").entries
        added = config.get("added_tokens", [])
        if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
            raise config.error("added_tokens is not a list of objects")
        self.added: list[dict[str, Any]] = _embedded(checkpoint, added, size)
        self.tokens, self.types = _by_id(config, ids, self.added, size)

    def vocabulary(self) -> Vocabulary:
        if self.kind == "WordPiece":
            return self._word_piece()
        for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(option):
                raise self.config.error(
                    f"its BPE uses {option} {quoted(self.model.get(option))}, which GGUF cannot express"
                )
        is_sentencepiece = self.model.flag("byte_fallback", False)
        vocabulary = self._sentencepiece() if is_sentencepiece else self._byte_level()
        vocabulary.notes += self._stripping_notes()
        return vocabulary

    def _byte_level(self) -> Vocabulary:
        pre = identify(self.config.get("pre_tokenizer"), self.model.flag("ignore_merges", False))
        if pre is None:
            pattern = quoted(self.config.get("pre_tokenizer"))
            ignoring = ", with ignore_merges" if self.model.get("ignore_merges") else ""
            raise self.config.error(f"its way of splitting text into words is not supported{ignoring}: {pattern}")
        merges = [" ".join(pair) for pair in self._merges()]
        metadata: dict[str, GGUFValue] = {
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges
        }  # fmt: skip
        return Vocabulary(
            self.tokens, self.types, metadata, notes=self._normalizer_notes(self.config.get("normalizer"))
        )

    def _sentencepiece(self) -> Vocabulary:
        """Converts merges to scores.

        llama.cpp joins the pair with the best score, tokenizer.json orders its merges. The first merge that produces a
        token determines its score.
        """
        scores = [_UNREACHABLE_SCORE] * len(self.tokens)
        ids = {token: i for i, token in enumerate(self.tokens)}
        for rank, (left, right) in enumerate(self._merges()):
            merged = ids.get(left + right)
            if merged is None:
                raise self.config.error(f"a merge produces {quoted(left + right)}, which is not a token")
            scores[merged] = max(scores[merged], -float(rank))
        for i, token in enumerate(self.tokens):
            if self.types[i] == NORMAL and len(token) == 6 and token.startswith("<0x"):
                self.types[i] = BYTE
            elif self.types[i] == USER_DEFINED:  # found in text before its spaces are replaced
                self.tokens[i] = token.replace(_SPACE, " ")
        unknown = ids.get(self.model.get("unk_token", ""))
        if unknown is not None:
            self.types[unknown] = UNKNOWN
        add_space_prefix, notes = self._space_prefix()
        metadata: dict[str, GGUFValue] = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.add_space_prefix": add_space_prefix,
        }
        return Vocabulary(self.tokens, self.types, metadata, scores, notes)

    def _space_prefix(self) -> tuple[bool, list[str]]:
        """Returns whether a space is added before a text, and notes on where llama.cpp does this differently."""
        normalizers = _steps(self.config.get("normalizer"), "normalizers")
        splits = _steps(self.config.get("pre_tokenizer"), "pretokenizers")
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        prepend = {"type": "Prepend", "prepend": _SPACE}
        others = [step for step in normalizers if step not in (replace, prepend)]
        if replace in normalizers:  # Gemma splits at spaces, of which none are left
            splits = [step for step in splits if step.get("pattern") != {"String": " "}]
        if not splits and len(others) == 0 and replace in normalizers:
            return len(normalizers) == 2, []
        if not normalizers and len(splits) == 1:
            split = splits[0]
            if split.get("type") == "Metaspace" and not split.get("split", True):
                scheme = split.get("prepend_scheme", "always")
                note = "llama.cpp adds a second space to texts that begin with one, and a space after control tokens"
                return scheme != "never", [note] if scheme != "never" else []
        raise self.config.error(f"its handling of spaces is not supported: {quoted(normalizers + splits)}")

    def _word_piece(self) -> Vocabulary:
        normalizer = self.config.part("normalizer")
        split = self.config.part("pre_tokenizer").get("type")
        if normalizer.get("type") != "BertNormalizer" or split != "BertPreTokenizer":
            kinds = quoted([normalizer.get("type"), split])
            raise self.config.error(
                f"words are split by {kinds}; only BertNormalizer and BertPreTokenizer are supported"
            )
        if self.model.get("continuing_subword_prefix") != "##" or not normalizer.flag("handle_chinese_chars", True):
            raise self.config.error(
                "its WordPiece marks word parts differently from BERT's, or does not split Chinese characters"
            )
        lowercase = normalizer.flag("lowercase", True)
        return _word_piece(self.tokens, self.types, lowercase, normalizer.flag("strip_accents", lowercase))

    def _merges(self) -> list[tuple[str, str]]:
        merges = self.model.get("merges", [])
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else m for m in merges] if isinstance(merges, list) else []
        if not pairs or not all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], str) for p in pairs):
            raise self.config.error("its merges are missing or are not pairs of tokens")
        return [(left, right) for left, right in pairs]

    def _normalizer_notes(self, normalizer: Any) -> list[str]:
        kinds = [step.get("type") for step in _steps(normalizer, "normalizers")]
        if kinds == ["NFC"]:
            return ["text that is not in composed Unicode form (NFC) is tokenized differently: llama.cpp does not "
                    "normalize it"]  # fmt: skip
        if kinds:
            raise self.config.error(
                f"its tokenizer rewrites text before splitting it, which llama.cpp does not do: {quoted(kinds)}"
            )
        return []

    def _stripping_notes(self) -> list[str]:
        stripping = [t.get("content") for t in self.added if t.get("lstrip") or t.get("rstrip") or t.get("single_word")]
        names = ", ".join(map(quoted, stripping[:3]))
        return [f"llama.cpp keeps spaces around {names}, which the original tokenizer strips"] if stripping else []


def _embedded(checkpoint: Checkpoint, added: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Returns the added tokens without those that the model has no embedding for. Gemma 3's text models have one."""
    beyond = [token for token in added if type(token.get("id")) is int and token["id"] >= size]
    if beyond:
        names = ", ".join(quoted(token.get("content")) for token in beyond[:5])
        checkpoint.left_out.append(f"added tokens for which the model has no embeddings ({len(beyond)}): {names}")
    return [token for token in added if token not in beyond]


def _by_id(
    config: JSONConfig, ids: Mapping[str, Any], added: Iterable[Mapping[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    """Returns tokens and types in the order of their ids. Ids without a token are filled with unused tokens."""
    tokens: dict[int, str] = {}
    types: dict[int, int] = {}
    entries = [(text, number, NORMAL) for text, number in ids.items()]
    entries += [(t.get("content"), t.get("id"), CONTROL if t.get("special") else USER_DEFINED) for t in added]  # type: ignore[misc]
    for text, number, kind in entries:
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise config.error(f"the token {quoted(text)} has the impossible id {quoted(number)}")
        if number >= size:
            raise config.error(f"the token {quoted(text)} has the id {number}, but config.json allows {size} tokens")
        if tokens.setdefault(number, text) != text:
            raise config.error(f"the tokens {quoted(tokens[number])} and {quoted(text)} share the id {number}")
        types[number] = kind
    if len(set(tokens.values())) != len(tokens) or "" in tokens.values():
        raise config.error("a token occurs twice, or is empty")
    return _filled(tokens, types, size)


def _filled(tokens: dict[int, str], types: dict[int, int], size: int) -> tuple[list[str], list[int]]:
    taken = set(tokens.values())
    for number in range(size):
        if number not in tokens:
            name = f"[PAD{number}]"
            while name in taken:
                name += "_"
            tokens[number], types[number] = name, UNUSED
    return [tokens[i] for i in range(size)], [types[i] for i in range(size)]


def _steps(step: Any, inner: str) -> list[dict[str, Any]]:
    """Flattens a part of tokenizer.json that may be absent, one step, or a sequence of steps."""
    if not isinstance(step, dict):
        return []
    if step.get("type") != "Sequence":
        return [step]
    parts = step.get(inner)
    return [each for part in parts for each in _steps(part, inner)] if isinstance(parts, list) else []


def _word_piece(tokens: list[str], types: list[int], lowercase: bool, strip_accents: bool) -> Vocabulary:
    """Converts WordPiece tokens: llama.cpp marks where words begin, BERT where they continue."""
    texts = [
        text if kind in (CONTROL, UNUSED) else text[2:] if text.startswith("##") else _SPACE + text
        for text, kind in zip(tokens, types, strict=True)
    ]
    seen: dict[str, int] = {}
    for number, text in enumerate(texts):  # "##" alone, or a word that contains llama.cpp's mark
        if not text or seen.setdefault(text, number) != number:
            texts[number] = f"[PAD{number}]"
            types[number] = UNUSED
    metadata: dict[str, GGUFValue] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.normalizer.lowercase": lowercase,
        "tokenizer.ggml.normalizer.strip_accents": strip_accents,
    }
    return Vocabulary(texts, types, metadata)


def _from_vocab_txt(checkpoint: Checkpoint, path: Path, size: int) -> Vocabulary:
    """Reads vocab.txt, which has one token per line and BERT's control tokens in brackets."""
    try:
        lines = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name}: cannot be read: {error}", str(path)) from None
    ids = {line.rstrip("\r"): i for i, line in enumerate(lines) if line.rstrip("\r")}
    control = [{"content": name, "id": ids[name], "special": True} for name in _BERT_CONTROL if name in ids]
    tokens, types = _by_id(JSONConfig(path, {}), ids, control, size)
    config = checkpoint.read("tokenizer_config.json")
    if not config.flag("tokenize_chinese_chars", True):
        raise config.error(
            "its WordPiece does not split Chinese characters, as llama.cpp does (tokenize_chinese_chars)"
        )
    lowercase = config.flag("do_lower_case", True)
    return _word_piece(tokens, types, lowercase, config.flag("strip_accents", lowercase))


def _from_sentencepiece(checkpoint: Checkpoint, path: Path, size: int) -> Vocabulary:
    """Reads tokenizer.model with its scores, and the tokens that tokenizer_config.json adds."""
    model = read_sentencepiece(path)
    check_is_bpe(path, model)
    if model.collapses_spaces or model.rewrites_text:
        raise ModelError(f"{path.name}: it rewrites text before splitting it, which llama.cpp does not do", str(path))
    ids = {text: i for i, text in enumerate(model.texts)}
    config = checkpoint.read("tokenizer_config.json")
    extra = checkpoint.read("added_tokens.json").entries
    added = [{"content": text, "id": number, "special": False} for text, number in extra.items()]
    decoder = config.part("added_tokens_decoder")
    for number in decoder.entries:
        added.append({**decoder.part(number).entries, "id": int(number) if number.isdecimal() else -1})
    tokens, types = _by_id(config, ids, _embedded(checkpoint, added, size), size)
    scores = model.scores + [_UNREACHABLE_SCORE] * (size - len(model.scores))
    for i, kind in enumerate(model.kinds):
        types[i] = kind if types[i] == NORMAL or kind != NORMAL else types[i]
    metadata: dict[str, GGUFValue] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": config.flag("add_prefix_space", model.adds_space_prefix),
    }
    return Vocabulary(tokens, types, metadata, scores)
