"""A settings folder with presets, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

EVERYTHING = """
[mario]
model = "builtin"
aliases = ["it-is-me", "Luigi:latest"]
system = "Answer only yes."
messages = [{ role = "user", content = "Is it?" }, { role = "assistant", content = "yes" }]
temperature = 0.7
top_p = 0.9
top_k = 5
min_p = 0.01
seed = 7
repeat_penalty = 1.1
frequency_penalty = 0.1
presence_penalty = 0.2
logit_bias = { 5 = -100 }
max_tokens = 3
stop = "END"
context = 512
parallel = 2
threads = 1
gpu_layers = 0
kv_type = "q8_0"
flash_attention = "on"
chat_template = "plain"
cache_ram = 16
memory = "90%"
keep_alive = "1h30m"
license = "MIT"
"""
"""A preset with every setting that needs no further file."""


def write_presets(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `folder` the settings folder of this process and its children, with these presets; returns their file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    path = folder / "galago/models.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path
