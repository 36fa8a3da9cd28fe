"""Rotary position settings are read from each of their names, and refused if they are impossible or contradict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galago.models.errors import ModelError
from galago.quantize.convert.json_config import JSONConfig
from galago.quantize.convert.rope import RopeConfig, read_rope

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
BASE = {"rope_theta": 5e5, "rope_type": "default"}
BOTH = "rope_parameters and rope_scaling contradict each other"


def rope(**config: Any) -> RopeConfig:
    return read_rope(JSONConfig(Path("config.json"), config), 8, 256)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"rope_theta": 5e5}, None),
        ({"rope_parameters": BASE, "rope_scaling": None}, None),
        ({"rope_parameters": BASE | YARN}, "yarn"),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        ({"rope_parameters": BASE | YARN, "rope_scaling": YARN, "rope_theta": 5e5}, "yarn"),
        ({"rope_parameters": {"full_attention": BASE, "sliding_attention": {}}}, None),
    ],
)
def test_settings_are_read_under_both_names(config: dict[str, Any], kind: str | None) -> None:
    metadata = rope(**config).metadata
    assert metadata["rope.freq_base"] == 5e5 and metadata.get("rope.scaling.type") == kind


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"rope_parameters": BASE, "rope_scaling": YARN}, BOTH),
        ({"rope_parameters": BASE | YARN, "rope_scaling": YARN | {"factor": 2.0}}, BOTH),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0, not a positive number"),
        ({"rope_scaling": YARN | {"factor": -4.0}}, "factor is -4, not a positive number"),
        ({"rope_scaling": YARN | {"attention_factor": 0}}, "attention_factor is 0, not a positive number"),
        ({"rope_scaling": YARN | {"truncate": False}}, "truncate"),
        ({"rope_theta": 0}, "rope_theta is 0, not a positive number"),
    ],
)
def test_settings_that_are_impossible_or_contradict_each_other_are_refused(
    config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        rope(**config)
