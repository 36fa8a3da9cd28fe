"""Tool calls in every format: parsed correctly however the stream is split, and generated as the grammar allows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galago.models.errors import InvalidRequest
from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.output.assembled import AssembledAnswer
from galago.runtime.output.reasoning import ReasoningTags
from galago.runtime.output.structured.grammar import Grammar, GrammarCompiler
from galago.runtime.output.text_parser import TextParser, parse_text, text_parser
from galago.runtime.output.tool_formats.detect import TOOL_FORMATS, tool_format_of
from galago.runtime.output.tool_formats.gemma import GEMMA
from galago.runtime.output.tool_formats.generic import GENERIC
from galago.runtime.output.tool_formats.glm import GLM
from galago.runtime.output.tool_formats.harmony import HARMONY
from galago.runtime.output.tool_formats.lfm2 import LFM2
from galago.runtime.output.tool_formats.llama3 import LLAMA3
from galago.runtime.output.tool_formats.notation import enforced_tool
from galago.runtime.output.tool_formats.qwen_xml import QWEN_XML
from galago.runtime.output.tool_formats.tool_format import ToolFormat, speller
from galago.runtime.types.events import Delta, OutputDelta, ToolCallStart
from galago.runtime.types.messages import Tool, ToolCall
from galago.runtime.types.warnings import Warnings

EVERY = [*TOOL_FORMATS, GENERIC]
ANY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
CALLABLE = (Tool("get_weather", None, ANY), Tool("plan", None, ANY))

ROM = {"city": "Rom"}
ARGUMENTS: list[dict[str, Any]] = [
    {"city": "Bern"},
    {"city": "the \"Big\" 'Apple'"},
    {"city": "Zürich 東京 🙂"},
    {"city": "}]), {[( <|im_end|> </tool"},
    {"city": "a\\b\nc\td"},
    {"city": "", "days": -3},
    {"city": "Bern", "days": 2, "exact": 1.5e3, "hot": True, "note": None},
    {"steps": [{"what": "a, b: c=d", "done": False}, {"what": "}", "done": True}], "city": "x"},
    {"city": '{"name": "plan", "arguments": {}}', "steps": []},
    {},
]
FORMS = (
    "alone", "with text before", "with text behind", "with white space around", "behind a thought", "parallel",
    "three in a row", "cut in arguments", "cut in the name", "spaced widely", "spaced closely",
)  # fmt: skip
"""Ten times eleven make 110 transcripts a tool_format."""
THINK = ReasoningTags("<think>", "</think>")


def call(arguments: dict[str, Any], name: str = "get_weather") -> ToolCall:
    return ToolCall("call_1", name, json.dumps(arguments))


def read(tool_format: ToolFormat, *pieces: str) -> list[OutputDelta]:
    parser = text_parser(tool_format, CALLABLE, THINK)
    said = [event for piece in pieces for event in parser.feed(piece)]
    return [*said, *parser.finish()]


def outcome(said: list[OutputDelta]) -> tuple[str, str, list[tuple[str, str]]]:
    whole = AssembledAnswer()
    for event in said:
        whole.add(event)
    return whole.text, whole.reasoning, [(c.name, c.arguments) for c in whole.tool_calls]


def spaced(tool_format: ToolFormat, gap: str) -> ToolFormat:
    """A format as written by a model that is careless about whitespace."""
    texts = ("block_start", "call_start", "arguments_start", "call_end", "block_end", "call_separator")
    written: dict[str, Any] = {text: re.sub(r"[\s·]+", gap, getattr(tool_format, text) or "") for text in texts}
    return replace(tool_format, **written | {"call_separator": written["call_separator"] or None})


def thinking(tool_format: ToolFormat, one: str) -> str:
    """A call, preceded by reasoning that contains one; in Harmony, by reasoning with text that looks like a tag."""
    if tool_format is HARMONY:
        return f"<|channel|>analysis<|message|>hm, {{}} <b>\n<|end|><|start|>assistant{one}"
    return f"<think>\n{one}\n</think>\n\n{one}"


def transcript(tool_format: ToolFormat, form: str, arguments: dict[str, Any]) -> tuple[str, str, list[dict[str, Any]]]:
    """A model's output, the text in it, and the arguments of its complete calls."""
    one = tool_format.render([call(arguments)])
    match form:
        case "with text before" if not tool_format.block_start_optional:
            return f"Let me <see>: [1] {{2}}\n\n{one}", "Let me <see>: [1] {2}", [arguments]
        case "with text before":
            return f"Let me see: {one}", f"Let me see: {one}", []
        case "with text behind":
            return f"{one}\nThere you are: {{}} </see>", "\nThere you are: {} </see>", [arguments]
        case "behind a thought":
            return thinking(tool_format, one), "", [arguments]
        case "three in a row":
            three = [call(arguments), call(ROM, "plan"), call(arguments)]
            return tool_format.render(three), "", [arguments, ROM, arguments]
        case "spaced widely":
            return spaced(tool_format, " \n\t").render([call(arguments)]), "", [arguments]
        case "spaced closely":
            return spaced(tool_format, "").render([call(arguments)]), "", [arguments]
        case "parallel":
            return tool_format.render([call(arguments), call(ROM, "plan")]), "", [arguments, ROM]
        case "cut in arguments":
            two = tool_format.render([call(arguments), call(ROM, "plan")])
            return two[: two.rindex("Rom") + 1], "", [arguments]
        case "cut in the name":
            opening = one[: one.index("get_weather") + 4]
            return opening, opening if tool_format.block_start_optional else "", []
        case "with white space around":
            return f"\n {one}\n\n", "", [arguments]
    return one, "", [arguments]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_a_transcript_is_parsed_correctly_at_every_split(tool_format: ToolFormat, form: str) -> None:
    for arguments in ARGUMENTS:
        text, said, calls = transcript(tool_format, form, arguments)
        whole = outcome(read(tool_format, text))
        thought = "hm, {} <b>" if tool_format is HARMONY else tool_format.render([call(arguments)])
        assert whole[:2] == (said, thought if form == "behind a thought" else "")
        named = ["plan" if a == ROM else "get_weather" for a in calls]
        assert [(name, json.loads(a)) for name, a in whole[2][: len(calls)]] == list(zip(named, calls, strict=True))
        assert len(whole[2]) == len(calls) + (form == "cut in arguments")
        if form == "cut in arguments":
            assert '{"city": "Rom"}'.startswith(whole[2][-1][1].removesuffix('"')) and "R" in whole[2][-1][1]
        assert outcome(read(tool_format, *text)) == whole
        for at in range(len(text)):
            assert outcome(read(tool_format, text[:at], text[at:])) == whole, text[:at]


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_text_around_calls_does_not_depend_on_the_split(tool_format: ToolFormat, data: st.DataObject) -> None:
    marks = [
        tool_format.block_start,
        tool_format.block_end,
        tool_format.call_start,
        "get_weather",
        "{",
        "}",
        '"',
        "\n",
        "a",
        "<",
        "[",
        "é",
    ]
    pieces = data.draw(st.lists(st.sampled_from([*marks, tool_format.render([call({"city": "x"})])]), max_size=8))
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    split = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert outcome(read(tool_format, *split)) == outcome(read(tool_format, text))


@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_text_is_released_at_once_and_arguments_as_they_arrive(tool_format: ToolFormat) -> None:
    parser = text_parser(tool_format, CALLABLE)
    assert parser.feed("Hello there") == [Delta("Hello there")]
    parser = text_parser(tool_format, CALLABLE)
    deltas = [parser.feed(char) for char in tool_format.render([call({"city": "Bern", "days": 12})])]
    assert sum(map(bool, deltas)) > 10
    assert parser.has_complete_calls


@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_a_call_of_an_unknown_tool_is_text(tool_format: ToolFormat) -> None:
    text = tool_format.render([call({"city": "x"}, "no_such_tool")])
    assert outcome(read(tool_format, text))[::2] == (text, [])
    plain = list(parse_text(text_parser(tool_format), tool_format.render([call({"city": "x"})])))
    assert outcome(plain)[2] == []


def test_a_json_answer_is_not_a_call() -> None:
    for text in ('{"name": "Ada", "age": 36}', '{"a": 1}', "{", '{"name": "get_wea'):
        assert outcome(read(LLAMA3, text)) == (text, "", [])


def test_an_answer_that_continues_text_is_not_a_call_without_a_block_start() -> None:
    parser = TextParser(LLAMA3, CALLABLE, continues_message=True)
    text = LLAMA3.render([call({"city": "x"})])
    assert outcome(list(parse_text(parser, text))) == (text, "", [])


def test_text_after_calls_is_text() -> None:
    text = GENERIC.render([call({"city": "x"})]) + "\nThere you are."
    assert outcome(read(GENERIC, text))[0] == "\nThere you are."


def test_whitespace_between_glm_tags_is_optional() -> None:
    tool = Tool("f", None, {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})
    for gap in ("", "\n", " \n "):
        key, value = f"<arg_key>city</arg_key>{gap}<arg_value> Bern\n</arg_value>", "<arg_key>days</arg_key><arg_value>"
        text = f"<think></think>{gap}<tool_call>f{gap}{key}{gap}{value}3</arg_value>{gap}</tool_call>"
        for at in range(len(text)):
            parser = TextParser(GLM, [tool], THINK)
            said = outcome([*parser.feed(text[:at]), *parser.feed(text[at:]), *parser.finish()])
            assert said[:2] == ("", "") and [json.loads(call[1]) for call in said[2]] == [
                {"city": " Bern\n", "days": 3}
            ]


HARMONIES = [
    (
        "<|channel|>analysis<|message|>Simple.<|end|><|start|>assistant<|channel|>final<|message|>Hello!",
        "Hello!",
        "Simple.",
        [],
    ),
    ("<|channel|>final<|message|>Hello!<|return|>", "Hello!", "", []),
    (" to=functions.plan<|channel|>commentary json<|message|>{}<|call|>", "", "", [("plan", "{}")]),
    ("<|channel|>commentary to=functions.plan <|constrain|>json<|message|>{}", "", "", [("plan", "{}")]),
    ("<|start|>assistant<|channel|>commentary to=functions.plan<|message|> {}", "", "", [("plan", "{}")]),
    ("<|channel|>analysis to=functions.plan code<|message|>{}", "", "", [("plan", "{}")]),
    (
        "<|channel|>analysis<|message|>I call.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment."
        "<|end|><|start|>assistant<|channel|>analysis<|message|>Now.<|end|><|start|>assistant to=functions.plan"
        '<|channel|>commentary <|constrain|>json<|message|>{"a": "<|end|>"}<|call|>',
        "One moment.",
        "I call.\n\nNow.",
        [("plan", '{"a": "<|end|>"}')],
    ),
    (
        "<|channel|>commentary<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Two.",
        "One.\n\nTwo.",
        "",
        [],
    ),
    ("<|channel|>analysis<|message|>never en", "", "never en", []),
    ("<|channel|>final<|message|>a < b <|x", "a < b <|x", "", []),
    ("<|channel|>final<|mess", "", "", []),
    ("Hello <b>there</b>.", "Hello <b>there</b>.", "", []),
    ("to be or not", "to be or not", "", []),
    ("<|channel|>" + "x" * 300, "<|channel|>" + "x" * 300, "", []),
    (
        " to=browser.search<|channel|>commentary<|message|>{}",
        " to=browser.search<|channel|>commentary<|message|>{}",
        "",
        [],
    ),
    ("a<|end|><|channel|>final<|message|>\n \nb", "a\n\nb", "", []),
    ("a<|channel|>final<|message|> \n", "a", "", []),
    ("<|channel|>analysis<|message|>a<|end|><|channel|>analysis<|message|> \nb", "", "a\n\nb", []),
    ("json<|message|>hi", "hi", "", []),
    ("<|end|>code<|message|>hi", "hi", "", []),
    ("javascript", "javascript", "", []),
    ("<|constrain|>json<|message|><|channel|>final<|message|>hi", "hi", "", []),
    (" " * 250 + "<|channel|>final<|message|>hi", "hi", "", []),
    ("to=" + "x" * 300 + "<|message|>{}", "to=" + "x" * 300 + "<|message|>{}", "", []),
]


@pytest.mark.parametrize(("text", "said", "thought", "calls"), HARMONIES)
def test_harmony_messages_are_separated_at_every_split(
    text: str, said: str, thought: str, calls: list[tuple[str, str]]
) -> None:
    for at in range(len(text) + 1):
        assert outcome(read(HARMONY, text[:at], text[at:])) == (said, thought, calls)
    assert outcome(read(HARMONY, *text)) == (said, thought, calls)
    parser = text_parser(HARMONY, CALLABLE, None)
    for char in text:
        parser.feed(char)
    parser.finish()
    assert parser.has_complete_calls is bool(calls)


def test_both_kinds_of_python_strings_are_parsed() -> None:
    text = "<|tool_call_start|>[get_weather(city='it\\'s \"x\" \\x41\\n', days = 3 , hot=True)]<|tool_call_end|>"
    ((_, arguments),) = outcome(read(LFM2, text))[2]
    assert json.loads(arguments) == {"city": 'it\'s "x" A\n', "days": 3, "hot": True}


def test_call_ids_are_unique_and_have_the_length_that_the_template_requires() -> None:
    for tool_format in EVERY:
        said = read(tool_format, tool_format.render([call({}), call({})]))
        ids = [event.id for event in said if isinstance(event, ToolCallStart)]
        assert len(set(ids)) == 2
        assert all(len(i) == (tool_format.id_length or 29) for i in ids)


THOUGHTS = [
    ("<think>\nhm, <b>\n</think>\n\nYes.", False, ("Yes.", "hm, <b>")),
    ("\n<think>hm</think>Yes.", False, ("Yes.", "hm")),
    ("hm\n</think>\n\nYes.", True, ("Yes.", "hm")),
    ("<think>\n\n</think>\n\nYes.", False, ("Yes.", "")),
    ("<think>\nnever en", False, ("", "never en")),
    ("never en</thi", True, ("", "never en</thi")),
    ("Use <think> so.", False, ("Use <think> so.", "")),
    (" plain", False, (" plain", "")),
    ("<thi", False, ("<thi", "")),
]


@pytest.mark.parametrize(("text", "begun", "expected"), THOUGHTS)
def test_reasoning_is_separated_at_every_split(text: str, begun: bool, expected: tuple[str, str]) -> None:
    for tools in ((), CALLABLE):
        for at in range(len(text) + 1):
            parser = TextParser(GENERIC, tools, THINK, begun)
            said = [*parser.feed(text[:at]), *parser.feed(text[at:]), *parser.finish()]
            assert outcome(said)[:2] == expected


def test_a_call_counts_after_the_reasoning_but_not_within_it() -> None:
    written = GENERIC.render([call({"city": "x"})])
    parser = TextParser(GENERIC, CALLABLE, THINK)
    said, thought, calls = outcome(list(parse_text(parser, f"<think>{written}</think>\n{written}")))
    assert (said, thought, len(calls)) == ("", written, 1)


STEPS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 2,
    "items": {
        "type": "object",
        "properties": {"what": {"type": "string", "maxLength": 6}, "done": {"type": "boolean"}},
        "required": ["done"],
        "additionalProperties": False,
    },
}
PLAN = {
    "type": "object",
    "properties": {
        "mode": {"enum": ["fast", "slow"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "note": {"type": ["string", "null"], "maxLength": 4},
        "steps": STEPS,
        "unit": {"anyOf": [{"const": "C"}, {"type": "null"}]},
    },
    "required": ["mode", "steps"],
}
WEATHER = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}
TOOLS = [Tool("get_weather", "Tells the weather.", WEATHER), Tool("plan", None, PLAN), Tool("now")]


def check(name: str, arguments: dict[str, Any]) -> None:
    """Checks arguments against their schema by hand."""
    if name == "now":
        assert arguments == {}
    elif name == "get_weather":
        assert list(arguments) == ["city"] and len(arguments["city"]) <= 8
    else:
        assert {"mode", "steps"} <= set(arguments) <= {"mode", "days", "note", "steps", "unit"}
        assert arguments["mode"] in ("fast", "slow") and arguments.get("days", 0) in range(10)
        assert arguments.get("note") is None or len(arguments["note"]) <= 4
        assert arguments.get("unit") in ("C", None) and 1 <= len(arguments["steps"]) <= 2
        for step in arguments["steps"]:
            assert isinstance(step["done"], bool) and set(step) <= {"done", "what"}
            assert len(step.get("what", "")) <= 6


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights, 0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def compiler(weights: Weights) -> GrammarCompiler:
    return GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers)


def grammar_of(tool_format: ToolFormat, tools: list[Tool], **options: Any) -> tuple[str, list[str]]:
    """The grammar of calls of these tools, and the warnings about what it does not enforce."""
    warnings, spell = Warnings(), options.pop("spell", speller({}))
    enforced = [enforced_tool(tool, warnings, complete=tool.strict) for tool in tools]
    return tool_format.grammar(enforced, spell, **{"required": True, "parallel": True} | options), warnings


def walk(weights: Weights, compiler: GrammarCompiler, lark: str, seed: int, spelled: dict[int, bytes]) -> str | None:
    """A random answer that a grammar allows, or `None` if it did not end; closing characters are preferred."""
    rng, grammar, said = np.random.default_rng(seed), compiler.lark(lark), b""
    closing = {t for t in range(weights.vocab_size) if weights.piece(t) in (b'"', b"}", b"]", b")", b"<", b"|", b">")}
    for _ in range(600):
        logits = np.zeros(weights.vocab_size, np.float32)
        grammar.mask(logits)
        allowed = np.flatnonzero(logits > -np.inf).tolist()
        ends = [t for t in allowed if t in weights.end_tokens]
        likely = [t for t in allowed if t in closing or t in spelled] if rng.random() < 0.5 else []
        token = int(rng.choice(ends or likely or allowed))
        if token in weights.end_tokens:
            return said.decode("utf-8", "replace")
        grammar.accept(token)
        said += spelled.get(token) or weights.piece(token)
    return None


def all_allowed(weights: Weights, grammar: Grammar, text: str) -> bool:
    """Whether a grammar accepts a text as a whole answer."""
    for token in [*weights.tokenize(text, parse_special=False), weights.eos]:
        logits = np.zeros(weights.vocab_size, np.float32)
        grammar.mask(logits)
        if logits[token] == -np.inf:
            return False
        grammar.accept(token)
    return True


@pytest.mark.parametrize("control", [False, True], ids=["texts", "control tokens"])
@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_every_answer_that_the_grammar_allows_can_be_parsed(
    weights: Weights, compiler: GrammarCompiler, tool_format: ToolFormat, control: bool
) -> None:
    marks = sorted(
        {tool_format.start_marker.rstrip("["), tool_format.block_end.strip("\n]"), *tool_format.notation.tags} - {""}
    )
    marks = [*tool_format.control_texts] if tool_format is HARMONY else marks
    spare = [weights.tokenize(t, parse_special=True)[0] for t in weights.control_texts if "im_" not in t]
    controls = dict(zip(marks, spare[1:], strict=False)) if control else {}
    lark, _ = grammar_of(tool_format, TOOLS, spell=speller(controls))
    spelled = {token: text.encode() for text, token in controls.items()}
    ended = 0
    for seed in range(12):
        said = walk(weights, compiler, lark, seed, spelled)
        if said is None:
            continue
        ended += 1
        parser = text_parser(tool_format, TOOLS)
        text, _, calls = outcome(list(parse_text(parser, said)))
        assert text == "" and calls and parser.has_complete_calls, said
        for name, arguments in calls:
            check(name, json.loads(arguments))
    assert ended >= 6


@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_the_grammar_accepts_rendered_calls_and_rejects_invalid_ones(
    weights: Weights, compiler: GrammarCompiler, tool_format: ToolFormat
) -> None:
    def takes(text: str, **options: Any) -> bool:
        grammar = compiler.lark(grammar_of(tool_format, TOOLS, **options)[0])
        return all_allowed(weights, grammar, text)

    before = ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant") if tool_format is HARMONY else ("", "")
    hello, number = tool_format.answer_header + "Hello", tool_format.answer_header + "42"
    one, other = call({"city": "x"}), call({}, "now")
    assert takes(tool_format.render([one])) and takes(tool_format.render([one, other]))
    assert not takes(hello) and takes(hello, required=False)
    assert takes(tool_format.render([one, other]), required=False)
    assert tool_format.block_start_optional or takes(
        f"{before[0]}Well:\n{before[1]}" + tool_format.render([one]), required=False
    )
    assert not takes(tool_format.render([one, other]), parallel=False)
    for wrong in (call({"city": "x" * 9}), call({}), call({"town": "x"}), call({"city": "x"}, "no_such_tool")):
        assert not takes(tool_format.render([wrong]))
        assert takes(tool_format.render([wrong]), required=False) is (
            tool_format.block_start_optional and wrong.name == "no_such_tool"
        )
    either = {"alternative": '%json {"type": "integer"}', "required": False}
    assert takes(number, **either) and takes(tool_format.render([one]), **either) and not takes(hello, **either)


UNENFORCED: list[tuple[ToolFormat, Any, str]] = [
    (GEMMA, {"type": "string", "pattern": "^a+$", "format": "hostname"}, "format at #/properties/x"),
    (GEMMA, {"type": "object", "patternProperties": {"^a": {"type": "null"}}}, "patternProperties at #/properties/x"),
    (QWEN_XML, {"type": "string", "enum": ["a", "b"], "pattern": "a"}, "pattern at #/properties/x"),
    (QWEN_XML, {"type": "string", "format": "duration"}, "format at #/properties/x"),
]
UNENFORCED += [
    (tool_format, schema, place)
    for tool_format in EVERY
    for schema, place in (
        ({"type": "array", "uniqueItems": True}, "uniqueItems at #/properties/x"),
        ({"$ref": "#/$defs/none"}, "$ref at #/properties/x"),
        ({"type": "object", "properties": {"y": {"$dynamicRef": "#z"}}}, "$dynamicRef at #/properties/x/properties/y"),
    )
]


@pytest.mark.parametrize(("tool_format", "schema", "place"), UNENFORCED, ids=lambda value: getattr(value, "name", None))
def test_what_is_not_enforced_of_a_tool_is_named_and_refused_if_it_is_strict(
    tool_format: ToolFormat, schema: Any, place: str
) -> None:
    parameters = {"type": "object", "properties": {"x": schema}}
    _, warnings = grammar_of(tool_format, [Tool("f", None, parameters)])
    assert len(warnings) == 1 and warnings[0].startswith(f"the tool 'f': {place} is not enforced: it "), warnings
    with pytest.raises(InvalidRequest) as refused:
        grammar_of(tool_format, [Tool("f", None, parameters, strict=True)])
    assert refused.value.message.startswith(f"the parameters of the tool 'f' cannot be enforced: {place} ")
    assert refused.value.param == "tools"


@pytest.mark.parametrize("tool_format", EVERY, ids=[d.name for d in EVERY])
def test_unknown_keywords_cause_warnings_and_are_ignored(tool_format: ToolFormat) -> None:
    notes = {"$comment": "in degrees", "x-order": 1}
    odd = {"type": "object", "properties": {"x": {"type": "string", "frobnicate": 1, **notes}}, "moods": []}
    plain = {"type": "object", "properties": {"x": {"type": "string"}}}
    larks = [
        re.sub(r'"(frobnicate|moods|\$comment|x-order)": ("[^"]*"|\[\]|1)(, )?', "", lark).replace(", }", "}")
        for lark in (grammar_of(tool_format, [Tool("f", None, schema)])[0] for schema in (odd, plain))
    ]
    assert larks[0] == larks[1]
    _, told = grammar_of(tool_format, [Tool("f", None, odd)])
    assert [word in line for word, line in zip(("moods", "frobnicate"), told, strict=True)] == [True, True]
    assert all("the tool 'f'" in line for line in told)


def test_tagged_values_satisfy_formats_and_definitions(weights: Weights, compiler: GrammarCompiler) -> None:
    schema = {
        "type": "object",
        "properties": {"day": {"type": ["string", "null"], "format": "date"}, "n": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "integer", "minimum": 3}},
    }
    tool = Tool("f", None, schema)
    for arguments, fits in (
        ({"day": '"2024-02-29"', "n": "3"}, True),
        ({"day": '"2023-02-29"'}, False),
        ({"day": "null"}, True),
        ({"n": "2"}, False),
    ):
        written = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
        text = f"<tool_call>\n<function=f>\n{written}</function>\n</tool_call>"
        grammar = compiler.lark(grammar_of(QWEN_XML, [tool])[0])
        assert all_allowed(weights, grammar, text) is fits, arguments


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": 5},
        {"properties": {"x": {"type": "array", "minItems": "a"}}},
        {"required": 3},
        {"properties": {"x": {"enum": 5}}},
        {"properties": {"x": {"$ref": 5}}},
        {"properties": {"x": {"anyOf": 5}}},
    ],
)
def test_invalid_schemas_cause_warnings_or_are_refused_if_strict(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    for tool_format in EVERY:
        lark, warnings = grammar_of(tool_format, [Tool("f", None, schema)])
        compiler.lark(lark)
        assert warnings
        with pytest.raises(InvalidRequest):
            grammar_of(tool_format, [Tool("f", None, schema, strict=True)])


def test_wide_and_deep_schemas_make_small_grammars() -> None:
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    wide = {f"p{i}": {"type": "integer"} for i in range(400)}
    for properties in ({"x": deep}, wide):
        tool = Tool("f", None, {"type": "object", "properties": properties})
        assert len(grammar_of(GEMMA, [tool])[0]) < 200_000


def test_a_schema_may_be_recursive(compiler: GrammarCompiler) -> None:
    tree = {"type": "object", "properties": {"of": {"$ref": "#/$defs/t"}}}
    tool = Tool("f", None, {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}, "$defs": {"t": tree}})
    for tool_format in EVERY:
        compiler.lark(grammar_of(tool_format, [tool])[0])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<tool_call>\n{...}\n</tool_call>", "hermes"),
        ("{{ '<|start_header_id|>ipython<|end_header_id|>' }}", "llama3"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "mistral"),
        ("[TOOL_CALLS][", "mistral-list"),
        ("<|tool_call>call:{{ name }}", "gemma"),
        ("List of tools: <|tool_list_start|>[", "lfm2"),
        ("<|tool|>{{ message['tools'] }}<|/tool|>", "phi"),
        ("<tool_call>\n<function=f>\n<parameter=p>", "qwen-xml"),
        ("<seed:tool_call>\n<function=f>\n<parameter=p>", "seed"),
        ("<function=f>{...}</function>", "generic"),
        ("'<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + name + '\\n```json\\n'", "deepseek"),
        ("'<｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>'", "deepseek-v3"),
        ("']<]minimax[>[<tool_call>'", "generic"),
        ("<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>", "generic"),
        ("<tool_call>f<arg_key>", "glm"),
        ("'<|channel|>analysis<|message|>' + message.thinking + '<|end|>'", "harmony"),
        ('<TOOLCALL>[{{"name": "tool_name1"', "nemotron"),
        ("{{ messages }}", "generic"),
    ],
)
def test_the_tool_format_is_detected_in_the_template(template: str, name: str) -> None:
    assert tool_format_of(template).name == name
