"""Modelfiles of common shapes become presets, and what does not map is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import lora, templates
from fakes.presets import write_presets
from galago.models.errors import ConfigError, GalagoError
from galago.models.modelfile import modelfile_text, parse_modelfile
from galago.models.registry.resolve import builtin_folder, resolve
from galago.runtime.pool.modelfile_presets import PresetValues, preset_instructions
from galago.runtime.pool.presets import KEYS, check_preset

CHATML = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
LLAMA3 = """{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>{{ end }}{{ if .Tools }}tools{{ end }}<|start_header_id|>assistant<|end_header_id|>

"""
GEMMA = "<start_of_turn>user\n{{ .System }} {{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n{{ .Response }}"
MISTRAL = "[INST] {{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} [/INST] {{ .Response }}"
LLAMA2 = "[INST] <<SYS>>{{ .System }}<</SYS>>\n\n{{ .Prompt }} [/INST]\n"


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_presets(tmp_path / "settings", "", monkeypatch)


def preset_of(text: str, folder: Path | None = None) -> PresetValues:
    made = PresetValues(folder or Path())
    made.add_instructions(parse_modelfile(text))
    check_preset("made", made.values)
    return made


def test_the_common_instructions_become_settings() -> None:
    made = preset_of(
        'FROM builtin\nSYSTEM """You are Mario."""\nPARAMETER temperature 0.7\nPARAMETER top_k 40\n'
        "PARAMETER top_p 0.9\n"
        "PARAMETER min_p 0.05\nPARAMETER repeat_penalty 1.1\nPARAMETER seed 42\nPARAMETER num_ctx 1024\n"
        'PARAMETER num_predict 64\nPARAMETER stop "<|im_end|>"\nPARAMETER STOP "\nuser:"\nPARAMETER num_gpu 0\n'
        "PARAMETER num_thread 2\nPARAMETER presence_penalty 0.5\nPARAMETER frequency_penalty -0.5\n"
        "MESSAGE user Hi\nMESSAGE assistant It's me!\nLICENSE MIT\n"
    )
    assert made.values == {
        "model": "builtin",
        "system": "You are Mario.",
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "seed": 42,
        "context": 1024,
        "max_tokens": 64,
        "stop": ["<|im_end|>", "\nuser:"],
        "gpu_layers": 0,
        "threads": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It's me!"}],
        "license": "MIT",
    }
    assert made.warnings == [] and set(made.values) <= set(KEYS)
    preset = check_preset("made", made.values)
    again = preset_of(modelfile_text(preset_instructions(preset)))
    assert again.values == made.values and not again.warnings


def test_values_that_ask_for_the_default_set_nothing() -> None:
    made = preset_of(
        "FROM builtin\nPARAMETER num_predict -1\nPARAMETER seed -1\nPARAMETER num_gpu -1\nPARAMETER num_thread 0\n"
        "PARAMETER top_k 40.0\nPARAMETER repeat_penalty 0\n"
    )
    assert made.values == {"model": "builtin", "top_k": 40, "repeat_penalty": 1}


def test_what_does_not_map_is_named() -> None:
    made = preset_of("FROM builtin\nPARAMETER mirostat 2\nPARAMETER num_keep 4\nRENDERER qwen\nREQUIRES 0.14\n")
    named = ("'mirostat'", "'num_keep'", "RENDERER qwen", "REQUIRES 0.14")
    assert len(made.warnings) == 4
    assert all(name in warning for name, warning in zip(named, made.warnings, strict=True))


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ("temperature hot", "the parameter temperature is 'hot'; it must be a number"),
        ("top_k 1e999", "the parameter top_k is '1e999'; it must be a whole number"),
        ("temperature 1000", "temperature is 1000.0; it must be a number from 0 to 100"),
        ("num_ctx 2", "num_ctx is 2; it must be a whole number of at least 64"),
    ],
)
def test_impossible_values_are_refused(parameter: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        preset_of(f"FROM builtin\nPARAMETER {parameter}\n")


@pytest.mark.parametrize(
    ("template", "name"), [(CHATML, "chatml"), (LLAMA3, "llama3"), (GEMMA, "gemma"), (MISTRAL, "mistral")]
)
def test_templates_of_known_formats_become_built_in_ones(tmp_path: Path, template: str, name: str) -> None:
    base = templates.model_with("{{ messages[0].content }}", tmp_path)
    made = preset_of(f'FROM ./{base.name}\nTEMPLATE """{template}"""\n', tmp_path)
    assert made.values == {"model": str(base), "chat_template": name}
    assert any("does not describe tools" in warning for warning in made.warnings) is (".Tools" in template)


@pytest.mark.parametrize("template", [LLAMA2, "{{ .Prompt }}"])
def test_other_templates_leave_the_model_its_own(template: str) -> None:
    made = preset_of(f'FROM builtin\nTEMPLATE """{template}"""\n')
    assert made.values == {"model": "builtin"}
    assert "the model's own chat template is used" in made.warnings[0]


def test_a_template_of_the_model_s_own_format_changes_nothing() -> None:
    own = resolve("builtin").header.chat_template or ""
    assert "<|im_start|>" in own, "the test needs a model with ChatML"
    made = preset_of(f'TEMPLATE """{CHATML}"""\nFROM builtin\n')
    assert made.values == {"model": "builtin"} and not made.warnings


def test_paths_are_relative_to_the_modelfile(tmp_path: Path) -> None:
    weights, projector = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"
    (tmp_path / "text.gguf").symlink_to(weights)
    (tmp_path / "eyes.gguf").symlink_to(projector)
    adapter = lora.write(tmp_path / "adapter.gguf")
    (tmp_path / "folder").mkdir()
    made = preset_of(
        "FROM ./text.gguf\nFROM eyes.gguf\nFROM other\nADAPTER ./adapter.gguf\nADAPTER ./folder\n", tmp_path
    )
    expected = {"model": str(tmp_path / "text.gguf"), "mmproj": str(tmp_path / "eyes.gguf"), "lora": [str(adapter)]}
    assert made.values == expected
    assert len(made.warnings) == 2
    assert "a second FROM other" in made.warnings[0] and "galago convert" in made.warnings[1]


@pytest.mark.parametrize(
    "text", ["FROM /etc/passwd\n", "FROM ./x\n", "FROM builtin\nADAPTER a.gguf\n", "FROM README\n"]
)
def test_without_a_folder_no_file_can_be_named(text: str) -> None:
    made = PresetValues(None)
    with pytest.raises(GalagoError):
        made.add_instructions(parse_modelfile(text))


def test_a_preset_as_base_gives_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = '[first]\nmodel = "builtin"\naliases = ["x"]\nsystem = "A"\nstop = ["a", "b"]\ntop_k = 3\n'
    write_presets(tmp_path / "settings", written, monkeypatch)
    made = preset_of("FROM first\nSYSTEM B\nPARAMETER stop c\nPARAMETER stop d\n")
    assert made.values == {"model": "builtin", "system": "B", "stop": ["c", "d"], "top_k": 3}
