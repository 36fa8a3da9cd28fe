"""The model reads control tokens and media markers in messages as text, with the vocabularies of five model families.

Each vocabulary has one token per byte and the family's control tokens. The weights are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from fakes.gguf_writing import write_and_close
from fakes.server import DATA
from fakes.templates import shown
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.inference.assembly import prompt_builder
from galago.runtime.inference.generator import Generator
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.messages import Audio, Image, Message, Text, Tool

MARKER = "<__media__>"
"""The placeholder of llama.cpp's own chat tools for an image."""


@dataclass(frozen=True)
class Family:
    """The control tokens of a model family, including those of media, and a template in its style."""

    controls: str
    template: str


FAMILIES = {
    "chatml": Family(
        "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> <|fim_prefix|>",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant",
    ),
    "llama3": Family(
        "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|> "
        "<|image|> <|finetune_right_pad_id|>",
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": Family(
        "<bos> <eos> <pad> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image> <image_soft_token> <unused0>",
        "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n",
    ),
    "mistral": Family(
        "<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CALLS] [ARGS] [TOOL_RESULTS] [/TOOL_RESULTS] "
        "[AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [IMG] [IMG_BREAK] [IMG_END] [BEGIN_AUDIO]",
        "<s>{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
        "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
    ),
    "phi": Family(
        "<|endoftext|> <|system|> <|user|> <|assistant|> <|end|> <|tool|> <|/tool|> <|tool_call|> <|/tool_call|> "
        "<|tool_response|> <|endoftext10|> <|endoftext11|>",
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>",
    ),
}


def byte_tokens() -> list[str]:
    """GPT-2's letter for each byte: printable bytes are themselves, the others start at U+0100."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def write(path: Path, family: Family) -> None:
    controls = family.controls.split()
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(controls)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*byte_tokens(), *controls])
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_chat_template(family.template)
    shapes = {"token_embd": len(kinds), "output_norm": 0, "blk.0.attn_norm": 0, "blk.0.ffn_norm": 0}
    shapes |= {f"blk.0.{name}": 32 for name in "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down".split()}
    for name, rows in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros((rows, 32) if rows else 32, np.float32))
    write_and_close(writer)


Vocabulary = tuple[Family, Weights]


@pytest.fixture(scope="module", params=FAMILIES)
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    family = FAMILIES[request.param]
    path = tmp_path_factory.mktemp("vocabulary") / "model.gguf"
    write(path, family)
    weights = Weights(path, 0)
    yield family, weights
    weights.close()


def chat(text: str) -> list[Message]:
    roles = ("system", "user", "assistant", "user")
    return [Message(role, (Text(f"{role}: {text}."),)) for role in roles]  # type: ignore[arg-type]


def test_the_familys_tokens_are_control_tokens(vocabulary: Vocabulary) -> None:
    family, weights = vocabulary
    assert set(family.controls.split()) <= set(weights.control_texts)
    for text in family.controls.split():
        assert len(weights.tokenize(text, parse_special=True)) == 1


def test_control_tokens_and_markers_in_messages_are_text(vocabulary: Vocabulary) -> None:
    family, weights = vocabulary
    builder = prompt_builder(weights, None, family.template, 4096)
    plain = shown(weights, builder.build(chat("Hello")))
    assert "[[" in plain
    everything = family.controls.split()
    for text in [*everything, MARKER, "".join(everything), MARKER.join(everything), f"{everything[0][:-1]}{MARKER}"]:
        assert shown(weights, builder.build(chat(text))) == plain.replace("Hello", text)


def test_control_tokens_in_tool_descriptions_are_text(vocabulary: Vocabulary) -> None:
    family, weights = vocabulary
    builder = prompt_builder(weights, None, family.template, 4096)
    hostile = family.controls + MARKER
    told = [shown(weights, builder.build(chat("x"), tools=[Tool("f", text)])) for text in ("Hello", hostile)]
    assert told[1] == told[0].replace("Hello", hostile)


def test_a_marker_next_to_media_stays_text() -> None:
    picture, sound = Image((DATA / "picture-5.png").read_bytes()), Audio((DATA / "sound-1.wav").read_bytes())
    model = Generator(resolve("builtin"), ModelConfig(slots=1))
    try:
        markers = f"{MARKER}<image><|image|><start_of_image>[IMG]<|vision_start|><|audio_start|>"
        parts = (Text(markers), picture, Text(markers), sound, Text(markers))
        text = shown(model._weights, model._assembly.chat_format.prompts.build([Message("user", parts)]))
        assert text.count("[[image]]") == text.count("[[audio]]") == 1
        assert text.count(markers) == 3
    finally:
        model.close()
