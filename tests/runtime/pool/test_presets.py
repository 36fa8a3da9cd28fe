"""Presets: names for models with their own settings, for every way to load a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes import lora
from fakes.presets import EVERYTHING, write_presets
from galago.models.errors import ConfigError, NotFound
from galago.runtime import LocalModel, load
from galago.runtime.config import ModelConfig, RequestDefaults
from galago.runtime.pool.presets import KEYS, find_preset, read_presets, resolve_model
from galago.runtime.prompt.named_templates import NAMED_TEMPLATES
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request, Sampling
from galago.runtime.types.tasks import Tokenize

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    return lambda text: write_presets(tmp_path, text, monkeypatch)


def test_every_setting_is_in_the_configuration(written: Written) -> None:
    written(EVERYTHING)
    found = resolve_model("mario", {})
    assert found.files.id == "mario" and found.files.trusted and found.files.projector
    assert found.keep_alive == 5400 and found.aliases == ("it-is-me", "Luigi:latest")
    config = found.config
    assert config.memory and config.memory > 1 << 30
    sampling = Sampling(0.7, 0.9, 5, 0.01, 7, 0.1, 0.2, 1.1, ((5, -100),))
    examples = (("user", "Is it?"), ("assistant", "yes"))
    assert config == ModelConfig(
        context_length=512,
        slots=2,
        threads=1,
        gpu_layers=0,
        kv_type="q8_0",
        flash_attention="on",
        cache_mib=16,
        memory=config.memory,
        chat_template=NAMED_TEMPLATES["plain"],
        request_defaults=RequestDefaults("Answer only yes.", examples, sampling, 3, ("END",)),  # type: ignore[arg-type]
    )
    assert set(find_preset("mario").values) == set(KEYS) - {"mmproj", "lora", "draft"}  # type: ignore[union-attr]


def test_the_guide_shows_a_file_without_problems_and_names_every_key(written: Written) -> None:
    guide = (Path(__file__).parents[3] / "docs/guide/presets.md").read_text("utf-8")
    written(guide.partition("```toml\n")[2].partition("```")[0])
    presets = read_presets()
    assert [preset.name for preset in presets.presets] == ["terse"] and not presets.problems
    rows = [line.split(" | ")[0] for line in guide.splitlines() if line.startswith("| `")]
    assert not [key for key in KEYS if not any(f"`{key}`" in row for row in rows)]


@pytest.mark.parametrize("name", ["mario", "MARIO", "mario:latest", "It-Is-Me", "luigi"])
def test_a_preset_is_found_under_each_of_its_names(written: Written, name: str) -> None:
    written(EVERYTHING)
    assert resolve_model(name, {}).files.id == "mario"


def test_given_options_take_precedence(written: Written) -> None:
    written(EVERYTHING)
    given = {"context_length": 128, "kv_type": "f16", "gpu_layers": -1, "flash_attention": "auto"}
    found = resolve_model("mario", given, "name")
    assert {name: getattr(found.config, name) for name in given} == given
    assert found.config.slots == 2 and found.files.id == "name"


def test_files_are_found_beside_the_file_of_presets(written: Written, tmp_path: Path) -> None:
    path = written(
        '[tuned]\nmodel = "builtin"\nlora = ["one.gguf", "one.gguf:0.5"]\nchat_template = "mine.jinja"\n'
        'draft = "builtin"\nkeep_alive = -1\n'
    )
    adapter = lora.write(path.with_name("one.gguf"))
    path.with_name("mine.jinja").write_text("{{ messages }}")
    found = resolve_model("tuned", {})
    assert [(file.path, file.scale) for file in found.files.adapters] == [(adapter, 1.0), (adapter, 0.5)]
    assert found.config.chat_template == "{{ messages }}" and found.files.draft and found.keep_alive == math.inf


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('temperature = "hot"', "temperature is 'hot'; it must be a number"),
        ("temperature = 1000", "temperature is 1000; it must be a number from 0 to 100"),
        ("top_k = 1.5", "top_k is 1.5; it must be a whole number"),
        ("top_k = true", "top_k is True; it must be a whole number"),
        ("temperatur = 1", "temperatur is not known here; did you mean temperature?"),
        ("context = 1", "context is 1; it must be a whole number of at least 64"),
        ('kv_type = "q5"', "kv_type is 'q5'; use f16, q8_0, q4_0"),
        ("stop = [1]", "stop is [1]; it must be a list of texts"),
        ('stop = ""', "stop has an empty string"),
        ("logit_bias = { x = 1 }", "logit_bias: 'x' is not a token id"),
        ("logit_bias = { 1 = 500 }", "logit_bias is 500; it must be a number from -100.0 to 100.0"),
        ("system = 1", "system is 1; it must be a text"),
        ('messages = [{ role = "tool", content = "x" }]', "messages: each is a table with a role"),
        ('keep_alive = "soon"', "keep_alive is 'soon'; use seconds"),
        ('memory = "much"', "much"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_costs_its_preset_only(
    written: Written, line: str, problem: str
) -> None:
    path = written(f'[bad]\nmodel = "builtin"\n\n# note\n{line}\n[good]\nmodel = "builtin"\n')
    presets = read_presets()
    assert [preset.name for preset in presets.presets] == ["good"]
    (text,) = presets.problems
    assert text.startswith(f"{path}, line 5: ") and problem in text and "the preset 'bad' is left out" in text
    with pytest.raises(ConfigError, match=r"the preset 'bad' has an error: .*line 5: "):
        resolve_model("bad", {})
    assert resolve_model("good", {}).files.id == "good"
    assert resolve_model("builtin", {}).config == ModelConfig()


def test_a_missing_base_model_is_named_with_the_preset(written: Written) -> None:
    written('[bad]\nmodel = "no-such-model"\n')
    with pytest.raises(NotFound, match="^the preset 'bad': .*no-such-model"):
        resolve_model("bad", {})


def test_a_preset_may_have_the_name_of_its_base(written: Written, tmp_path: Path) -> None:
    written('[smol]\nmodel = "smol"\n')
    with pytest.raises(NotFound, match="^the preset 'smol': "):
        resolve_model("smol", {})


def tokens(model: LocalModel, *messages: tuple[str, str]) -> int:
    request = Request(tuple(Message(role, (Text(text),)) for role, text in messages))  # type: ignore[arg-type]
    return len(model._service.run_task(None, Tokenize(request)).ids)


@pytest.mark.parametrize("isolated", [False, True])
def test_chats_get_what_they_do_not_say(written: Written, model: LocalModel, isolated: bool) -> None:
    written(
        '[short]\nmodel = "builtin"\nthreads = 1\nsystem = "Count."\nmax_tokens = 4\nstop = ["3"]\n'
        'messages = [{ role = "user", content = "one" }, { role = "assistant", content = "two" }]\n'
        "temperature = 0.3\n"
    )
    examples = (("user", "one"), ("assistant", "two"))
    with load("short", isolated=isolated, slots=1) as short:
        assert short.info.id == "short" and short.info.sampling.temperature == 0.3
        question = ("user", "three")
        assert tokens(short, question) == tokens(model, ("system", "Count."), *examples, question)
        own = ("system", "Be quiet.")
        assert tokens(short, own, question) == tokens(model, own, *examples, question)
        assert tokens(short, ("developer", "x"), question) == tokens(model, ("developer", "x"), *examples, question)
        assert short.chat("What is 5 plus 5?", temperature=0).usage.completion_tokens <= 4
        reply = short.chat("hello", ignore_eos=True, temperature=0, max_tokens=6, stop="\x01")
        assert reply.usage.completion_tokens == 6


def test_a_preset_s_stop_texts_end_answers_unless_a_request_has_its_own(written: Written, model: LocalModel) -> None:
    written('[cut]\nmodel = "builtin"\nthreads = 1\nstop = ["al"]\n')
    whole = model.chat("Opposite of big?", temperature=0)
    assert "al" in whole
    with load("cut", slots=1) as cut:
        assert cut.chat("Opposite of big?", temperature=0) == whole.partition("al")[0]
        assert cut.chat("Opposite of big?", temperature=0, stop="\x01") == whole


def test_a_preset_loads_a_model_as_the_same_options_of_load_do(written: Written, model: LocalModel) -> None:
    path = written(
        '[tuned]\nmodel = "builtin"\nlora = "one.gguf:2"\nchat_template = "plain"\nkv_type = "q8_0"\ncontext = 256\n'
        'draft = "builtin"\nthreads = 1\nparallel = 1\n'
    )
    adapter = lora.write(path.with_name("one.gguf"))
    question = ("user", "Opposite of big?")
    with (
        load("tuned") as tuned,
        load(
            "builtin",
            lora=[f"{adapter}:2"],
            chat_template="plain",
            kv_type="q8_0",
            ctx=256,
            draft="builtin",
            threads=1,
            slots=1,
        ) as same,
    ):
        assert tuned.info.context_length == same.info.context_length == 256
        assert tokens(tuned, question) == tokens(same, question) != tokens(model, question)
        answers = [loaded.chat(question[1], temperature=0, max_tokens=12) for loaded in (tuned, same, model)]
        assert answers[0] == answers[1] != answers[2]
