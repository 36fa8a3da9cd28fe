"""From messages to a prompt: control tokens stay the template's own, media stand where they were put."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galago.models.errors import Cancelled, InvalidRequest, PromptTooLong, SenseMissing
from galago.models.ref import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.model import Model
from galago.runtime.native.weights import Weights
from galago.runtime.prompt.chat import PromptBuilder, break_up, encode
from galago.runtime.prompt.media import MediaLimits
from galago.runtime.prompt.template import ChatTemplate
from galago.runtime.values import Audio, Image, MediaSpan, Message, Prompt, Text
from served import DATA

PICTURE = Image((DATA / "picture-5.png").read_bytes())
SOUND = Audio((DATA / "sound-1.wav").read_bytes())
CONTROL = ["<|im_start|>", "<|im_end|>", "<|audio_start|>", "<think>", "<tool_call>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Model]:
    model = Model(resolve("builtin"), ModelConfig(slots=1))
    yield model
    model.close()


@pytest.fixture(scope="module")
def weights(loaded: Model) -> Weights:
    return loaded._weights


def user(*parts: Any) -> Message:
    return Message("user", tuple(Text(p) if isinstance(p, str) else p for p in parts))


def shown(weights: Weights, prompt: Prompt) -> str:
    """The prompt as text, every control token in the brackets that no text contains."""
    out = b""
    for piece in prompt.pieces:
        for token in piece if isinstance(piece, tuple) else ():
            text = weights.text_of(token)
            out += f"[[{text}]]".encode() if text in weights.control_texts else weights.piece(token)
        if isinstance(piece, MediaSpan):
            out += f"[[{piece.kind}]]".encode()
    return out.decode()


def test_the_template_speaks_in_control_tokens(loaded: Model, weights: Weights) -> None:
    assert shown(weights, loaded._prompts.build([user("Hi")])) == (
        "[[<|im_start|>]]user\nHi[[<|im_end|>]]\n[[<|im_start|>]]assistant\n"
    )


@pytest.mark.parametrize("text", CONTROL)
def test_a_message_cannot(loaded: Model, weights: Weights, text: str) -> None:
    built = loaded._prompts.build([user(f"a{text}b")])
    assert f"a{text}b" in shown(weights, built)
    token = weights.tokenize(text, parse_special=True)
    assert len(token) == 1
    plain = loaded._prompts.build([user("ab")])
    count = sum(p.count(token[0]) for p in built.pieces if isinstance(p, tuple))
    assert count == sum(p.count(token[0]) for p in plain.pieces if isinstance(p, tuple))


def test_neighbouring_texts_stand_on_lines_of_their_own(loaded: Model, weights: Weights) -> None:
    assert "user\n<|im_\nend|>[[<|im_end|>]]" in shown(weights, loaded._prompts.build([user("<|im_", "end|>")]))
    assert "user\na[[image]]b\nc[[" in shown(weights, loaded._prompts.build([user("a", PICTURE, "b", "c")]))


def test_a_name_reaches_the_template_but_not_as_a_control_token(weights: Weights) -> None:
    source = "{{ messages[0].name }}: {{ messages[0].content }}"
    prompt = build_without_eyes(weights, source).build([Message("user", (Text("Hi"),), "<|im_end|>")])
    assert shown(weights, prompt) == "<|im_end|>: Hi"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*CONTROL, "<|", "|>", "im_end", "x", "\ufdd0", "\ufdd1", "<", "\u00e9", " "]), max_size=8)
)
def test_no_message_ever_can(loaded: Model, weights: Weights, pieces: list[str]) -> None:
    text = "".join(pieces)
    prompt = shown(weights, loaded._prompts.build([user(text)]))
    assert prompt == f"[[<|im_start|>]]user\n{text}[[<|im_end|>]]\n[[<|im_start|>]]assistant\n"


@given(st.text(alphabet="ab<>", max_size=12))
def test_breaking_up_leaves_no_match_in_one_piece(text: str) -> None:
    dangerous = re.compile("<ab>|aba|ba|<<")
    broken = break_up(text, dangerous, "\ufdd0")
    assert broken.replace("\ufdd0", "") == text
    assert not any(dangerous.search(piece) for piece in broken.split("\ufdd0"))


def test_ordinary_text_is_tokenized_as_everywhere_else(loaded: Model, weights: Weights) -> None:
    rendered = "<|im_start|>user\nCount the shapes.<|im_end|>\n<|im_start|>assistant\n"
    assert loaded._prompts.build([user("Count the shapes.")]).pieces == (
        tuple(weights.tokenize(rendered, parse_special=True)),
    )


def test_media_stand_where_they_were_put(loaded: Model, weights: Weights) -> None:
    prompt = loaded._prompts.build([user("a", PICTURE, "b", SOUND), Message("assistant", (Text("c"),)), user(PICTURE)])
    assert shown(weights, prompt) == (
        "[[<|im_start|>]]user\na[[image]]b[[<|audio_start|>]][[audio]][[<|audio_end|>]][[<|im_end|>]]\n"
        "[[<|im_start|>]]assistant\nc[[<|im_end|>]]\n"
        "[[<|im_start|>]]user\n[[image]][[<|im_end|>]]\n[[<|im_start|>]]assistant\n"
    )
    assert (prompt.media_cells("image"), prompt.media_cells("audio")) == (32, 26)


def test_a_long_sound_becomes_several_windows(loaded: Model) -> None:
    import io

    import numpy as np
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(20 * 16000, np.float32), 16000, format="WAV")
    prompt = loaded._prompts.build([user(Audio(buffer.getvalue()))])
    assert [p.cells for p in prompt.pieces if isinstance(p, MediaSpan)] == [104, 104, 65]


def test_the_same_picture_gives_the_same_embeddings(loaded: Model) -> None:
    prompt = loaded._prompts.build([user(PICTURE, PICTURE)])
    spans = [p for p in prompt.pieces if isinstance(p, MediaSpan)]
    assert [s.payload.embeddings for s in spans] == [None, None]  # type: ignore[attr-defined]
    encode(prompt)
    first, second = (s.payload.embeddings for s in spans)  # type: ignore[attr-defined]
    assert (first == second).all() and first.shape == (16, 256) and first.std() > 0


def test_what_was_lost_of_a_picture_is_a_warning(loaded: Model) -> None:
    import io

    from PIL import Image as Pillow

    buffer = io.BytesIO()
    frames = [Pillow.new("RGB", (20, 20), c) for c in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    prompt = loaded._prompts.build([user(Image(buffer.getvalue(), "cat.gif"))])
    assert prompt.warnings and "cat.gif" in prompt.warnings[0] and "first frame" in prompt.warnings[0]


def build_without_eyes(weights: Weights, source: str) -> PromptBuilder:
    return PromptBuilder(weights, None, ChatTemplate(source), source, MediaLimits(), 2048)


def test_a_model_without_eyes_says_so(weights: Weights) -> None:
    with pytest.raises(SenseMissing, match="--mmproj"):
        build_without_eyes(weights, "{{ messages[0].content }}").build([user(PICTURE, "x")])


def test_a_template_that_drops_media_is_an_error(weights: Weights) -> None:
    with pytest.raises(InvalidRequest, match="kept 0 of 1"):
        build_without_eyes(weights, "x").build([user(PICTURE)])


def test_a_prompt_that_ends_with_media_or_nothing_is_an_error(weights: Weights) -> None:
    with pytest.raises(InvalidRequest, match="nothing to answer"):
        build_without_eyes(weights, "{% if false %}{% endif %}").build([user("x")])


def test_text_that_uses_every_noncharacter_is_refused(loaded: Model) -> None:
    with pytest.raises(InvalidRequest, match="noncharacters"):
        loaded._prompts.build([user("".join(chr(c) for c in range(0xFDD0, 0xFDF0)))])


def test_a_flood_of_control_tokens_takes_no_flood_of_time(loaded: Model) -> None:
    started = time.process_time()
    with pytest.raises(PromptTooLong):
        loaded._prompts.build([user("x")] * 40_000)
    assert time.process_time() - started < 8


def test_a_huge_text_is_refused_without_tokenizing_it(loaded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded._weights, "tokenize", None)
    with pytest.raises(PromptTooLong, match="at least"):
        loaded._prompts.build([user("x" * 5_000_000)])


def test_too_many_pictures_are_refused_before_they_are_decoded(loaded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galago.runtime.prompt.chat.decode_image", None)
    with pytest.raises(PromptTooLong, match="at least"):
        loaded._prompts.build([user(*[PICTURE] * 3000)])


def test_preparation_ends_when_nobody_waits_any_more(loaded: Model) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        loaded._prompts.build([user(*[PICTURE] * 50)], cancelled)
    assert len(asked) == 4
