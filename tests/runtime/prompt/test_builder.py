"""From messages to a prompt: only the template writes control tokens, and media keep their place."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.server import DATA
from fakes.templates import shown
from galago.models.errors import Cancelled, InvalidRequest, PromptTooLong, UnsupportedModality
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.inference.assembly import prompt_builder
from galago.runtime.inference.generator import Generator
from galago.runtime.llamacpp.projector import MediaChunk, encode_first
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.prompt.builder import PromptBuilder, break_up
from galago.runtime.prompt.completion import CompletionPrompts
from galago.runtime.prompt.template import ChatTemplate
from galago.runtime.types.messages import Audio, Image, Message, Text, ToolCall
from galago.runtime.types.prompt import Item, MediaSpan, Prompt
from galago.runtime.types.request import CompletionPrompt

PICTURE = Image((DATA / "picture-5.png").read_bytes())
SOUND = Audio((DATA / "sound-1.wav").read_bytes())
CONTROL = ["<|im_start|>", "<|im_end|>", "<|audio_start|>", "<think>", "<tool_call>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Generator]:
    model = Generator(resolve("builtin"), ModelConfig(slots=1))
    yield model
    model.close()


@pytest.fixture(scope="module")
def weights(loaded: Generator) -> Weights:
    return loaded._weights


def user(*parts: Any) -> Message:
    return Message("user", tuple(Text(p) if isinstance(p, str) else p for p in parts))


def test_the_template_writes_control_tokens(loaded: Generator, weights: Weights) -> None:
    assert shown(weights, loaded._assembly.chat_format.prompts.build([user("Hi")])) == (
        "[[<|im_start|>]]user\nHi[[<|im_end|>]]\n[[<|im_start|>]]assistant\n"
    )


@pytest.mark.parametrize("text", CONTROL)
def test_a_message_cannot_write_control_tokens(loaded: Generator, weights: Weights, text: str) -> None:
    built = loaded._assembly.chat_format.prompts.build([user(f"a{text}b")])
    assert f"a{text}b" in shown(weights, built)
    token = weights.tokenize(text, parse_special=True)
    assert len(token) == 1
    plain = loaded._assembly.chat_format.prompts.build([user("ab")])
    assert built.items.count(token[0]) == plain.items.count(token[0])


def test_neighbouring_text_parts_are_on_separate_lines(loaded: Generator, weights: Weights) -> None:
    assert "user\n<|im_\nend|>[[<|im_end|>]]" in shown(
        weights, loaded._assembly.chat_format.prompts.build([user("<|im_", "end|>")])
    )
    assert "user\na[[image]]b\nc[[" in shown(
        weights, loaded._assembly.chat_format.prompts.build([user("a", PICTURE, "b", "c")])
    )


def test_a_name_reaches_the_template_but_not_as_a_control_token(weights: Weights) -> None:
    source = "{{ messages[0].name }}: {{ messages[0].content }}"
    prompt = builder_without_projector(weights, source).build([Message("user", (Text("Hi"),), "<|im_end|>")])
    assert shown(weights, prompt) == "<|im_end|>: Hi"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*CONTROL, "<|", "|>", "im_end", "x", "\ufdd0", "\ufdd1", "<", "\u00e9", " "]), max_size=8)
)
def test_no_message_can_write_control_tokens(loaded: Generator, weights: Weights, pieces: list[str]) -> None:
    text = "".join(pieces)
    prompt = shown(weights, loaded._assembly.chat_format.prompts.build([user(text)]))
    assert prompt == f"[[<|im_start|>]]user\n{text}[[<|im_end|>]]\n[[<|im_start|>]]assistant\n"


@given(st.text(alphabet="ab<>", max_size=12))
def test_breaking_up_leaves_no_match_within_a_piece(text: str) -> None:
    dangerous = re.compile("<ab>|aba|ba|<<")
    broken = break_up(text, dangerous, "\ufdd0")
    assert broken.replace("\ufdd0", "") == text
    assert not any(dangerous.search(piece) for piece in broken.split("\ufdd0"))


def test_ordinary_text_is_tokenized_as_usual(loaded: Generator, weights: Weights) -> None:
    rendered = "<|im_start|>user\nCount the shapes.<|im_end|>\n<|im_start|>assistant\n"
    assert loaded._assembly.chat_format.prompts.build([user("Count the shapes.")]).items == tuple(
        weights.tokenize(rendered, parse_special=True)
    )


def test_media_keep_their_place(loaded: Generator, weights: Weights) -> None:
    prompt = loaded._assembly.chat_format.prompts.build(
        [user("a", PICTURE, "b", SOUND), Message("assistant", (Text("c"),)), user(PICTURE)]
    )
    assert shown(weights, prompt) == (
        "[[<|im_start|>]]user\na[[image]]b[[<|audio_start|>]][[audio]][[<|audio_end|>]][[<|im_end|>]]\n"
        "[[<|im_start|>]]assistant\nc[[<|im_end|>]]\n"
        "[[<|im_start|>]]user\n[[image]][[<|im_end|>]]\n[[<|im_start|>]]assistant\n"
    )
    assert (prompt.media_cells("image"), prompt.media_cells("audio")) == (32, 26)


def test_long_audio_becomes_several_windows(loaded: Generator) -> None:
    import io

    import numpy as np
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(20 * 16000, np.float32), 16000, format="WAV")
    prompt = loaded._assembly.chat_format.prompts.build([user(Audio(buffer.getvalue()))])
    assert [span.cells for span in prompt.media] == [104, 104, 65]


def chunks(prompt: Prompt) -> list[MediaChunk]:
    return [span.payload for span in prompt.media if isinstance(span.payload, MediaChunk)]


def test_an_image_is_encoded_once(loaded: Generator) -> None:
    first, same = chunks(loaded._assembly.chat_format.prompts.build([user(PICTURE, PICTURE)]))
    assert not first.ready and not same.ready
    encode_first([first])
    assert first.embeddings is not None and first.embeddings.shape == (16, 256) and first.embeddings.std() > 0
    assert same.ready and same.embeddings is first.embeddings
    assert chunks(loaded._assembly.chat_format.prompts.build([user("Again:", PICTURE)]))[0].ready


def test_media_differ_by_a_single_value(loaded: Generator) -> None:
    import numpy as np

    projector = loaded._assembly.projector
    assert projector is not None
    picture, sound = np.zeros((40, 60, 3), np.uint8), np.zeros(20_000, np.float32)
    digests = [span.digest for span in _spans(projector.cut_picture(picture))]
    digests += [span.digest for span in _spans(projector.cut_picture(picture.reshape(60, 40, 3)))]
    picture[3, 4, 1] = 1
    digests += [span.digest for span in _spans(projector.cut_picture(picture))]
    digests += [span.digest for span in _spans(projector.cut_sound(sound))]
    sound[7] = 0.1
    digests += [span.digest for span in _spans(projector.cut_sound(sound))]
    assert len(set(digests)) == len(digests) == 5


def _spans(items: list[Item]) -> list[MediaSpan]:
    return [item for item in items if isinstance(item, MediaSpan)]


def test_images_have_the_same_embeddings_in_a_batch_and_alone(loaded: Generator) -> None:
    import numpy as np

    projector = loaded._assembly.projector
    assert projector is not None
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 255, (50, 70, 3), np.uint8) for _ in range(3)]
    cut = [span.payload for p in pictures for span in _spans(projector.cut_picture(p))]
    together = [chunk for chunk in cut if isinstance(chunk, MediaChunk)]
    while left := [chunk for chunk in together if not chunk.ready]:
        encode_first(left)
    projector.embeddings.clear()
    for picture, chunk in zip(pictures, together, strict=True):
        alone = _spans(projector.cut_picture(picture))[0].payload
        assert isinstance(alone, MediaChunk)
        encode_first([alone])
        assert alone.embeddings is not None and chunk.embeddings is not None
        np.testing.assert_allclose(alone.embeddings, chunk.embeddings, atol=1e-4)


def test_skipped_frames_of_an_image_cause_a_warning(loaded: Generator) -> None:
    import io

    from PIL import Image as Pillow

    buffer = io.BytesIO()
    frames = [Pillow.new("RGB", (20, 20), c) for c in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    prompt = loaded._assembly.chat_format.prompts.build([user(Image(buffer.getvalue(), "cat.gif"))])
    assert prompt.warnings and "cat.gif" in prompt.warnings[0] and "first frame" in prompt.warnings[0]


def builder_without_projector(weights: Weights, source: str, context_length: int = 2048) -> PromptBuilder:
    return prompt_builder(weights, None, source, context_length)


def test_a_model_without_a_projector_refuses_images(weights: Weights) -> None:
    with pytest.raises(UnsupportedModality, match="--mmproj"):
        builder_without_projector(weights, "{{ messages[0].content }}").build([user(PICTURE, "x")])


def test_a_template_that_drops_media_is_an_error(weights: Weights) -> None:
    with pytest.raises(InvalidRequest, match="kept only 0 of the 1"):
        builder_without_projector(weights, "x").build([user(PICTURE)])


def test_a_prompt_that_ends_with_media_or_nothing_is_an_error(weights: Weights) -> None:
    with pytest.raises(InvalidRequest, match="adds no text after these messages"):
        builder_without_projector(weights, "{% if false %}{% endif %}").build([user("x")])


def test_text_that_uses_every_noncharacter_is_refused(loaded: Generator) -> None:
    with pytest.raises(InvalidRequest, match="noncharacters"):
        loaded._assembly.chat_format.prompts.build([user("".join(chr(c) for c in range(0xFDD0, 0xFDF0)))])


def test_many_control_tokens_are_tokenized_quickly(loaded: Generator) -> None:
    started = time.process_time()
    with pytest.raises(PromptTooLong):
        loaded._assembly.chat_format.prompts.build([user("x")] * 40_000)
    assert time.process_time() - started < 8


@pytest.mark.parametrize(
    ("length", "advice"), [(64, "or load the model with a larger --context"), (2048, "trained for no larger context")]
)
def test_a_larger_context_is_advised_only_if_the_model_can_have_it(weights: Weights, length: int, advice: str) -> None:
    with pytest.raises(PromptTooLong, match=f"shorten the messages.*{advice}$"):
        builder_without_projector(weights, "{{ messages[0].content }}", length).build([user("x " * 3000)])
    with pytest.raises(PromptTooLong, match=f"shorten the prompt.*{advice}$"):
        CompletionPrompts(weights, None, length).build(CompletionPrompt("x " * 3000))


def test_a_huge_text_is_refused_without_tokenizing_it(loaded: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded._weights, "tokenize", None)
    with pytest.raises(PromptTooLong, match="at least"):
        loaded._assembly.chat_format.prompts.build([user("x" * 5_000_000)])


def test_a_huge_text_is_refused_without_rendering_it(loaded: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatTemplate, "render", lambda *_, **__: pytest.fail("the template was rendered"))
    with pytest.raises(PromptTooLong, match="at least"):
        loaded._assembly.chat_format.prompts.build([user("x" * 3_000_000), user("x" * 2_000_000)])


def test_media_stay_with_their_texts_if_the_template_needs_another_order(loaded: Generator) -> None:
    """Each call is followed by its own result; the cells of media are listed in the order of the messages."""
    source = "{% for m in messages %}{% if (m.tool_calls or []) | length > 1 %}{{ raise_exception('one') }}{% endif %}"
    source += "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    source += "{{ m.content or '' }}{% endfor %}{# <tool_call> #}"
    prompts = prompt_builder(loaded._weights, loaded._assembly.projector, source, 2048)
    calls = tuple(ToolCall(name, name, "{}") for name in ("first", "second"))
    messages = [
        user("x"),
        Message("assistant", (), tool_calls=calls),
        Message("tool", (SOUND, Text("the sound")), tool_call_id="second"),
        Message("tool", (PICTURE, Text("the picture")), tool_call_id="first"),
    ]
    prompt = prompts.build(messages)
    text = shown(loaded._weights, prompt)
    assert text.index("[[image]]") < text.index("the picture") < text.index("[[audio]]") < text.index("the sound")
    sound_cells, picture_cells = prompt.media_part_cells
    assert 0 <= sound_cells - prompt.media_cells("audio") < 5 and 0 <= picture_cells - prompt.media_cells("image") < 5


def test_too_many_images_are_refused_before_they_are_decoded(
    loaded: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galago.runtime.prompt.media_parts.decode_image", None)
    with pytest.raises(PromptTooLong, match="at least"):
        loaded._assembly.chat_format.prompts.build([user(*[PICTURE] * 3000)])


def test_preparation_ends_when_the_request_is_cancelled(loaded: Generator) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        loaded._assembly.chat_format.prompts.build([user(*[PICTURE] * 50)], cancelled)
    assert len(asked) == 4
