"""Readers of answers in every tool-call format: the same text gives the same events, however it is split."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from galago.runtime.output.reasoning import KNOWN_TAGS, ReasoningTags
from galago.runtime.output.text_parser import text_parser
from galago.runtime.output.tool_formats.detect import TOOL_FORMATS, tool_format_named
from galago.runtime.output.tool_formats.generic import GENERIC
from galago.runtime.output.tool_formats.tool_format import ToolFormat
from galago.runtime.types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from galago.runtime.types.messages import Tool

from ..target import Target

_FORMATS = (*TOOL_FORMATS, GENERIC)
_TOOLS = (
    Tool("get", None, {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}),
    Tool("get_all"),
)
_TEXTS = (
    *"get get_all ge other functions.get city days name arguments parameters json code final to=".split(),
    *"""{ } [ ] ( ) : , = ; " ' < > </ |> ` ``` true null 1.5 \\ \\u0041 \\x4 {city: (city="Bern") text é 😀""".split(),
    *(" to=functions.get", '{"city": "Bern"}', '{"a": {"b": [1, "}"]}}', "some text. ", "x" * 195),
    *(" ", "\n", "\n\n", "\t", " " * 195),
)


def _tags(tool_format: ToolFormat) -> list[str]:
    """The texts of a format, whole and in parts."""
    notation: Any = tool_format.notation
    texts = [*tool_format.control_texts, tool_format.call_separator or "", tool_format.answer_header]
    texts += [getattr(notation, name, "") for name in ("name_start", "name_end", "value_end", "end")]
    parts = [part for text in texts for part in (text, *re.split(r"[\s·]+", text))]
    halves = [half for part in parts for half in (part[: len(part) // 2], part[len(part) // 2 :], part[:-1])]
    return sorted({text.replace("·", "") for text in (*parts, *halves)} - {""})


_ALL_TAGS = sorted(
    {tag for tool_format in _FORMATS for tag in _tags(tool_format)} | {t for tags in KNOWN_TAGS for t in tags}
)


@st.composite
def _answers(draw: st.DrawFn) -> tuple[str, str, str, tuple[int, ...]]:
    """A format, the parser's state at the start, a text, and the positions where it is split."""
    tool_format = draw(st.sampled_from(_FORMATS))
    call = tool_format.block_start + tool_format.call_start + "get" + tool_format.arguments_start
    pieces = st.one_of(
        st.sampled_from(_tags(tool_format)),
        st.sampled_from(_TEXTS),
        st.sampled_from([call.replace("·", ""), *KNOWN_TAGS[0]]),
        st.sampled_from(_ALL_TAGS),
        st.text(max_size=3),
    )
    text = "".join(draw(st.lists(pieces, max_size=12)))
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=8))
    return tool_format.name, draw(st.sampled_from(_STATES)), text, tuple(sorted(cuts))


_STATES = ("plain", "tags", "in reasoning", "continues", "no tools", "no tools, tags")


def _read(name: str, state: str, pieces: list[str]) -> list[OutputDelta]:
    """The events of an answer that arrives in these pieces. Adjacent ones are merged, and calls have no ids."""
    tags: ReasoningTags | None = KNOWN_TAGS[0] if "tags" in state or state == "in reasoning" else None
    tools = () if "no tools" in state else _TOOLS
    parser = text_parser(tool_format_named(name), tools, tags, state == "in reasoning", state == "continues")
    events: list[OutputDelta] = []
    for event in [each for piece in pieces for each in parser.feed(piece)] + parser.finish():
        match events[-1:], event:
            case [Delta(text)], Delta(more):
                events[-1] = Delta(text + more)
            case [ReasoningDelta(text)], ReasoningDelta(more):
                events[-1] = ReasoningDelta(text + more)
            case [ToolCallArguments(index, text)], ToolCallArguments(same, more) if index == same:
                events[-1] = ToolCallArguments(index, text + more)
            case _, ToolCallStart(index, _, tool):
                events.append(ToolCallStart(index, "", tool))
            case _:
                events.append(event)
    return events + [ToolCallStart(-1, "", "complete")] if parser.has_complete_calls else events


def _check(answer: tuple[str, str, str, tuple[int, ...]]) -> None:
    name, state, text, cuts = answer
    whole = _read(name, state, [text])
    assert _read(name, state, [text[a:b] for a, b in pairwise((0, *cuts, len(text)))]) == whole
    assert _read(name, state, list(text)) == whole


TARGET = Target(
    inputs=_answers(),
    check=_check,
    seeds=(
        ("harmony", "plain", "i<|channel|>final<|message|>\x1f<", (30,)),
        ("harmony", "no tools, tags", "><|channel|>final<|message|>\n", (28,)),
        ("harmony", "in reasoning", "code<|message|>", (4,)),
        ("harmony", "plain", "<|end|>json<|message|>", (9, 11)),
        ("harmony", "plain", "<|constrain|>json<|message|><|channel|>", (3, 20)),
        ("harmony", "plain", " " * 300 + "<|channel|>final<|message|>text", (200, 250)),
    ),
)
