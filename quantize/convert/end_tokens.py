"""Stores the tokens that end an answer: under the keys that llama.cpp reads, and the rest under a key of Galago's."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.gguf.header import END_TOKENS_KEY
from .checkpoint import Checkpoint
from .gguf_content import GGUFValue

_KNOWN = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response>".split()
)
"""Tokens that end an answer in llama.cpp whatever the metadata say (`load` in src/llama-vocab.cpp)."""

_OTHER_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
"""The keys of further end tokens after the first, each for one token."""


def read_end_tokens(checkpoint: Checkpoint, tokens: Sequence[str], first: GGUFValue | None) -> dict[str, GGUFValue]:
    """Returns GGUF metadata for all end tokens besides `first`, which is `tokenizer.ggml.eos_token_id`.

    They are those of generation_config.json, or else of config.json; transformers ends an answer at each of them. If
    there are more than llama.cpp has keys, `END_TOKENS_KEY` lists them all for Galago.
    """
    stated = checkpoint.read_optional("generation_config.json").get(
        "eos_token_id", checkpoint.config.get("eos_token_id")
    )
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    valid = [i for i in ids if type(i) is int and 0 <= i < len(tokens)]
    if len(valid) < len(ids):
        wrong = ", ".join(str(i)[:20] for i in ids if i not in valid)
        checkpoint.left_out.append(f"the end tokens {wrong}, which the vocabulary does not have (eos_token_id)")
    others = [i for i in dict.fromkeys(valid) if i != first]
    metadata: dict[str, GGUFValue] = {}
    if first is None and others:
        metadata["tokenizer.ggml.eos_token_id"] = others.pop(0)
    unknown = [i for i in others if tokens[i] not in _KNOWN]
    by_need = unknown + [i for i in others if tokens[i] in _KNOWN]
    metadata |= dict(zip(_OTHER_KEYS, by_need, strict=False))
    if len(unknown) > len(_OTHER_KEYS):
        metadata[END_TOKENS_KEY] = " ".join(map(str, others))
        checkpoint.notes.append(
            f"only Galago ends answers at {', '.join(tokens[i] for i in unknown[2:])}: llama.cpp has no keys for more "
            "than three end tokens"
        )
    return metadata
