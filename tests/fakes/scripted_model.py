"""A tiny GGUF model whose answers follow a script, so that agents can be tested: call A, then call B, then this text.

The network is a table: each token predicts exactly one next token. An answer is a chain of tokens of its own, and the
chat template ends the prompt with the control token that starts the chain of the answer that is due. The template
counts tool results for that. `python -m fakes.scripted_model SCRIPT.json MODEL.gguf` writes one from the command line.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import gguf
import numpy as np

from fakes.gguf_writing import write_and_close

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
ASIDE = "<|aside|>"
_CALL_START = "<tool_call>"
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(:?)')
_PIECE_CHARS = 8
_STRING_RUN = re.compile(rf"(?:[^\\]|\\u....|\\.){{{_PIECE_CHARS}}}")
_WORDS = 4000
_LONGEST_PIECE_BYTES = 1000  # llguidance takes up to 1023
_HEAD_WIDTH = 32
_LOGIT = 64.0
_NORMAL, _CONTROL = 1, 3


@dataclass(frozen=True)
class ScriptedCall:
    """A tool call. The arguments must be in the order of the schema's properties, which the grammar enforces."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScriptedAnswer:
    """One answer: text, tool calls, or text followed by calls."""

    text: str = ""
    calls: Sequence[ScriptedCall] = ()

    @property
    def written(self) -> str:
        """The answer as the model writes it, in Hermes' format with the spaces of `json.dumps`."""
        blocks = [self.text] if self.text else []
        for call in self.calls:
            body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
            blocks.append(f"{_CALL_START}\n{body}\n</tool_call>")
        return "\n".join(blocks)


def call(name: str, **arguments: Any) -> ScriptedAnswer:
    """An answer that is one tool call."""
    return ScriptedAnswer(calls=[ScriptedCall(name, arguments)])


def text(text: str) -> ScriptedAnswer:
    return ScriptedAnswer(text)


def write_scripted_model(
    path: Path, answers: Sequence[ScriptedAnswer], *, aside: str | None = None, context: int = 131_072
) -> Path:
    """Writes a model that gives answer number n once the conversation holds the results of all calls before it.

    An earlier text answer that a user message follows counts like a result, and the last answer is repeated. `aside`
    answers a request that does not offer the tools which the due answer calls, such as one for a title; by default it
    is the text of the last answer. Sampling settings have no effect, since every other token is practically impossible.
    """
    if not answers or answers[-1].calls or not all(answer.written for answer in answers):
        raise ValueError("a script needs answers that are not empty, and the last one must be only text")
    steps = {_step(i): answer.written for i, answer in enumerate(answers)}
    steps[ASIDE] = answers[-1].text if aside is None else aside
    vocabulary = _Vocabulary([TURN_END, TURN_START, *steps])
    following: dict[int, int] = {}
    starts: dict[str, int] = {"": vocabulary.index(TURN_END)}  # rest of an answer -> its first token
    for step, written in steps.items():
        previous, at = vocabulary.index(step), 0
        cuts = _cuts(written)
        while (rest := written[at:]) not in starts:
            piece = vocabulary.add_piece(rest, [cut - at for cut in cuts if cut > at])
            following[previous] = previous = starts[rest] = vocabulary.index(piece)
            at += len(piece)
        following[previous] = starts[rest]
    vocabulary.add_words()
    _write(path, vocabulary, following, _template(answers), context)
    return path


def _step(index: int) -> str:
    return f"<|answer{index}|>"


def _cuts(written: str) -> list[int]:
    """Where an answer may be cut into tokens: anywhere in text, but in calls only within long strings.

    llguidance allows only one way to cut what a grammar leaves no choice about, such as the names of arguments.
    """
    calls_at = written.find(_CALL_START)
    if calls_at < 0:
        return list(range(1, len(written) + 1))
    cuts = list(range(1, calls_at))
    for string in _JSON_STRING.finditer(written, calls_at):
        if not string[2] and len(string[1]) >= 2 * _PIECE_CHARS:
            cuts += [run.end() for run in _STRING_RUN.finditer(written, string.start(1), string.end(1))]
    return [*cuts, len(written)]


class _Vocabulary:
    """The tokens. RWKV's tokenizer takes the longest one that matches, and needs no merges.

    No two tokens stand for the same text: llguidance would allow only one of them.
    """

    def __init__(self, control_texts: Sequence[str]) -> None:
        self._ids = {text: i for i, text in enumerate(control_texts)}
        self._control_count = len(control_texts)

    @property
    def texts(self) -> list[str]:
        """The tokens as RWKV's tokenizer wants them, with escapes."""
        return ["".join(map(_escaped, text.encode("utf-8", "surrogateescape"))) for text in self._ids]

    @property
    def types(self) -> list[int]:
        return [_CONTROL] * self._control_count + [_NORMAL] * (len(self._ids) - self._control_count)

    def index(self, text: str) -> int:
        return self._ids[text]

    def add_piece(self, rest: str, lengths: Sequence[int]) -> str:
        """Adds a token for a beginning of `rest` that is not a token yet, of one of these lengths, and returns it."""
        by_preference = sorted(lengths, key=lambda length: (length < _PIECE_CHARS, abs(length - _PIECE_CHARS)))
        piece = next((rest[:length] for length in by_preference if rest[:length] not in self._ids), None)
        if piece is None or len(piece.encode()) > _LONGEST_PIECE_BYTES:
            raise ValueError(f"a script cannot contain this once more, or at all if it is long: {rest!r}")
        self._ids[piece] = len(self._ids)
        return piece

    def add_words(self) -> None:
        """Adds what prompts and grammars are cut into: every byte, common words, and the beginnings of tokens.

        llguidance cuts a text that must come next, and looks only a few tokens back for one that would continue it.
        """
        counts = Counter(word for page in topics.values() for word in re.findall(r" ?[A-Za-z]+| {2,}", page))
        byte_texts = [bytes([byte]).decode("utf-8", "surrogateescape") for byte in range(256)]
        words = [word for word, _ in counts.most_common(_WORDS)]
        starts = [text[:end] for text in [*self._ids][self._control_count :] for end in range(2, len(text))]
        for text in (*byte_texts, *words, *starts):
            self._ids.setdefault(text, len(self._ids))


def _escaped(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and chr(byte) != "\\" else f"\\x{byte:02x}"


_TEMPLATE = """\
{%- set due = DUE %}{% set wanted = WANTED %}{% set count = namespace(done=0, offered=true) -%}
{%- if tools %}<|im_start|>system
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools><|im_end|>
{% endif -%}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% set replied = m.role == 'assistant' and not m.tool_calls and loop.nextitem and loop.nextitem.role == 'user' -%}
{%- if m.role == 'tool' or replied %}{% set count.done = count.done + 1 %}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- set answer = due[count.done] if count.done < due | length else due[-1] -%}
{%- set names = (tools or []) | map(attribute='function.name') | list -%}
{%- for name in wanted[answer] %}{% if name not in names %}{% set count.offered = false %}{% endif %}{% endfor -%}
<|im_start|>assistant
{{ '<|answer' ~ answer ~ '|>' if count.offered else '<|aside|>' }}
{%- endif -%}
"""


def _template(answers: Sequence[ScriptedAnswer]) -> str:
    """The chat template. `due[n]` is the answer after n results, and `wanted[i]` are the tools that answer i calls."""
    due: list[int] = []
    for i, answer in enumerate(answers):
        due += [i, *[min(i + 1, len(answers) - 1)] * (len(answer.calls) - 1)]
    wanted = [[call.name for call in answer.calls] for answer in answers]
    return _TEMPLATE.replace("DUE", json.dumps(due)).replace("WANTED", json.dumps(wanted))


def _write(path: Path, vocabulary: _Vocabulary, following: Mapping[int, int], template: str, context: int) -> None:
    states = {token: state for state, token in enumerate(following, 1)}  # 0: every token that no answer contains
    width = -(-(len(states) + 1) // _HEAD_WIDTH) * _HEAD_WIDTH
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("scripted")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_HEAD_WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD_WIDTH)
    writer.add_value_length(_HEAD_WIDTH)
    writer.add_rope_dimension_count(_HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(vocabulary.texts)
    writer.add_token_types(vocabulary.types)
    writer.add_eos_token_id(vocabulary.index(TURN_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    embedding = np.zeros((len(vocabulary.types), width), np.float16)
    output = np.zeros_like(embedding)
    embedding[:, 0] = 1
    output[vocabulary.index(TURN_END), 0] = _LOGIT
    for token, state in states.items():
        embedding[token, 0], embedding[token, state] = 0, 1
        output[following[token], state] = _LOGIT
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_HEAD_WIDTH, width), np.float16))
    for name in ("attn_output", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((width, _HEAD_WIDTH), np.float16))
    write_and_close(writer)


def read_script(path: Path) -> list[ScriptedAnswer]:
    """Reads a script as JSON: `[{"calls": [{"name": "f", "arguments": {}}]}, {"text": "Done."}]`."""
    return [
        ScriptedAnswer(answer.get("text", ""), [ScriptedCall(**call) for call in answer.get("calls", [])])
        for answer in json.loads(path.read_text("utf-8"))
    ]


if __name__ == "__main__":
    script, model = map(Path, sys.argv[1:])
    print(write_scripted_model(model, read_script(script)))
