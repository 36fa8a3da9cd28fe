"""Tool calls in every dialect: read right however the stream is split, and as the grammar allows them."""

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
from galago.runtime.output.text_parser import TextParser, reading, text_parser
from galago.runtime.output.tool_formats.detect import DIALECTS, tool_format_of
from galago.runtime.output.tool_formats.gemma import GEMMA
from galago.runtime.output.tool_formats.generic import GENERIC
from galago.runtime.output.tool_formats.glm import GLM
from galago.runtime.output.tool_formats.harmony import HARMONY
from galago.runtime.output.tool_formats.lfm2 import LFM2
from galago.runtime.output.tool_formats.llama3 import LLAMA3
from galago.runtime.output.tool_formats.qwen_xml import QWEN_XML
from galago.runtime.output.tool_formats.tool_format import ToolFormat, speller, unknown_keywords
from galago.runtime.types.events import Delta, OutputDelta, ToolCallStart
from galago.runtime.types.messages import Tool, ToolCall

EVERY = [*DIALECTS, GENERIC]
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
"""Ten times eleven make 110 transcripts a dialect."""
THINK = ReasoningTags("<think>", "</think>")


def call(arguments: dict[str, Any], name: str = "get_weather") -> ToolCall:
    return ToolCall("call_1", name, json.dumps(arguments))


def read(dialect: ToolFormat, *pieces: str) -> list[OutputDelta]:
    reader = text_parser(dialect, CALLABLE, THINK)
    said = [event for piece in pieces for event in reader.feed(piece)]
    return [*said, *reader.finish()]


def outcome(said: list[OutputDelta]) -> tuple[str, str, list[tuple[str, str]]]:
    whole = AssembledAnswer()
    for event in said:
        whole.add(event)
    return whole.text, whole.thoughts, [(c.name, c.arguments) for c in whole.calls]


def spaced(dialect: ToolFormat, gap: str) -> ToolFormat:
    """A dialect as a model writes it that is careless of white space."""
    texts = ("opening", "head", "middle", "tail", "closing", "between")
    written = {text: re.sub(r"[\s·]+", gap, getattr(dialect, text) or "") for text in texts}
    return replace(dialect, **written | {"between": written["between"] or None})


def thinking(dialect: ToolFormat, one: str) -> str:
    """A call, and in a thought before it what would be one elsewhere; in Harmony a message that looks like none."""
    if dialect is HARMONY:
        return f"<|channel|>analysis<|message|>hm, {{}} <b>\n<|end|><|start|>assistant{one}"
    return f"<think>\n{one}\n</think>\n\n{one}"


def transcript(dialect: ToolFormat, form: str, arguments: dict[str, Any]) -> tuple[str, str, list[dict[str, Any]]]:
    """What a model wrote, what it said in it, and the arguments of its calls that are whole."""
    one = dialect.write([call(arguments)])
    match form:
        case "with text before" if not dialect.bare:
            return f"Let me <see>: [1] {{2}}\n\n{one}", "Let me <see>: [1] {2}", [arguments]
        case "with text before":
            return f"Let me see: {one}", f"Let me see: {one}", []
        case "with text behind":
            return f"{one}\nThere you are: {{}} </see>", "\nThere you are: {} </see>", [arguments]
        case "behind a thought":
            return thinking(dialect, one), "", [arguments]
        case "three in a row":
            three = [call(arguments), call(ROM, "plan"), call(arguments)]
            return dialect.write(three), "", [arguments, ROM, arguments]
        case "spaced widely":
            return spaced(dialect, " \n\t").write([call(arguments)]), "", [arguments]
        case "spaced closely":
            return spaced(dialect, "").write([call(arguments)]), "", [arguments]
        case "parallel":
            return dialect.write([call(arguments), call(ROM, "plan")]), "", [arguments, ROM]
        case "cut in arguments":
            two = dialect.write([call(arguments), call(ROM, "plan")])
            return two[: two.rindex("Rom") + 1], "", [arguments]
        case "cut in the name":
            opening = one[: one.index("get_weather") + 4]
            return opening, opening if dialect.bare else "", []
        case "with white space around":
            return f"\n {one}\n\n", "", [arguments]
    return one, "", [arguments]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_a_transcript_is_read_right_at_every_split(dialect: ToolFormat, form: str) -> None:
    for arguments in ARGUMENTS:
        text, said, calls = transcript(dialect, form, arguments)
        whole = outcome(read(dialect, text))
        thought = "hm, {} <b>" if dialect is HARMONY else dialect.write([call(arguments)])
        assert whole[:2] == (said, thought if form == "behind a thought" else "")
        named = ["plan" if a == ROM else "get_weather" for a in calls]
        assert [(name, json.loads(a)) for name, a in whole[2][: len(calls)]] == list(zip(named, calls, strict=True))
        assert len(whole[2]) == len(calls) + (form == "cut in arguments")
        if form == "cut in arguments":
            assert '{"city": "Rom"}'.startswith(whole[2][-1][1].removesuffix('"')) and "R" in whole[2][-1][1]
        assert outcome(read(dialect, *text)) == whole
        for at in range(len(text)):
            assert outcome(read(dialect, text[:at], text[at:])) == whole, text[:at]


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_what_stands_around_calls_does_not_depend_on_the_split(dialect: ToolFormat, data: st.DataObject) -> None:
    marks = [dialect.opening, dialect.closing, dialect.head, "get_weather", "{", "}", '"', "\n", "a", "<", "[", "é"]
    pieces = data.draw(st.lists(st.sampled_from([*marks, dialect.write([call({"city": "x"})])]), max_size=8))
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    split = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert outcome(read(dialect, *split)) == outcome(read(dialect, text))


@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_text_is_passed_on_at_once_and_arguments_as_they_come(dialect: ToolFormat) -> None:
    reader = text_parser(dialect, CALLABLE)
    assert reader.feed("Hello there") == [Delta("Hello there")]
    reader = text_parser(dialect, CALLABLE)
    deltas = [reader.feed(char) for char in dialect.write([call({"city": "Bern", "days": 12})])]
    assert sum(map(bool, deltas)) > 10
    assert reader.called


@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_what_looks_like_a_call_of_no_tool_is_text(dialect: ToolFormat) -> None:
    text = dialect.write([call({"city": "x"}, "no_such_tool")])
    assert outcome(read(dialect, text))[::2] == (text, [])
    plain = list(reading(text_parser(dialect), dialect.write([call({"city": "x"})])))
    assert outcome(plain)[2] == []


def test_an_answer_in_json_is_no_call() -> None:
    for text in ('{"name": "Ada", "age": 36}', '{"a": 1}', "{", '{"name": "get_wea'):
        assert outcome(read(LLAMA3, text)) == (text, "", [])


def test_an_answer_that_goes_on_from_a_text_is_no_bare_call() -> None:
    reader = TextParser(LLAMA3, CALLABLE, goes_on=True)
    text = LLAMA3.write([call({"city": "x"})])
    assert outcome(list(reading(reader, text))) == (text, "", [])


def test_text_behind_calls_is_text() -> None:
    text = GENERIC.write([call({"city": "x"})]) + "\nThere you are."
    assert outcome(read(GENERIC, text))[0] == "\nThere you are."


def test_glms_tags_may_stand_close_or_apart() -> None:
    tool = Tool("f", None, {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})
    for gap in ("", "\n", " \n "):
        key, value = f"<arg_key>city</arg_key>{gap}<arg_value> Bern\n</arg_value>", "<arg_key>days</arg_key><arg_value>"
        text = f"<think></think>{gap}<tool_call>f{gap}{key}{gap}{value}3</arg_value>{gap}</tool_call>"
        for at in range(len(text)):
            reader = TextParser(GLM, [tool], THINK)
            said = outcome([*reader.feed(text[:at]), *reader.feed(text[at:]), *reader.finish()])
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
]


@pytest.mark.parametrize(("text", "said", "thought", "calls"), HARMONIES)
def test_messages_of_harmony_are_told_apart_at_every_split(
    text: str, said: str, thought: str, calls: list[tuple[str, str]]
) -> None:
    for at in range(len(text) + 1):
        assert outcome(read(HARMONY, text[:at], text[at:])) == (said, thought, calls)
    assert outcome(read(HARMONY, *text)) == (said, thought, calls)
    reader = text_parser(HARMONY, CALLABLE, None)
    for char in text:
        reader.feed(char)
    reader.finish()
    assert reader.called is bool(calls)


def test_python_strings_of_either_kind_are_read() -> None:
    text = "<|tool_call_start|>[get_weather(city='it\\'s \"x\" \\x41\\n', days = 3 , hot=True)]<|tool_call_end|>"
    ((_, arguments),) = outcome(read(LFM2, text))[2]
    assert json.loads(arguments) == {"city": 'it\'s "x" A\n', "days": 3, "hot": True}


def test_ids_differ_and_are_as_long_as_the_template_takes_them() -> None:
    for dialect in EVERY:
        said = read(dialect, dialect.write([call({}), call({})]))
        ids = [event.id for event in said if isinstance(event, ToolCallStart)]
        assert len(set(ids)) == 2
        assert all(len(i) == (dialect.id_length or 29) for i in ids)


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
def test_thoughts_are_told_apart_at_every_split(text: str, begun: bool, expected: tuple[str, str]) -> None:
    for tools in ((), CALLABLE):
        for at in range(len(text) + 1):
            reader = TextParser(GENERIC, tools, THINK, begun)
            said = [*reader.feed(text[:at]), *reader.feed(text[at:]), *reader.finish()]
            assert outcome(said)[:2] == expected


def test_a_call_in_a_thought_is_none_and_one_behind_it_is() -> None:
    written = GENERIC.write([call({"city": "x"})])
    reader = TextParser(GENERIC, CALLABLE, THINK)
    said, thought, calls = outcome(list(reading(reader, f"<think>{written}</think>\n{written}")))
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
    """That arguments are what their schema asks, judged without one."""
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


def walk(weights: Weights, compiler: GrammarCompiler, lark: str, seed: int, spelled: dict[int, bytes]) -> str | None:
    """An answer drawn from what a grammar allows, `None` where it found no end; ends of things are preferred."""
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
    """Whether a grammar takes a text, and its end."""
    for token in [*weights.tokenize(text, parse_special=False), weights.eos]:
        logits = np.zeros(weights.vocab_size, np.float32)
        grammar.mask(logits)
        if logits[token] == -np.inf:
            return False
        grammar.accept(token)
    return True


@pytest.mark.parametrize("control", [False, True], ids=["texts", "control tokens"])
@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_what_the_grammar_allows_is_read_back(
    weights: Weights, compiler: GrammarCompiler, dialect: ToolFormat, control: bool
) -> None:
    marks = sorted({dialect.marker.rstrip("["), dialect.closing.strip("\n]"), *dialect.notation.marks} - {""})
    marks = [*dialect.markers] if dialect is HARMONY else marks
    spare = [weights.tokenize(t, parse_special=True)[0] for t in weights.control_texts if "im_" not in t]
    controls = dict(zip(marks, spare[1:], strict=False)) if control else {}
    lark = dialect.lark(TOOLS, speller(controls), required=True, parallel=True)
    spelled = {token: text.encode() for text, token in controls.items()}
    ended = 0
    for seed in range(12):
        said = walk(weights, compiler, lark, seed, spelled)
        if said is None:
            continue
        ended += 1
        reader = text_parser(dialect, TOOLS)
        text, _, calls = outcome(list(reading(reader, said)))
        assert text == "" and calls and reader.called, said
        for name, arguments in calls:
            check(name, json.loads(arguments))
    assert ended >= 6


@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_the_grammar_takes_what_the_dialect_writes_and_nothing_broken(
    weights: Weights, compiler: GrammarCompiler, dialect: ToolFormat
) -> None:
    def takes(text: str, **options: Any) -> bool:
        grammar = compiler.lark(dialect.lark(TOOLS, speller({}), **{"required": True, "parallel": True} | options))
        return all_allowed(weights, grammar, text)

    before = ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant") if dialect is HARMONY else ("", "")
    hello, number = dialect.preface + "Hello", dialect.preface + "42"
    one, other = call({"city": "x"}), call({}, "now")
    assert takes(dialect.write([one])) and takes(dialect.write([one, other]))
    assert not takes(hello) and takes(hello, required=False)
    assert takes(dialect.write([one, other]), required=False)
    assert dialect.bare or takes(f"{before[0]}Well:\n{before[1]}" + dialect.write([one]), required=False)
    assert not takes(dialect.write([one, other]), parallel=False)
    for wrong in (call({"city": "x" * 9}), call({}), call({"town": "x"}), call({"city": "x"}, "no_such_tool")):
        assert not takes(dialect.write([wrong]))
        assert takes(dialect.write([wrong]), required=False) is (dialect.bare and wrong.name == "no_such_tool")
    either = {"instead": '%json {"type": "integer"}', "required": False}
    assert takes(number, **either) and takes(dialect.write([one]), **either) and not takes(hello, **either)


def test_what_a_notation_cannot_enforce_is_refused_by_name() -> None:
    for schema, keyword in (
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "string"}]}, "oneOf"),
        ({"$ref": "#/$defs/none"}, "ref"),
    ):
        tool = Tool("f", None, {"type": "object", "properties": {"x": schema}})
        with pytest.raises(InvalidRequest, match=keyword):
            GEMMA.lark([tool], speller({}), required=True, parallel=True)


@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_what_is_refused_names_the_tool_in_the_same_words(dialect: ToolFormat) -> None:
    tool = Tool("f", None, {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}})
    with pytest.raises(InvalidRequest, match="^the parameters of the tool 'f' cannot be enforced: uniqueItems"):
        dialect.lark([tool], speller({}), required=True, parallel=True)


@pytest.mark.parametrize("dialect", EVERY, ids=[d.name for d in EVERY])
def test_unknown_keywords_are_told_and_change_nothing(dialect: ToolFormat) -> None:
    notes = {"$comment": "in degrees", "x-order": 1}
    odd = {"type": "object", "properties": {"x": {"type": "string", "frobnicate": 1, **notes}}, "moods": []}
    plain = {"type": "object", "properties": {"x": {"type": "string"}}}
    larks = [
        re.sub(r'"(frobnicate|moods|\$comment|x-order)": ("[^"]*"|\[\]|1)(, )?', "", lark).replace(", }", "}")
        for lark in (
            dialect.lark([Tool("f", None, schema)], speller({}), required=True, parallel=True)
            for schema in (odd, plain)
        )
    ]
    assert larks[0] == larks[1]
    told = unknown_keywords(Tool("f", None, odd))
    assert [word in line for word, line in zip(("frobnicate", "moods"), told, strict=True)] == [True, True]
    assert all("the tool 'f'" in line for line in told)


def test_values_between_tags_keep_to_formats_and_definitions(weights: Weights, compiler: GrammarCompiler) -> None:
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
        grammar = compiler.lark(QWEN_XML.lark([tool], speller({}), required=True, parallel=False))
        assert all_allowed(weights, grammar, text) is fits, arguments
    for reference in ("#", "#/properties/day", "other.json"):
        with pytest.raises(InvalidRequest, match=r"\$ref"):
            there = Tool("f", None, {"type": "object", "properties": {"x": {"$ref": reference}, "day": {}}})
            QWEN_XML.lark([there], speller({}), required=True, parallel=True)


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
def test_what_is_no_schema_is_refused(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    for dialect in EVERY:
        with pytest.raises(InvalidRequest):
            compiler.lark(dialect.lark([Tool("f", None, schema)], speller({}), required=True, parallel=True))


def test_a_schema_of_many_or_deep_properties_makes_no_flood_of_rules() -> None:
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    wide = {f"p{i}": {"type": "integer"} for i in range(400)}
    for properties in ({"x": deep}, wide):
        tool = Tool("f", None, {"type": "object", "properties": properties})
        assert len(GEMMA.lark([tool], speller({}), required=True, parallel=True)) < 200_000


def test_a_schema_may_speak_of_itself(compiler: GrammarCompiler) -> None:
    tree = {"type": "object", "properties": {"of": {"$ref": "#/$defs/t"}}}
    tool = Tool("f", None, {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}, "$defs": {"t": tree}})
    for dialect in EVERY:
        compiler.lark(dialect.lark([tool], speller({}), required=True, parallel=True))


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
def test_the_dialect_is_found_in_the_template(template: str, name: str) -> None:
    assert tool_format_of(template).name == name
